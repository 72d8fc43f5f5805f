"""A kind of run of one's own: certificates of it are issued, read, verified and entered, and nothing there knows it."""

import ast
import copy
import dataclasses
import json
import subprocess
import sys
from pathlib import Path
from typing import ClassVar

import numpy as np
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from scipy import stats

import expunge
from expunge.accounting import gdp_delta
from expunge.certificates import (
    Certificate,
    CertificateError,
    Policy,
    VerificationError,
    certificate_schema,
    model_digest,
)
from expunge.data.constants import CONDITIONS
from expunge.ledger import Ledger
from expunge.runs import Deltas, RunError, register, registry, run_class
from expunge.runs.base import LEAST_P_VALUE
from expunge.runs.ridge import RidgeRun

GOLDEN = Path(__file__).parent / "golden"


@dataclasses.dataclass(frozen=True)
class Sums:
    """P and Q of a `NoisySum`: where they lie, and whether a deleted row is zero."""

    p: np.ndarray
    q: np.ndarray
    warnings: tuple[str, ...] = ()


@dataclasses.dataclass(frozen=True)
class NormalLaw:
    """Independent normals."""

    mean: np.ndarray
    noise_std: float

    def p_value(self, parameters):
        """Return the p-value of the distance from the mean."""
        return float(stats.chi2.sf(np.sum((parameters - self.mean) ** 2) / self.noise_std**2, self.mean.size))


@dataclasses.dataclass(frozen=True)
class NoisySum:
    """One Gaussian mechanism: the sum of the rows, of the deleted ones a share only, with noise.

    P and Q are ``share * norm(sum of the deleted rows) / noise_std`` standard deviations apart.
    """

    kind: ClassVar[str] = "noisy-sum"
    methods: ClassVar[tuple[str, ...]] = ("exact", "doubled")
    reference: ClassVar[str] = "P is the noisy sum with a share of the deleted rows, Q that without them."

    share: float
    noise_std: float
    n_records: int
    n_features: int
    deleted: tuple[int, ...]
    from_data: bool = False
    classes: ClassVar[None] = None

    @classmethod
    def schema(cls):
        number = {"type": "number", "minimum": 0}
        count = {"type": "integer", "minimum": 1}
        properties = {
            "share": number,
            "noise_std": number,
            "n_records": count,
            "n_features": count,
            "deleted": {"type": "array", "minItems": 1, "items": {"type": "integer", "minimum": 0}},
            "from_data": {"type": "boolean"},
        }
        return {
            "type": "object",
            "additionalProperties": False,
            "required": list(properties),
            "properties": properties,
        }

    def to_dict(self):
        return {**dataclasses.asdict(self), "deleted": list(self.deleted)}

    @classmethod
    def from_dict(cls, values):
        if values["share"] > 1:
            raise RunError("run.share", f"must be at most 1, got {values['share']}")
        return cls(**{**values, "deleted": tuple(values["deleted"])})

    def summary(self):
        return f"sum with noise_std = {self.noise_std:g}"

    def history(self):
        return [{"added": self.n_records}, {"removed": list(self.deleted)}]

    def conditions(self):
        return (CONDITIONS["noise_std"],) if self.from_data else ()

    def notes(self):
        return ("a toy",)

    def work(self, *, method):
        return float(self.n_records * self.n_features)

    def failure_probability(self, *, method, delta):
        return None if method == "exact" else delta / 10

    def check(self, X, y, *, conditions):
        if np.shape(X) != (self.n_records, self.n_features):
            raise RunError("run.n_records", f"must be those of the data, {np.shape(X)}, got {self.n_records}")
        kept = np.delete(X, self.deleted, axis=0).sum(axis=0)
        gone = np.asarray(X)[list(self.deleted)].sum(axis=0)
        return Sums(kept + self.share * gone, kept, () if gone.any() else ("the deleted rows are zero",))

    def deltas(self, problem, *, method, epsilon, delta_s):
        if self.noise_std == 0:
            raise RunError("run.noise_std", "must be > 0, got 0: there is no guarantee")
        delta = float(gdp_delta(np.linalg.norm(problem.p - problem.q) / self.noise_std, epsilon=epsilon))
        return Deltas(delta, delta) if method == "exact" else Deltas(2 * delta + delta_s, 2 * delta + delta_s)

    def parameters(self, model):
        return np.asarray(model, dtype=float)

    def law_of_release(self, problem):
        return NormalLaw(problem.p, self.noise_std)


