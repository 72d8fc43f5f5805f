"""Streams that are read ahead by threads, in order and with bounded memory."""

from __future__ import annotations

import contextlib
import queue
import threading
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator
from typing import Any, TypeVar

__all__ = ["streams_ahead"]

T = TypeVar("T")

_DEPTH = 2  # items of a stream that wait


def streams_ahead(makers: Iterable[Callable[[], Iterator[T]]], *, threads: int) -> Generator[Iterator[T], None, None]:
    """Yield streams in order, each an iterator; so many are read at a time, each at most two items ahead.

    Parameters
    ----------
    makers : iterable of callables
        Each returns the iterator of a stream; it is called, and run, in a thread.
    threads : int
        Streams that are read at a time, >= 1.

    Notes
    -----
    An error of a stream is raised where its next item is asked for. Closing the generator ends all threads.
    """
    stop = threading.Event()
    waiting: deque[_Stream[T]] = deque()
    left = iter(makers)

    def start() -> None:
        for make in left:
            waiting.append(_Stream(make, stop))
            return

    try:
        for _ in range(threads):
            start()
        while waiting:
            yield waiting[0]
            waiting.popleft().drain()
            start()
    finally:
        stop.set()
        for stream in waiting:
            stream.end()


class _Stream(Iterator[T]):
    def __init__(self, make: Callable[[], Iterator[T]], stop: threading.Event) -> None:
        self._items: queue.Queue[tuple[str, Any]] = queue.Queue(maxsize=_DEPTH)
        self._ended = False
        self._thread = threading.Thread(target=_fill, args=(make, self._items, stop), daemon=True)
        self._thread.start()

    def __next__(self) -> T:
        if self._ended:
            raise StopIteration
        kind, value = self._items.get()
        if kind == "item":
            found: T = value
            return found
        self._ended = True
        if kind == "error":
            raise value
        raise StopIteration

    def drain(self) -> None:
        """Read what is left, so that the thread ends."""
        for _ in self:
            pass
        self._thread.join()

    def end(self) -> None:
        """Wait for the thread, which has been told to stop and may be waiting for room."""
        with contextlib.suppress(queue.Empty):
            while True:
                self._items.get_nowait()
        self._thread.join()


def _fill(make: Callable[[], Iterator[T]], items: queue.Queue[tuple[str, Any]], stop: threading.Event) -> None:
    def put(kind: str, value: Any) -> None:
        while not stop.is_set():
            with contextlib.suppress(queue.Full):
                items.put((kind, value), timeout=0.1)
                return

    try:
        for item in make():
            put("item", item)
            if stop.is_set():
                return
        put("end", None)
    except BaseException as error:
        put("error", error)
