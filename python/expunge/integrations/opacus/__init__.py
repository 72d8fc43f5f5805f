"""Opacus: its ghost clipping with Expunge's kernels, and per-record accounting of what it trained.

Needs ``expunge[opacus]``.
"""

from expunge._errors import how_to_install as _how_to_install

try:
    import opacus as _opacus  # noqa: F401
    import torch as _torch  # noqa: F401
except ImportError as error:
    raise ImportError(f"expunge.integrations.opacus needs Opacus: {_how_to_install('opacus')}") from error

from expunge.integrations.opacus._check import check
from expunge.integrations.opacus._reader import NormReader, OpacusRun, composition_rdp
from expunge.integrations.opacus._samplers import register, unregister

__all__ = ["NormReader", "OpacusRun", "check", "composition_rdp", "register", "unregister"]