X = np.random.default_rng(3).normal(size=(9, 4))
Y = np.zeros(9)
RUN = NoisySum(share=0.25, noise_std=2.0, n_records=9, n_features=4, deleted=(2,))
MODEL = X.sum(axis=0) - 0.75 * X[2] + [1.0, -2.0, 0.5, 2.0]
CLAIM = {"epsilon": 1.0, "delta": 0.01}


@pytest.fixture(autouse=True)
def registered(monkeypatch):
    monkeypatch.setattr(registry, "_KINDS", dict(registry._KINDS))
    register(NoisySum)
    register(NoisySum)  # once more changes nothing


def issue(run=RUN, model=MODEL, **changes):
    return Certificate.create(X=X, y=Y, model=model, run=run, **{**CLAIM, **changes})


def test_a_new_kind_of_run_is_issued_saved_loaded_verified_and_reported(tmp_path):
    private = Ed25519PrivateKey.generate()
    public = private.public_key()
    issue().sign(private).save(tmp_path / "certificate.json")
    certificate = Certificate.load(tmp_path / "certificate.json")
    assert certificate.run == RUN
    assert (certificate.kind, certificate.version) == ("noisy-sum", 2)
    assert certificate.to_dict()["claim"]["reference"] == NoisySum.reference
    report = certificate.verify(X, Y, MODEL, policy=Policy(max_epsilon=1.0, max_delta=0.01, public_key=public))
    expected = float(gdp_delta(0.25 * np.linalg.norm(X[2]) / 2.0, epsilon=1.0))
    assert report.delta_pq == report.delta_qp == pytest.approx(expected, rel=1e-9)
    assert (report.status, report.notes, report.signature) == ("certified", ("a toy",), "trusted key")
    assert report.p_value == pytest.approx(float(stats.chi2.sf(9.25 / 4, 4)))
    assert "sum with noise_std = 2" in certificate.summary()
    assert "holds (certified, exact)" in report.summary()
    assert "note: a toy" in report.summary()


def test_a_ledger_enters_any_kind_of_run(tmp_path):
    ledger = Ledger.create(tmp_path / "ledger")
    entry = ledger.append(issue(method="doubled", delta=0.1), model_before=model_digest(X.sum(axis=0)))
    assert (entry.n_phases, entry.n_deleted, entry.method) == (2, 1, "doubled")
    ledger.check(model=model_digest(MODEL))


def test_what_a_run_refuses_refutes_its_certificate_under_the_same_field():
    for run, field in (
        (dataclasses.replace(RUN, noise_std=0.0), "run.noise_std"),
        (dataclasses.replace(RUN, n_features=3), "run.n_records"),
        (dataclasses.replace(RUN, share=1.0), "claim.delta"),
        (dataclasses.replace(RUN, deleted=(9,)), "run.deleted"),
    ):
        with pytest.raises(VerificationError) as caught:
            issue(run)
        assert caught.value.field == field
        assert str(caught.value).startswith(f"{field}: ")
    values = issue().to_dict()
    values["run"]["share"] = 2.0
    with pytest.raises(CertificateError, match=r"run\.share: must be at most 1, got 2\.0") as caught:
        Certificate.from_json(json.dumps(values))
    assert caught.value.field == "run.share"


def test_a_model_is_refused_below_the_least_p_value_whatever_its_law_says():
    with pytest.raises(VerificationError, match=r"p-value is .* refused below 1e-12") as caught:
        issue(model=MODEL + 20)
    assert caught.value.field == "model"
    for p_value, fine in ((LEAST_P_VALUE, True), (LEAST_P_VALUE * 0.999, False), (float("nan"), False)):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(NormalLaw, "p_value", lambda self, parameters, p=p_value: p)
            if fine:
                issue()
            else:
                with pytest.raises(VerificationError, match="cannot have come"):
                    issue()


