"""Per-example gradient norms of any model in one backward pass."""

from __future__ import annotations

from types import TracebackType
from typing import Any, Literal, overload

import torch
from numpy.typing import ArrayLike
from torch import Tensor, nn

from expunge import _validate
from expunge._types import AnyArray
from expunge.data.grouping import Grouping
from expunge.torch._arguments import require_model
from expunge.torch._check import Check
from expunge.torch._compatibility import look_at_version
from expunge.torch._distributed import look_at_replicas
from expunge.torch._errors import UnsupportedLayerError
from expunge.torch._followed_parameters import followed_parameters, name_of
from expunge.torch._handlers import HANDLERS
from expunge.torch._kernels import Squares, as_tensor, root_of_sum
from expunge.torch._losses import look_at
from expunge.torch._passes import hooks_on
from expunge.torch._tracker import Tracker

__all__ = ["GradNorms", "KeptBlock"]


class GradNorms:
    """Exact norms of per-example gradients over all parameters that require grad, from the backward pass itself.

    Inside the block, call the model on one batch whose tensors all have the examples in the leading dimension, add up
    the examples' losses, run ``backward`` and call `norms`; then perhaps the same with the next batch, as gradient
    accumulation does. Dropout and other randomness are those of the batch's own forward pass.

    Parameters
    ----------
    model : torch.nn.Module
        Any model on the CPU or a CUDA device whose examples do not interact. Modules made by `torch.compile` are
        rejected; pass the original module.
    loss_reduction : {"sum", "mean", "token-mean", "share"}
        How the loss that runs backward combines the examples' losses. PyTorch's own losses are means unless they are
        given ``reduction="sum"``: say "mean" for them. With "mean" norms are multiplied by the number of examples, so
        that they are those of the examples' own losses. A loss that is reduced in another way is refused; if a factor
        in it may account for the difference, a warning is given instead. "token-mean" is a mean over all tokens that
        count, as cross-entropy takes it with ``ignore_index``: the examples' own losses are then means over their own
        tokens. "share" takes the loss as it is: norms are those of what each example adds to the gradient, whatever the
        loss is divided by.
    counts : array of shape (B,), optional
        With "token-mean": how many tokens of each example count, as ``(labels != -100).sum(1)``. The norm of an example
        without any is 0. Give it to `norms` where a block has several backward passes.
    groups : array-like of shape (B,), optional
        A group for each example of the batch (a person with several records, a forget set): whole numbers or text.
        `norms` then returns the norm of the sum of the gradients of each group's examples, cross terms included, for
        the groups in the order of `group_ids`. Not with "token-mean".
    param_grads : bool
        Whether parameters get their ``.grad``, as without the block. Scoring does not need them and is faster without.
    threads : int, optional
        Threads of the norm kernels; all cores by default.
    check : bool or int
        Whether `norms` first repeats the model on a few examples of the batch alone (three, or the given number, picked
        at random) and compares their gradients, parameter by parameter, with autograd: worth a run for every new model.
        The loss itself is not repeated, only its gradients at the model's outputs; examples that interact in a loss
        outside the model are left to the rules. Random numbers (dropout) cannot be repeated for one example: check in
        eval mode, otherwise the check is refused. So are checkpoints with re-entry.

    Raises
    ------
    UnsupportedLayerError
        On entry, if a module is compiled, if batch normalisation in training mode mixes the examples, if a parameter
        or module has hooks that may change gradients, or if replicas wait for gradients that ``param_grads=False``
        leaves out; in the block, for a backward pass with ``create_graph`` or ``inputs``; from `norms`, if a parameter
        was used in a way that is not understood, or the loss is not a sum over examples as ``loss_reduction`` says.
        The message names the parameter, the call, its shapes and the remedy.
    GradNormMismatchError
        From `norms` with ``check``, if an example alone has other gradients than in its batch.

    Warns
    -----
    UntestedVersionWarning
        Once, where PyTorch is of a version that the norms were not tested with.

    Notes
    -----
    Uses of a parameter are followed through torch functions, wherever they are: modules, ``h @ emb.weight.T``,
    ``F.linear(x, self.w)``, views, transposes and chunks. A parameter used several times, or shared by modules, gets
    all cross terms.

    Linear maps, convolutions, embeddings, Layer-, Group-, Instance- and RMSNorm, BatchNorm in eval mode and multi-head
    attention store no per-example gradient of their own [GHO]_ [BOO]_. Raw parameters that are added or multiplied, and
    parameters whose several uses have no cheap cross term, have theirs formed a chunk of examples at a time. LSTM, GRU
    and RNN take the gradients of a whole sequence's gates. Any other function is run again on one example at a time,
    and its outputs are checked against the batch's. What is computed from parameters alone, weight normalisation say,
    is differentiated per example.

    Parameters are replaced by stand-ins in the calls that are understood: a gradient that reaches the parameter in
    another way, or a stand-in without a use that explains it, is refused.

    Every torch function keeps the dimension of the examples only by a rule of its own. Behind one that mixes rows, or
    has no rule, parameters and losses are refused. Numbers that leave torch (``item()``, NumPy) and come back are taken
    as constants, and so is what torch.jit's functions make of tensors without gradient. What depends on the size of the
    batch is taken as it is. A batch of one example needs no rules. A list with a tensor for each example is not a
    batch, since its tensors have no dimension of examples: stack it before the call.

    With ``groups``, the examples of a group become positions of one example: linear maps, embeddings and added vectors
    store no gradient of a group either. The gradients of convolutions' kernels are formed group by group. All examples
    of a group must be in one batch.

    `norms` closes a pass: what is kept of it is dropped, and the next call of the model begins another, while ``.grad``
    accumulates. Several calls of the model before one backward pass, and several backward passes through different
    parts of what they computed, give the norms of the sum of their gradients, row by row. Refused are a second backward
    pass through the same uses of parameters, one through calls made after the first, and one through a closed pass.

    The results are exact up to rounding and certify nothing by themselves. ``torch.autograd.grad`` beside the backward
    pass is not counted. Hooks of tensors are followed where they treat rows separately; hooks of the graph's nodes
    (``grad_fn.register_hook``) are not seen, and must treat them so. Hooks on saved tensors are refused.

    References
    ----------
    .. [GHO] Goodfellow, Efficient per-example gradient computations (2015), arXiv:1510.01799.
    .. [BOO] Bu, Wang, Zha, Karypis, Differentially private optimization on large model at small cost (2022),
       arXiv:2210.00038.

    Examples
    --------
    >>> import torch
    >>> model = torch.nn.Linear(2, 1).double()
    >>> x = torch.tensor([[3.0, 4.0], [0.0, 1.0]], dtype=torch.float64)
    >>> with GradNorms(model, check=True) as g:
    ...     model(x).sum().backward()
    ...     [round(norm, 6) for norm in g.norms().tolist()]
    [5.09902, 1.414214]

    The same with a mean loss, which is PyTorch's default:

    >>> with GradNorms(model, loss_reduction="mean") as g:
    ...     model(x).mean().backward()
    ...     [round(norm, 6) for norm in g.norms().tolist()]
    [5.09902, 1.414214]

    The gradient of both examples together, as one person's, has a norm below the sum of theirs:

    >>> with GradNorms(model, groups=["C7", "C7"]) as g:
    ...     model(x).sum().backward()
    ...     g.group_ids.tolist(), [round(norm, 6) for norm in g.norms().tolist()]
    (['C7'], [6.164414])

    Gradients accumulated over two batches of one example:

    >>> with GradNorms(model, loss_reduction="mean") as g:
    ...     for batch in x.split(1):
    ...         (model(batch).mean() / 2).backward()
    ...         round(float(g.norms(loss_scale=1 / 2)), 6)
    5.09902
    1.414214
    """

    def __init__(
        self,
        model: nn.Module,
        *,
        loss_reduction: str = "sum",
        counts: Tensor | None = None,
        groups: ArrayLike | None = None,
        param_grads: bool = True,
        threads: int | None = None,
        check: bool | int = False,
    ) -> None:
        require_model(model)
        look_at_version()
        _validate.choice("loss_reduction", loss_reduction, ("sum", "mean", "token-mean", "share"))
        self._counts = _counts_of(counts, loss_reduction)
        self._grouping = _grouping_of(groups, loss_reduction)
        self._taken: tuple[dict[int, Squares], int] | None = None  # what the last pass gave
        if threads is not None:
            _validate.count("threads", threads, low=1)
        self._examples_checked = (
            (3 if check else 0) if isinstance(check, bool) else _validate.count("check", check, low=0)
        )
        self._check: Check | None = None
        self._model = model
        self._reduction = loss_reduction
        self._param_grads = bool(param_grads)
        self._threads = threads
        self._tracker: Tracker | None = None
        self._modules: list[nn.Module] = []

    def __enter__(self) -> GradNorms:
        if self._tracker is not None:
            raise RuntimeError("the block is already open")
        if torch.compiler.is_compiling():
            raise RuntimeError("GradNorms cannot be used inside a function that torch.compile compiles")
        parameters, self._modules = followed_parameters(self._model)
        self._look_at_hooks(parameters, ours=0)
        look_at_replicas(self._model, param_grads=self._param_grads)
        self._tracker = Tracker(
            self._model,
            parameters,
            HANDLERS,
            param_grads=self._param_grads,
            threads=self._threads,
            grouping=self._grouping,
        )
        self._tracker.open()
        self._check = Check(self._tracker, self._examples_checked) if self._examples_checked else None
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        tracker, self._tracker, self._check, self._taken = self._tracker, None, None, None
        if tracker is not None:
            tracker.close()

    def _look_at_hooks(self, parameters: list[nn.Parameter], *, ours: int) -> None:
        """Refuse hooks that may change gradients where nothing shows it; ``ours`` are on each parameter."""
        found = hooks_on(self._modules, parameters, ours=ours)
        if found is None:
            return
        owner, reason = found
        if isinstance(owner, nn.Module):
            raise UnsupportedLayerError(f"{name_of(self._model, owner)}: {reason}")
        name = next(name for name, p in self._model.named_parameters() if p is owner)
        raise UnsupportedLayerError(f"{name}: {reason}")

    def _factor(self, batch: int, counts: Tensor | None) -> float | Tensor:
        """Return the factor that turns a share of the loss into the example's own loss."""
        if self._reduction != "token-mean":
            return float(batch) if self._reduction == "mean" else 1.0
        if counts is None:
            raise ValueError('counts must be given with loss_reduction="token-mean": to the block, or to norms()')
        if len(counts) != batch:
            raise ValueError(f"counts must have one entry for each of the {batch} examples, got {len(counts)}")
        return torch.where(counts > 0, counts.sum() / counts.clamp(min=1.0), 0.0)

    @property
    def group_ids(self) -> AnyArray | None:
        """The groups that norms belong to, sorted; None where none were given."""
        return None if self._grouping is None else self._grouping.ids

    def begin_pass(self, *inputs: object) -> None:
        """Give the inputs of the next pass, if parts of the model are called and the model itself is not.

        Parameters
        ----------
        *inputs
            Arguments that the model would be called with: tensors, also in containers, whose leading dimension counts
            examples.

        Raises
        ------
        UnsupportedLayerError
            If an input is not dense.
        RuntimeError
            Outside the block.

        Examples
        --------
        >>> import torch
        >>> model = torch.nn.ModuleDict({"a": torch.nn.Linear(2, 2), "b": torch.nn.Linear(2, 1)})
        >>> x = torch.ones(3, 2)
        >>> with GradNorms(model) as g:
        ...     g.begin_pass(x)
        ...     model["b"](model["a"](x)).sum().backward()
        ...     g.norms().shape
        torch.Size([3])
        """
        if self._tracker is None:
            raise RuntimeError("begin_pass must be called inside the block")
        self._tracker.begin(self._model, inputs, {})

    @overload
    def norms(
        self, *, per_layer: Literal[False] = False, counts: Tensor | None = None, loss_scale: float = 1.0
    ) -> Tensor: ...

    @overload
    def norms(
        self, *, per_layer: Literal[True], counts: Tensor | None = None, loss_scale: float = 1.0
    ) -> dict[str, Tensor]: ...

    @overload
    def norms(
        self, *, per_layer: bool, counts: Tensor | None = None, loss_scale: float = 1.0
    ) -> Tensor | dict[str, Tensor]: ...

    def norms(
        self, *, per_layer: bool = False, counts: Tensor | None = None, loss_scale: float = 1.0
    ) -> Tensor | dict[str, Tensor]:
        """Return the gradient norm of every example, after backward and inside the block.

        Closes the pass. Called again before the next pass, it returns the same norms.

        Parameters
        ----------
        per_layer : bool
            Return a dict of norms by parameter name instead, whose squares add up to those of all; a parameter shared
            by layers has the name that ``named_parameters`` gives it.
        counts : array of shape (B,), optional
            As in the block, for this pass.
        loss_scale : float
            The factor by which the reduced loss was multiplied before backward; norms are divided by it: 1 / k where
            gradients of k batches accumulate, ``get_scale()`` of a ``GradScaler``.

        Returns
        -------
        torch.Tensor of shape (B,), or (G,) with groups, or dict of str to torch.Tensor
            On the device of the parameters, in the order of torch's current stream there. float64 if a parameter is,
            else float32. Frozen parameters contribute nothing; a parameter that the loss does not depend on has norm 0.

        Raises
        ------
        UnsupportedLayerError
            If a parameter was used in a way that is not understood; the message names it. Also if backward ran twice
            through the same uses, or without `norms` in between through calls of the model made after the first.
        RuntimeError
            Outside the block, or before backward.
        """
        tracker = self._tracker
        if tracker is None:
            raise RuntimeError("norms must be called inside the block")
        plain = type(loss_scale) is float and loss_scale == 1.0
        scale = 1.0 if plain else _validate.number("loss_scale", loss_scale, low=0.0, open_low=True)
        given = self._counts if counts is None else _counts_of(counts, self._reduction)
        with torch._C.DisableTorchFunction(), torch.no_grad():
            squares, batch = self._squares(tracker, scale, given)
            wide = any(p.dtype == torch.float64 for p in tracker.parameters)
            factor = self._factor(batch, given) / scale

            def finished(norm: Tensor) -> Tensor:
                if isinstance(factor, Tensor):
                    norm = norm * factor.to(norm.device)
                elif factor != 1.0:
                    norm = norm * factor
                return norm if wide else norm.float()

            if per_layer:
                return {name: finished(as_tensor(squares[key]).sqrt()) for key, name in enumerate(tracker.names)}
            return finished(root_of_sum([squares[key] for key in range(len(squares))]))

    def _squares(self, tracker: Tracker, scale: float, counts: Tensor | None) -> tuple[dict[int, Squares], int]:
        """Return squared norms by parameter, and the number of examples, of the pass that ran, which is closed."""
        self._look_at_hooks(tracker.parameters, ours=1)
        tracker.look_at_parameters()
        if tracker.refusals:
            raise UnsupportedLayerError(tracker.refusals[0])
        empty = tracker.axes.batch == 0
        if not empty and not tracker.arrived and not tracker.failures:
            if self._taken is not None and not tracker.begun:
                return self._taken
            raise RuntimeError(
                "norms must be called after backward of a loss of the model's output, got no gradient yet"
            )
        squares = tracker.squares()
        if tracker.refusals:
            raise UnsupportedLayerError(tracker.refusals[0])
        if tracker.failures and not empty:
            key, reason = min(tracker.failures.items())
            raise UnsupportedLayerError(f"{tracker.names[key]}: {reason}")
        batch = tracker.axes.batch or 0
        if self._grouping is not None:
            self._grouping.look_at(batch)
        look_at(tracker.losses, self._reduction, batch, scale=scale)
        if self._check is not None:
            self._factor(batch, counts)  # looks at the counts
            tensors = {key: as_tensor(found) for key, found in squares.items()}
            self._check.compare(tensors, None if counts is None else counts / counts.sum())
            self._check.next_pass()
        self._taken = (dict(squares), batch)
        tracker.next_pass()
        return self._taken


