"""A process that dies at a chosen system call that writes: before it, after it, or halfway through a write."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from typing import Any

try:
    import fcntl
except ImportError:
    fcntl = None  # type: ignore[assignment]

__all__ = ["CALLS", "MOMENTS", "Killed", "killed_at"]

CALLS = (
    *("open", "write", "pwrite", "writev", "fsync", "fdatasync", "replace", "rename", "link", "symlink", "unlink"),
    *("remove", "mkdir", "rmdir", "chmod", "fchmod", "truncate", "ftruncate", "utime", "sendfile"),
)
MOMENTS = ("before", "halfway", "after")


class Killed(BaseException):
    """Nothing of the library catches it; and whatever cleans up on the way out finds every call dead."""


@contextlib.contextmanager
def killed_at(number: int, moment: str) -> Iterator[list[str]]:
    """Let the ``number``-th call that writes be the last; yields the calls made until then.

    A dead process writes nothing more, so that every later call fails as well; only closing files, which the kernel
    does for the dead, still works.
    """
    made: list[str] = []
    dead = False

    def watched(name: str, real: Any) -> Any:
        def call(*args: Any, **named: Any) -> Any:
            nonlocal dead
            if name == "open" and not (args[1] & (os.O_WRONLY | os.O_RDWR | os.O_CREAT)):
                if dead:
                    raise Killed
                return real(*args, **named)
            if dead:
                raise Killed
            made.append(name)
            if len(made) != number:
                return real(*args, **named)
            dead = True
            if moment == "halfway" and name == "write":
                real(args[0], bytes(args[1])[: len(args[1]) // 2])
            elif moment == "after":
                real(*args, **named)
            raise Killed

        return call

    with contextlib.ExitStack() as stack:
        for owner, names in ((os, CALLS), (fcntl, ("flock", "lockf"))):
            for name in names:
                if hasattr(owner, name):
                    real = getattr(owner, name)
                    setattr(owner, name, watched(name, real))
                    stack.callback(setattr, owner, name, real)
        yield made