def test_nan_deltas_of_a_run_never_pass(monkeypatch):
    monkeypatch.setattr(NoisySum, "deltas", lambda *args, **named: Deltas(float("nan"), 0.0))
    with pytest.raises(VerificationError, match=r"delta\(P\|Q\)") as caught:
        issue()
    assert caught.value.field == "claim.delta"


def test_conditions_notes_and_warnings_are_those_of_the_run():
    certificate = issue(dataclasses.replace(RUN, from_data=True))
    assert (certificate.status, certificate.conditions) == ("conditional", (CONDITIONS["noise_std"],))
    with pytest.raises(VerificationError, match=r"must say that .* because the run does"):
        dataclasses.replace(certificate, conditions=("another",)).verify(X, Y)
    with pytest.raises(VerificationError, match=r"must be \['a toy'\], as the run says, got \[\]"):
        dataclasses.replace(certificate, notes=()).verify(X, Y)
    assert certificate.verify(X, Y).warnings == ()
    still = X.copy()
    still[2] = 0
    without = Certificate.create(X=still, y=Y, model=still.sum(axis=0) + 1, run=RUN, **CLAIM)
    assert without.verify(still, Y).warnings == ("the deleted rows are zero",)


def test_methods_and_their_failure_probability_are_those_of_the_run():
    certificate = issue(method="doubled", delta=0.1)
    assert certificate.delta_s == 0.01
    assert certificate.verify(X, Y).delta_pq == pytest.approx(2 * issue().delta_pq + 0.01)
    for method in ("shifted", "uniform"):
        with pytest.raises(CertificateError, match="must be one of 'exact', 'doubled'"):
            issue(method=method)
    with pytest.raises(VerificationError, match="must be null for method 'exact'"):
        dataclasses.replace(certificate, method="exact").verify(X, Y)


def test_a_budget_is_held_against_the_work_of_the_run():
    certificate = issue()
    certificate.verify(X, Y, budget=36)
    with pytest.raises(VerificationError, match=r"36 operations \(9 records, 4 features; sum with noise_std = 2\)"):
        certificate.verify(X, Y, budget=35)


# --- kinds ---------------------------------------------------------------------------------------


def test_a_certificate_of_an_unknown_kind_is_refused_by_name_with_the_remedy(monkeypatch):
    certificate = issue()
    text = certificate.to_json()
    monkeypatch.setattr(registry, "_KINDS", {"ridge": RidgeRun})
    said = r"kind: must be one of 'ridge', .* got 'noisy-sum': install .* or register its class with expunge\.runs\."
    for call in (lambda: Certificate.from_json(text), lambda: dataclasses.replace(certificate), issue):
        with pytest.raises(CertificateError, match=said) as caught:
            call()
        assert caught.value.field == "kind"


def test_version_1_has_ridge_runs_alone():
    with pytest.raises(CertificateError, match="must be 2 for a run of kind 'noisy-sum', got 1") as caught:
        dataclasses.replace(issue(), version=1, notes=())
    assert caught.value.field == "version"
    with pytest.raises(ValueError, match="kind must be 'ridge' in version 1"):
        certificate_schema(version=1, kind="noisy-sum")


def test_what_is_no_run_of_a_registered_kind_is_refused():
    with pytest.raises(TypeError, match=r"run must follow the protocol expunge\.runs\.Run, got str"):
        issue("ridge")

    class Other(NoisySum):
        kind = "ridge"

    with pytest.raises(TypeError, match="run must be of the class registered for 'ridge', got Other"):
        issue(Other(**dataclasses.asdict(RUN)))


def test_a_kind_is_registered_once_and_whole():
    class Other(NoisySum):
        pass

    with pytest.raises(ValueError, match=r"kind must be new, got 'noisy-sum', which is .*NoisySum"):
        register(Other)
    assert run_class("noisy-sum") is NoisySum
    whole = dict.fromkeys(registry._MEMBERS, "another")
    assert {"kind", "to_dict", "check", "deltas", "law_of_release", "schema", "deleted", "n_records"} <= set(whole)
    for name in whole:
        partial = type("Partial", (), {member: value for member, value in whole.items() if member != name})
        with pytest.raises(TypeError, match=rf"run_class must have what expunge\.runs\.Run has, .* lacks {name}$"):
            register(partial)
    register(type("Whole", (), whole))
    assert run_class("another").kind == "another"


