"""Errors that stop a training run."""

from __future__ import annotations

__all__ = ["NonFiniteLossError"]


class NonFiniteLossError(RuntimeError):
    """A record's loss is NaN or infinite; training has stopped before the step that would have used it.

    Attributes
    ----------
    step : int
        The step whose batch it is.
    batch : tuple of int
        The records of the batch.
    records : tuple of int
        Those whose loss is not finite.
    """

    def __init__(self, *, step: int, batch: tuple[int, ...], records: tuple[int, ...]) -> None:
        few = ", ".join(map(str, records[:5])) + (", ..." if len(records) > 5 else "")
        shown = ", ".join(map(str, batch[:8])) + (", ..." if len(batch) > 8 else "")
        super().__init__(
            f"the loss is not finite at step {step} for {len(records)} of the batch's {len(batch)} records: {few} "
            f"(batch: {shown}); a smaller step_size or clip may help"
        )
        self.step, self.batch, self.records = step, batch, records
