"""Reading blocks while earlier ones are scored."""

from __future__ import annotations

import contextlib
import queue
import threading
from collections.abc import Callable, Generator, Iterator
from typing import Any

from expunge.scoring.shards import Part
from expunge.scoring.sources import Block

__all__ = ["blocks_ahead"]


def blocks_ahead(
    make: Callable[[Part], Iterator[Block]], parts: list[Part]
) -> Generator[tuple[Part, Iterator[Block]], None, None]:
    """Yield each part with its blocks; blocks are read in another thread, two ahead, also across parts."""
    stop = threading.Event()
    waiting: queue.Queue[tuple[str, Any]] = queue.Queue(maxsize=2)

    def put(kind: str, value: Any) -> None:
        while not stop.is_set():
            with contextlib.suppress(queue.Full):
                waiting.put((kind, value), timeout=0.1)
                return

    def read() -> None:
        try:
            for part in parts:
                for block in make(part):
                    put("block", block)
                    if stop.is_set():
                        return
                put("end", None)
        except BaseException as error:
            put("error", error)

    def blocks() -> Iterator[Block]:
        while True:
            kind, value = waiting.get()
            if kind == "end":
                return
            if kind == "error":
                raise value
            yield value

    reader = threading.Thread(target=read, daemon=True)
    reader.start()
    try:
        for part in parts:
            yield part, blocks()
    finally:
        stop.set()
        reader.join()
