"""Lightning: per-record gradient norms of the run that a Lightning trainer trains.

Needs ``expunge[lightning]``; ``pytorch_lightning`` works as well.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from expunge._errors import how_to_install

try:
    import torch as _torch  # noqa: F401

    try:
        from lightning.pytorch import Callback, LightningModule, Trainer
    except ImportError:
        from pytorch_lightning import Callback, LightningModule, Trainer
except ImportError as error:
    raise ImportError(f"expunge.integrations.lightning needs Lightning: {how_to_install('lightning')}") from error

from expunge import _validate
from expunge.integrations._visits import Visits, number_of_records
from expunge.torch import GradNorms, TrainingRun, UnsupportedLayerError

__all__ = ["GradNormsCallback"]


class GradNormsCallback(Callback):
    """A Lightning callback that collects the gradient norms of every record during training.

    Norms come from the trainer's own backward passes in automatic optimization, whatever the loss, with
    ``accumulate_grad_batches``, mixed precision and ``strategy="ddp"``, whose processes gather them at the end.

    Parameters
    ----------
    record_ids : str, int or callable
        Where a batch has the ids of its records, integers within [0, n_records): a key, a place, or a function of the
        batch.
    n_records : int, optional
        Number of records; the length of the training data by default.
    batch_size : int, optional
        Records of a whole step of the optimizer, over all batches and processes; by default the batch size of the data
        loader, times batches accumulated, times processes.
    every : int
        Steps 0, every, 2 every, ... of the optimizer are measured, with all batches that they accumulate.
    n_windows : int
        Columns of the run: of each record's visits in a window of steps, the last one measured counts.

    Raises
    ------
    UnsupportedLayerError
        When training starts: with manual optimization, with strategies other than one device and DDP, and for what
        `expunge.torch.GradNorms` refuses on entry; in the first step, for models and losses in which examples interact
        and for optimizers that compute a step's gradient several times.
    ValueError
        If batches have no record ids, or training resumes from a checkpoint.

    Examples
    --------
    >>> import lightning, torch, warnings
    >>> from torch.utils.data import DataLoader, TensorDataset
    >>> from expunge.integrations.lightning import GradNormsCallback
    >>> class Model(lightning.LightningModule):
    ...     def __init__(self):
    ...         super().__init__()
    ...         self.head = torch.nn.Linear(3, 2)
    ...     def training_step(self, batch):
    ...         x, y, rows = batch
    ...         return torch.nn.functional.cross_entropy(self.head(x), y)
    ...     def configure_optimizers(self):
    ...         return torch.optim.SGD(self.parameters(), lr=0.1)
    >>> data = TensorDataset(torch.randn(8, 3), torch.arange(8) % 2, torch.arange(8))
    >>> norms = GradNormsCallback(record_ids=2)
    >>> with warnings.catch_warnings():
    ...     warnings.simplefilter("ignore")  # of Lightning
    ...     trainer = lightning.Trainer(max_epochs=2, accelerator="cpu", callbacks=[norms], barebones=True)
    ...     trainer.fit(Model(), DataLoader(data, batch_size=4, shuffle=True))
    >>> norms.training_run().grad_norms.shape
    (8, 4)
    """

    def __init__(
        self,
        *,
        record_ids: str | int | Callable[..., object] = "record_id",
        n_records: int | None = None,
        batch_size: int | None = None,
        every: int = 1,
        n_windows: int = 35,
    ) -> None:
        if not isinstance(record_ids, (str, int)) and not callable(record_ids):
            raise TypeError(f"record_ids must be a key, a place or a function, got {type(record_ids).__name__}")
        self._record_ids = record_ids
        self._n_records = None if n_records is None else _validate.count("n_records", n_records, low=1)
        self._batch_size = None if batch_size is None else _validate.count("batch_size", batch_size, low=1)
        self._every = _validate.count("every", every, low=1)
        self._n_windows = _validate.count("n_windows", n_windows, low=1)
        self._visits: Visits | None = None
        self._run: TrainingRun | None = None
        self._block: GradNorms | None = None
        self._records: Any = None
        self._step = 0
        self._scale = 1.0

    def training_run(self) -> TrainingRun:
        """Return what was collected, after ``fit``.

        Returns
        -------
        TrainingRun
            As `expunge.integrations.transformers.GradNormsMixin.training_run` says: norms of what records added to the
            gradient of a step, times the number of records of a step; an *estimate*.

        Raises
        ------
        RuntimeError
            Before training has ended.
        """
        if self._run is None:
            raise RuntimeError("training_run must be called after the trainer's fit")
        return self._run

    # --- hooks of Lightning -----------------------------------------------------------------------

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Refuse what cannot be measured, before anything is computed."""
        if not pl_module.automatic_optimization:
            raise UnsupportedLayerError(
                "the module optimizes manually, so that nothing says which backward passes make a step: use automatic "
                "optimization, or expunge.torch.GradNorms in the training step"
            )
        strategy = type(trainer.strategy).__name__
        if strategy not in ("SingleDeviceStrategy", "DDPStrategy"):
            raise UnsupportedLayerError(
                f"gradients of records cannot be seen under {strategy}: use one device or strategy='ddp'"
            )
        if trainer.global_step:
            raise ValueError("ckpt_path: a checkpoint does not hold the norms of earlier steps; train from the start")
        with GradNorms(pl_module):  # refuses what it can refuse now
            pass
        self._run, self._step, self._scale = None, 0, _scale_of(trainer)
        loader = trainer.train_dataloader
        self._visits = Visits(
            n_records=number_of_records(self._n_records, getattr(loader, "dataset", loader)),
            batch_size=self._batch_size or _size_of_batches(loader) * trainer.accumulate_grad_batches * _world(trainer),
            n_processes=_world(trainer),
            every=self._every,
            n_windows=self._n_windows,
            source="lightning.Trainer",
        )

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: object, batch_idx: int) -> None:
        """Open a block around the batch's passes if the step is measured."""
        self._close()
        if self._visits is None or not self._visits.measures(self._step):
            return
        self._records = self._ids_of(batch)
        self._block = GradNorms(pl_module, loss_reduction="share")
        self._block.__enter__()
        self._block.begin_pass(batch)  # a training step may call parts of the module alone

    def on_after_backward(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Take the norms of the batch."""
        if self._visits is None or not self._visits.measures(self._step):
            return
        if self._block is None:
            self._visits = None
            raise UnsupportedLayerError(
                "the optimizer computes the gradient of a step several times (LBFGS does), so that records have no "
                "single norm: use another optimizer"
            )
        norms = self._block.norms(loss_scale=self._scale)
        self._close()
        self._visits.take(self._records, norms)

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: object, batch: object, batch_idx: int
    ) -> None:
        """Close the block, and the step if the optimizer made one."""
        self._close()
        if self._visits is not None and trainer.global_step > self._step:
            before, self._scale = self._scale, _scale_of(trainer)
            self._visits.step_ended(self._step, skipped=self._scale < before)
            self._step = trainer.global_step

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Put the run together."""
        self._close()
        visits, self._visits = self._visits, None
        if visits is not None:
            self._run = visits.run(n_steps=self._step)

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """Close the block."""
        self._close()

    def _close(self) -> None:
        block, self._block = self._block, None
        if block is not None:
            block.__exit__(None, None, None)

    def _ids_of(self, batch: Any) -> Any:
        if callable(self._record_ids):
            return self._record_ids(batch)
        try:
            return batch[self._record_ids]
        except (KeyError, IndexError, TypeError) as error:
            raise ValueError(
                f"batches have no {self._record_ids!r}: add record ids, integers from 0, to the "
                "training data, and say where they are with record_ids="
            ) from error


def _world(trainer: Any) -> int:
    return int(trainer.world_size)


def _scale_of(trainer: Any) -> float:
    scaler = getattr(trainer.precision_plugin, "scaler", None)
    return 1.0 if scaler is None else float(scaler.get_scale())


def _size_of_batches(loader: Any) -> int:
    size = getattr(loader, "batch_size", None)
    if size is None:
        raise ValueError("batch_size must be given: the data loader does not say how many records a batch has")
    return int(size)
