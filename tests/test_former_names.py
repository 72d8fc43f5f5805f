"""Former names of modules give what the present ones hold, warn, and let dumps of an earlier version load."""

import importlib
import pickle
import re
import subprocess
import sys
import warnings
from pathlib import Path

import numpy as np
import pytest
from sklearn.pipeline import make_pipeline

import expunge
import expunge.accounting
from expunge._former_names import FORMER_NAMES, HIDDEN
from expunge.data import ConstantScaler
from expunge.runs.ridge import LearningLaw, exact_quotes

FOLDER = Path(expunge.__file__).parent


@pytest.mark.parametrize(("former", "present"), FORMER_NAMES.items())
def test_former_names_warn_and_give_the_same(former: str, present: str) -> None:
    assert not list(FOLDER.glob(f"{former.replace('.', '/')}*.py"))
    module, home = (importlib.import_module(f"expunge.{name}") for name in (former, present))
    names = getattr(home, "__all__", None) or [name for name in vars(home) if not name.startswith("__")]
    assert names
    for name in names:
        with pytest.warns(
            DeprecationWarning, match=rf"^expunge\.{re.escape(former)} is now expunge\.{present}$"
        ) as said:
            assert getattr(module, name) is getattr(home, name)
        assert said[0].filename == __file__  # the line of who used the former name


def test_modules_inside_renamed_packages_follow_them() -> None:
    for former, present in (("datasets.loading", "data.loading"), ("ridge.exact", "runs.ridge.exact")):
        module, home = (importlib.import_module(f"expunge.{name}") for name in (former, present))
        with pytest.warns(DeprecationWarning, match=rf"is now expunge\.{present}$"):
            assert module.__all__ == home.__all__ if hasattr(home, "__all__") else module.exact_quotes is exact_quotes


def test_a_former_module_wins_over_a_present_one_of_its_name() -> None:
    from expunge.ridge import law  # runs/ridge/law.py is another

    with pytest.warns(DeprecationWarning, match=r"expunge\.runs\.ridge\.spectral"):
        assert law.LearningLaw is LearningLaw


@pytest.mark.parametrize(
    "name", ["ridge.exact_quotes", "datasets.load", "scaling.ConstantScaler", "ridge.law.LearningLaw"]
)
def test_former_names_are_attributes_of_the_package(name: str) -> None:
    program = f"import expunge; print(expunge.{name}.__name__)"
    done = subprocess.run([sys.executable, "-W", "default", "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == name.rpartition(".")[2]
    assert "DeprecationWarning" in done.stderr


def test_importing_the_package_alone_says_nothing_of_former_names() -> None:
    program = (
        "import sys, expunge, expunge.cli.main; print([n for n in ('sklearn', 'expunge.data') if n in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-W", "error", "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_a_function_keeps_its_place_where_a_module_had_its_name() -> None:
    assert HIDDEN == "accounting.privacy_loss"
    importlib.import_module(f"expunge.{HIDDEN}")
    assert expunge.accounting.privacy_loss([[1.0]], **SETTING) > 0
    with pytest.warns(DeprecationWarning, match=r"expunge\.accounting\.rdp\.privacy_loss"):
        from expunge.accounting.privacy_loss import StepCost
    assert StepCost is expunge.accounting.StepCost
    assert callable(expunge.accounting.privacy_loss)


SETTING = {
    "order": 2.0,
    "noise_std": 1.0,
    "step_size": 0.1,
    "sampling_probability": 0.5,
    "batch_size": 1.0,
    "steps": [0],
    "n_steps": 1,
}


@pytest.mark.parametrize("name", ["nothing", "datasets.nothing", "accounting.nothing", "ridge.exact.nothing"])
def test_other_names_are_absent(name: str) -> None:
    with pytest.raises(ModuleNotFoundError, match=name.replace(".", r"\.")):
        importlib.import_module(f"expunge.{name}")
    module = importlib.import_module("expunge.datasets")
    with pytest.raises(AttributeError, match="nothing"):
        _ = module.nothing


def formerly(pickled: bytes) -> bytes:
    """Return a pickle of protocol 0 with the module of every class under its former name."""
    for former, present in FORMER_NAMES.items():
        if former not in ("datasets", "ridge", "scaling"):
            pickled = pickled.replace(f"cexpunge.{present}\n".encode(), f"cexpunge.{former}\n".encode())
    moved = {"data.scaling": "scaling", "data.": "datasets.", "runs.ridge.": "ridge."}
    for present, former in moved.items():
        pickled = pickled.replace(f"cexpunge.{present}".encode(), f"cexpunge.{former}".encode())
    # Parts of a certificate were defined beside it.
    return pickled.replace(b"cexpunge.certificates.document\n", b"cexpunge.certificates.certificate\n")


def test_dumps_of_an_earlier_version_load() -> None:
    g = np.random.default_rng(0)
    X = g.uniform(size=(30, 3))
    y = X @ [1.0, 2.0, 3.0] + 0.1 * g.normal(size=30)
    scaler = ConstantScaler([0.0] * 3, [1.0] * 3)
    model = make_pipeline(scaler, expunge.LangevinRidge(noise_std=0.05, n_steps=60)).fit(X, y)
    law = LearningLaw(X, y[:, None], alpha=1.0, step_size=0.01, n_steps=60, noise_std=0.05)
    dump = formerly(pickle.dumps((model, model[-1].unlearn(3, epsilon=1.0, delta=1e-5, n_steps=30), law), protocol=0))
    for module in (
        b"scaling",
        b"ridge.law",
        b"accounting.ridge_law",
        b"certificates.constants",
        b"certificates.run",
        b"_backend",
    ):
        assert b"cexpunge." + module + b"\n" in dump
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        loaded, unlearned, loaded_law = pickle.loads(dump)
    assert {warning.category for warning in said} == {DeprecationWarning}
    np.testing.assert_array_equal(loaded.predict(X), model.predict(X))
    transformed = model[:-1].transform(X)
    unlearned.certificate.verify(transformed, y, unlearned.model)
    settings = {"epsilon": 1.0, "delta": 1e-5, "n_steps": 30}
    quotes = [exact_quotes(each, [0, 1], **settings).noise_std for each in (law, loaded_law)]
    np.testing.assert_array_equal(*quotes)
