"""Python in which a package is not installed."""

from __future__ import annotations

import subprocess
import sys

ABSENT = """
import sys

class Absent:
    def find_spec(self, name, *rest):
        if name == {package!r}:
            raise ModuleNotFoundError(name)

sys.meta_path.insert(0, Absent())
"""


def run_without(package: str, code: str) -> subprocess.CompletedProcess[str]:
    """Run code in a new process that cannot import a package."""
    whole = ABSENT.format(package=package) + code
    return subprocess.run([sys.executable, "-c", whole], capture_output=True, text=True, check=False)
