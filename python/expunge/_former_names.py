"""Former names of modules: each gives what the present module holds, and warns.

Pickles name the module of every class, so models dumped by an earlier version need the former names, private ones too.
"""

import sys
import warnings
from collections.abc import Sequence
from importlib import import_module
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from importlib.util import find_spec, module_from_spec
from types import ModuleType
from typing import Any

# Modules inside a renamed package follow it, except those with a line of their own.
FORMER_NAMES = {
    "_backend": "_kernels.backend",
    "_ledger_lines": "ledger.lines",
    "accounting.assumed_noise": "accounting.rdp.assumed_noise",
    "accounting.close_products": "data.close_products",
    "accounting.composition": "accounting.rdp.composition",
    "accounting.contraction": "accounting.unlearning.contraction",
    "accounting.langevin_unlearning": "accounting.unlearning.langevin",
    "accounting.power_sums": "runs.ridge.power_sums",
    "accounting.predicted_steps": "accounting.unlearning.predicted_steps",
    "accounting.privacy_loss": "accounting.rdp.privacy_loss",
    "accounting.rdp_conversion": "accounting.rdp.conversion",
    "accounting.renyi_filter": "accounting.rdp.renyi_filter",
    "accounting.ridge_law": "runs.ridge.law",
    "accounting.ridge_rounding": "runs.ridge.rounding",
    "accounting.ridge_shifted": "runs.ridge.bounds",
    "accounting.sampled_gaussian": "accounting.rdp.sampled_gaussian",
    "certificates.assumptions": "runs.ridge.assumptions",
    "certificates.constants": "data.constants",
    "certificates.model": "runs.ridge.release",
    "certificates.run": "runs.ridge.run",
    "datasets": "data",
    "estimators._cost": "runs.ridge.cost",
    "estimators._dynamics": "runs.ridge.dynamics",
    "ridge": "runs.ridge",
    "ridge.law": "runs.ridge.spectral",
    "scaling": "data",
}

# Its package exports a function of this name, which importing the module would replace. Registered beforehand, the
# module is found without that.
HIDDEN = "accounting.privacy_loss"


def present_name(name: str) -> str | None:
    """Return what ``expunge.name`` is now called, or None if ``name`` is not a former name."""
    if name in FORMER_NAMES:
        return f"expunge.{FORMER_NAMES[name]}"
    package, _, last = name.rpartition(".")
    return f"expunge.{FORMER_NAMES[package]}.{last}" if package in FORMER_NAMES else None


class _FormerModule(ModuleType):
    def __getattr__(self, name: str) -> Any:
        if name.startswith("__") and name != "__all__":
            raise AttributeError(f"module {self.__name__!r} has no attribute {name!r}")
        former = self.__name__.removeprefix("expunge.")
        if f"{former}.{name}" in FORMER_NAMES:
            return import_module(f"{self.__name__}.{name}")
        present = import_module(str(present_name(former)))
        value = getattr(present, name)
        warnings.warn(f"{self.__name__} is now {present.__name__}", DeprecationWarning, stacklevel=2)
        return value


class _FormerNames(MetaPathFinder, Loader):
    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        package, _, name = fullname.partition(".")
        present = present_name(name) if package == "expunge" else None
        if present is None or find_spec(present) is None:
            return None
        return ModuleSpec(fullname, self, is_package=True)

    def create_module(self, spec: ModuleSpec) -> ModuleType:
        return _FormerModule(spec.name)

    def exec_module(self, module: ModuleType) -> None:
        """Do nothing: what the module holds is looked up when it is asked for."""


def install() -> None:
    """Let former names be imported: a finder that is asked last."""
    finder = _FormerNames()
    sys.meta_path.append(finder)
    spec = ModuleSpec(f"expunge.{HIDDEN}", finder, is_package=True)
    sys.modules[spec.name] = module_from_spec(spec)