class KeptBlock:
    """A block of a training loop: entered for each step that is measured, and kept ready for the next until `close`.

    Between steps nothing is followed, and nobody but the loop changes the model.
    """

    def __init__(self, model: nn.Module) -> None:
        self._model = model
        self._block: GradNorms | None = None

    def __enter__(self) -> GradNorms:
        if self._block is None:
            self._block = GradNorms(self._model, threads=torch.get_num_threads()).__enter__()
        else:
            assert self._block._tracker is not None
            self._block._tracker.resume()
        return self._block

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if kind is not None:
            self.close()
        elif self._block is not None:
            assert self._block._tracker is not None
            self._block._tracker.pause()

    def close(self) -> None:
        """Leave the block for good, or until it is entered again."""
        block, self._block = self._block, None
        if block is not None:
            block.__exit__(None, None, None)


def _grouping_of(groups: ArrayLike | None, loss_reduction: str) -> Grouping | None:
    if groups is None:
        return None
    if loss_reduction == "token-mean":
        raise ValueError(
            'groups must not be given with loss_reduction="token-mean", whose examples have losses of their own: say '
            '"share" for what each group adds to the gradient of the loss'
        )
    return Grouping(groups.detach().cpu().numpy() if isinstance(groups, Tensor) else groups)


def _counts_of(counts: Any, loss_reduction: str) -> Tensor | None:
    if counts is None:
        return None
    if loss_reduction != "token-mean":
        raise ValueError(f'counts must be given only with loss_reduction="token-mean", got {loss_reduction!r}')
    found = torch.as_tensor(counts).detach().double()
    if found.ndim != 1 or not bool(((found >= 0) & (found == found.floor()) & found.isfinite()).all()):
        raise ValueError(f"counts must be numbers of tokens, one for each example, got shape {tuple(found.shape)}")
    return found
