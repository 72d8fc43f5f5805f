"""Hugging Face's Trainer: per-record gradient norms of the run that it trains.

Needs ``expunge[transformers]``.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from expunge._errors import how_to_install

try:
    import torch
    from accelerate.utils import DistributedType
    from transformers import Trainer, TrainerCallback
except ImportError as error:
    raise ImportError(
        f"expunge.integrations.transformers needs Transformers and Accelerate: {how_to_install('transformers')}"
    ) from error

from expunge import _validate
from expunge.integrations._visits import Visits, number_of_records
from expunge.torch import GradNorms, TrainingRun, UnsupportedLayerError

__all__ = ["GradNormsMixin", "GradNormsTrainer"]


class GradNormsMixin:
    """Per-record norms for your own trainer: name it before that class, ``class T(GradNormsMixin, ...)``.

    Parameters
    ----------
    *args, **kwargs
        Those of the trainer.
    record_ids : str
        Column of the training data with the record id of each row: an integer within [0, n_records). It is kept
        whatever ``remove_unused_columns`` says, and the model does not see it.
    n_records : int, optional
        Number of records; the length of the training data by default.
    every : int
        Steps 0, every, 2 every, ... of the optimizer are measured, with all batches that they accumulate.
    n_windows : int
        Columns of the run: of each record's visits in a window of steps, the last one measured counts.
    """

    def __init__(
        self,
        *args: object,
        record_ids: str = "record_id",
        n_records: int | None = None,
        every: int = 1,
        n_windows: int = 35,
        **kwargs: object,
    ) -> None:
        super().__init__(*args, **kwargs)
        if not isinstance(record_ids, str):
            raise TypeError(f"record_ids must be the name of a column, got {type(record_ids).__name__}")
        self._record_ids = record_ids
        self._n_records = None if n_records is None else _validate.count("n_records", n_records, low=1)
        self._every = _validate.count("every", every, low=1)
        self._n_windows = _validate.count("n_windows", n_windows, low=1)
        self._visits: Visits | None = None
        self._run: TrainingRun | None = None
        self.add_callback(_Steps(self))  # type: ignore[attr-defined]

    def training_run(self) -> TrainingRun:
        """Return what was collected, after ``train()``.

        Returns
        -------
        TrainingRun
            An *estimate*. ``grad_norms`` are norms of what a record added to the gradient of a step, times the number
            of records of a step (``settings["batch_size"]``, the batches of all accumulation steps and processes): with
            a mean over records, those of the records' own losses; with the mean over all tokens of a step that the
            Trainer takes of language models, a record counts by its tokens. Gradients are those before the Trainer
            clips them, and ``steps`` those of the optimizer. A record that is in a step twice, as when processes fill
            up their last batch, has the sum of both norms: the norm itself if both rows are equal and nothing is
            random, else a bound. Records that no measured step held are in ``never_visited``; their norms are NaN.

            Privacy losses are those of noise added to the gradient of a step, which training did not have:
            ``run.privacy_losses(assumed_noise_std=...)``. Learning rates, clipping, momentum and Adam come after it.

        Raises
        ------
        RuntimeError
            Before training has ended.
        """
        if self._run is None:
            raise RuntimeError("training_run must be called after train()")
        return self._run

    # --- hooks of Trainer -------------------------------------------------------------------------

    def _set_signature_columns_if_needed(self) -> None:
        super()._set_signature_columns_if_needed()  # type: ignore[misc]
        columns: list[str] = self._signature_columns  # type: ignore[has-type]
        if self._record_ids not in columns:
            self._signature_columns = [*columns, self._record_ids]

    def _prepare_inputs(self, inputs: Any) -> Any:
        return super()._prepare_inputs(self._without_ids(inputs))  # type: ignore[misc]

    def _without_ids(self, inputs: Any) -> Any:
        if not hasattr(inputs, "items") or self._record_ids not in inputs:
            return inputs
        return {key: value for key, value in inputs.items() if key != self._record_ids}

    def training_step(
        self, model: torch.nn.Module, inputs: Mapping[str, object], *args: object, **kwargs: object
    ) -> torch.Tensor:
        """Run one batch forward and backward, and take its norms if the step is measured."""
        trainer: Any = self
        visits, step = self._visits, int(trainer.state.global_step)
        if visits is None or not visits.measures(step):
            return super().training_step(model, inputs, *args, **kwargs)  # type: ignore[misc]
        if not hasattr(inputs, "items") or self._record_ids not in inputs:
            raise ValueError(
                f"batches have no {self._record_ids!r}: add a column of integers to the training data, "
                f"add_column({self._record_ids!r}, range(len(dataset))), or name one by record_ids=; the data collator "
                "must keep it"
            )
        records = inputs[self._record_ids]
        scaler = trainer.accelerator.scaler
        model.train()
        with GradNorms(model, loss_reduction="share") as g:
            loss = super().training_step(model, self._without_ids(inputs), *args, **kwargs)  # type: ignore[misc]
            norms = g.norms(loss_scale=1.0 if scaler is None else scaler.get_scale())
        visits.take(records, norms)
        return loss

    # --- steps of the optimizer -------------------------------------------------------------------

    def _begin(self, state: Any) -> None:
        """Refuse what cannot be measured, before anything is computed."""
        trainer: Any = self
        args, accelerator = trainer.args, trainer.accelerator
        several = accelerator.num_processes
        if state.global_step:
            raise ValueError(
                "resume_from_checkpoint: a checkpoint does not hold the norms of earlier steps; train from the start"
            )
        single = (DistributedType.NO, DistributedType.MULTI_CPU, DistributedType.MULTI_GPU)
        if args.n_gpu > 1 or accelerator.distributed_type not in single or args.parallelism_config is not None:
            kind = "DataParallel" if args.n_gpu > 1 else str(accelerator.distributed_type)
            raise UnsupportedLayerError(
                f"the Trainer spreads the model by {kind}, where gradients of records cannot be seen: use one process "
                "or DistributedDataParallel"
            )
        replicas = trainer.model_wrapped
        if several > 1 and getattr(replicas, "find_unused_parameters", False):
            raise UnsupportedLayerError(
                "the Trainer looks for unused parameters, through a call that no torch function shows: use "
                "TrainingArguments(ddp_find_unused_parameters=False)"
            )
        replicas.train()
        with GradNorms(replicas):  # refuses what it can refuse now
            pass
        self._run = None
        self._visits = Visits(
            n_records=number_of_records(self._n_records, trainer.train_dataset),
            batch_size=state.train_batch_size * args.gradient_accumulation_steps * several,
            n_processes=several,
            every=self._every,
            n_windows=self._n_windows,
            source="transformers.Trainer",
        )

    def _step_ended(self, state: Any) -> None:
        assert self._visits is not None
        trainer: Any = self
        self._visits.step_ended(state.global_step - 1, skipped=bool(trainer.accelerator.optimizer_step_was_skipped))

    def _end(self, state: Any) -> None:
        visits, self._visits = self._visits, None
        if visits is not None:
            self._run = visits.run(n_steps=int(state.global_step))


class GradNormsTrainer(GradNormsMixin, Trainer):
    """A Transformers Trainer that collects the gradient norms of every record during training.

    Takes what ``Trainer`` takes, and the parameters of `GradNormsMixin`. Norms come from the Trainer's own backward
    passes, whatever its loss: models with ``num_items_in_batch``, label smoothing, ``compute_loss_func``, gradient
    accumulation, bf16 and fp16 autocast, and ``DistributedDataParallel``, whose processes gather them at the end.

    Raises
    ------
    UnsupportedLayerError
        From ``train()``, before anything is computed: for models spread by DataParallel, FSDP, DeepSpeed or tensor
        parallelism, and for what `expunge.torch.GradNorms` refuses on entry; in the first step, for models and losses
        in which examples interact.
    ValueError
        If batches have no record ids, or training resumes from a checkpoint.

    Examples
    --------
    >>> import tempfile, torch, warnings
    >>> from transformers import PreTrainedConfig, PreTrainedModel, TrainingArguments
    >>> from expunge.integrations.transformers import GradNormsTrainer
    >>> class Model(PreTrainedModel):
    ...     config_class = PreTrainedConfig
    ...     def __init__(self, config):
    ...         super().__init__(config)
    ...         self.head = torch.nn.Linear(3, 2)
    ...         self.post_init()
    ...     def forward(self, x, labels=None):
    ...         return {"loss": torch.nn.functional.cross_entropy(self.head(x), labels)}
    >>> data = [{"x": torch.randn(3), "labels": i % 2, "record_id": i} for i in range(8)]
    >>> with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings():
    ...     warnings.simplefilter("ignore")  # of Transformers
    ...     settings = TrainingArguments(folder, per_device_train_batch_size=4, num_train_epochs=2, use_cpu=True,
    ...         save_strategy="no", report_to=[], disable_tqdm=True, logging_strategy="no")
    ...     trainer = GradNormsTrainer(Model(PreTrainedConfig()), settings, train_dataset=data)
    ...     _ = trainer.train()
    {...}
    >>> trainer.training_run().grad_norms.shape
    (8, 4)
    """


class _Steps(TrainerCallback):
    """Tells the trainer when steps begin and end."""

    def __init__(self, trainer: GradNormsMixin) -> None:
        self.trainer = trainer

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.trainer._begin(state)

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.trainer._step_ended(state)

    def on_train_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.trainer._end(state)