def test_every_kind_of_the_package_keeps_the_protocol_and_its_name():
    for name, kind in registry._KINDS.items():
        assert kind.kind == name
        register(kind)
        assert set(kind.schema()["required"]) <= set(kind.schema()["properties"])


def test_runs_are_imported_without_readers_of_files_and_progress_bars():
    needless = ("click", "matplotlib", "pandas", "pyarrow", "sklearn", "tqdm", "expunge.data.loading")
    program = (
        "import sys, expunge.runs.residual, expunge.runs.ridge, expunge.data\n"
        "assert {*expunge.data.__all__} <= {*dir(expunge.data)}\n"
        f"print([name for name in {needless} if name in sys.modules])\n"
        "print(*[getattr(expunge.data, name).__module__ for name in ('load', 'Task', 'ConstantScaler')])\n"
    )
    done = subprocess.run([sys.executable, "-W", "error", "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines() == ["[]", "expunge.data.loading expunge.data.tasks expunge.data.scaling"]


# --- certificates know runs by the protocol alone --------------------------------------------------


def test_certificates_use_runs_through_the_protocol_and_the_registry_only():
    folder = Path(expunge.__file__).parent / "certificates"
    modules = [path for path in folder.glob("*.py") if path.name != "__init__.py"]  # it keeps former names
    assert len(modules) > 8
    for path in modules:
        tree = ast.parse(path.read_text())
        used = {node.module for node in ast.walk(tree) if isinstance(node, ast.ImportFrom) and node.module}
        used |= {alias.name for node in ast.walk(tree) if isinstance(node, ast.Import) for alias in node.names}
        runs = {name for name in used if name.startswith("expunge.runs")}
        # Enclosures are intervals and outcomes of proofs, of whatever kind of run.
        assert runs <= {"expunge.runs.base", "expunge.runs.enclosures", "expunge.runs.registry"}, path.name
        words = {node.value for node in ast.walk(tree) if isinstance(node, ast.Constant)}
        assert not words & {"ridge", "shifted", "uniform", "LangevinRidge", "phases"}, path.name


# --- the format ------------------------------------------------------------------------------------


def test_the_schema_of_ridge_certificates_is_what_it_was_before_there_were_kinds():
    before = json.loads((GOLDEN / "certificate-v2.schema.json").read_text())
    now = certificate_schema()
    assert now == certificate_schema(version=2, kind="ridge")
    assert now["required"] == before["required"]
    assert list(now["properties"]) == list(before["properties"])
    run = now["properties"]["run"]
    assert "program" not in run["required"]  # certificates of then stay as they are
    del run["properties"]["program"]
    assert without_words(now) == without_words(before)


def without_words(schema):
    """Return a schema without its descriptions."""
    if not isinstance(schema, dict):
        return schema
    fields = ("properties",)
    return {
        key: {name: without_words(one) for name, one in value.items()} if key in fields else without_words(value)
        for key, value in schema.items()
        if key not in ("description", "title")
    }


def test_a_file_of_version_2_names_its_kind_and_one_of_version_1_never_does():
    second, first = (json.loads((GOLDEN / f"certificate-v{version}.json").read_text()) for version in (2, 1))
    assert second["kind"] == "ridge"
    for change in ({}, {"kind": None}, {"kind": 7}):
        changed = {**{key: value for key, value in second.items() if key != "kind"}, **change}
        with pytest.raises(CertificateError) as caught:
            Certificate.from_json(json.dumps(changed))
        assert caught.value.field == "kind"
    assert Certificate.from_json(json.dumps(first)).kind == "ridge"
    with pytest.raises(CertificateError) as caught:
        Certificate.from_json(json.dumps({**first, "kind": "ridge"}))
    assert caught.value.field == "kind"


def test_a_certificate_copied_keeps_its_class():
    certificate = issue()
    for other in (
        copy.deepcopy(certificate),
        dataclasses.replace(certificate),
        certificate.sign(Ed25519PrivateKey.generate()),
    ):
        assert type(other) is Certificate
        assert other.digest() == certificate.digest()
