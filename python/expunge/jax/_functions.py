"""Transformations of loss functions: per-example gradient norms from one backward pass."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from typing import Any, NamedTuple, TypeAlias

import jax
import jax.numpy as jnp
from jax.extend.core import ClosedJaxpr

from expunge import _validate
from expunge.jax._arguments import Arguments, arguments_of
from expunge.jax._axes import Rows, Shared, State, Total, shared_of
from expunge.jax._check import compare
from expunge.jax._coupling import Followed, follow
from expunge.jax._errors import UnsupportedFunctionError
from expunge.jax._passes import Passed, run_plan
from expunge.jax._plan import Plan
from expunge.jax._program import Program
from expunge.jax._sites import wide
from expunge.jax._sizes import change_with_size

__all__ = ["PyTree", "grad_norms", "value_and_grad_norms"]

PyTree: TypeAlias = object  # nested containers of arrays, as jax.tree reads them


class _Settings(NamedTuple):
    """Settings of a transformation."""

    in_axes: Any
    one_example: bool
    per_parameter: bool
    squared: bool
    check: int


def _traced(function: Callable[..., Any], arguments: Arguments, batch: int | None) -> ClosedJaxpr:
    """Return the loss of flat arrays, traced at a number of examples, or for an example without its axis."""

    def flat(*arrays: Any) -> Any:
        count = len(arguments.parameters)
        loss = arguments.called(function, arrays[:count], arrays[count:])
        found = jax.tree.leaves(loss)
        if len(found) != 1 or not hasattr(found[0], "shape"):
            raise TypeError(f"loss_fn must return one array, got {type(loss).__name__}")
        return found[0]

    shapes = [jax.ShapeDtypeStruct(a.shape, a.dtype, weak_type=jax.typeof(a).weak_type) for a in arguments.parameters]
    for array, axis in zip(arguments.batch, arguments.axes, strict=True):
        shape = list(array.shape)
        if axis is not None:
            shape[axis : axis + 1] = [] if batch is None else [batch]
        shapes.append(jax.ShapeDtypeStruct(tuple(shape), array.dtype))
    closed = jax.make_jaxpr(flat)(*shapes)
    (loss,) = closed.out_avals
    if not jnp.issubdtype(loss.dtype, jnp.floating):
        raise TypeError(f"loss_fn must return floating point numbers, got dtype {loss.dtype}")
    needed = {"()": ()} if batch is None else {"()": (), f"({batch},)": (batch,)}
    if loss.shape not in needed.values():
        what = "one loss" if batch is None else f"a loss for each of {batch} examples or their sum or mean"
        raise ValueError(f"loss_fn must return {what}, of shape {' or '.join(needed)}; got {loss.shape}")
    return closed


def _state(function: Callable[..., Any], arguments: Arguments, batch: int) -> Followed:
    closed = _traced(function, arguments, batch)
    states: list[State] = [shared_of(array.shape) for array in arguments.parameters]
    for array, axis in zip(arguments.batch, arguments.axes, strict=True):
        states.append(shared_of(array.shape) if axis is None else Rows(axis))
    return follow(closed, states, batch, arguments.followed)


def _reduction(function: Callable[..., Any], arguments: Arguments) -> str:
    """Return whether losses come one by one, or as their sum or mean, after a proof that examples do not meet."""
    closed = _traced(function, arguments, arguments.size)
    if closed.out_avals[0].shape and arguments.size == 1:
        return "none"
    if arguments.size == 1:
        return "sum"  # as good as a mean
    state, nonlinear = _state(function, arguments, arguments.size)
    if state == Rows(0):
        _require_one_function(function, arguments, closed, ())
        return "none"
    if isinstance(state, Shared):
        raise UnsupportedFunctionError("the loss does not depend on the batch: no example has a gradient of its own")
    if not isinstance(state, Total):
        raise UnsupportedFunctionError("the loss is not one number for each example, nor a sum of them")
    try:
        more, _ = _state(function, arguments, 2 * arguments.size)
    except Exception as error:
        raise UnsupportedFunctionError(
            "whether the loss is a sum or a mean of the examples' losses is told by tracing it with twice as many, "
            f"which failed ({error}): return one loss for each example, of shape (B,)"
        ) from error
    if isinstance(more, Total) and state.scale:
        changing = Counter(state.factors) - Counter(more.factors)  # not those of a mean over positions
        _require_one_function(function, arguments, closed, tuple(changing.elements()))
        ratio = more.scale / state.scale
        if abs(ratio - 1) < 1e-9:
            return "sum"
        if abs(ratio - 0.5) < 1e-6:  # factors may stand in the program in single precision
            if nonlinear:
                raise UnsupportedFunctionError(
                    f"the derivative that {nonlinear[0]} has of its own is not linear in the gradient that comes in, "
                    "which a mean divides by the number of examples: return one loss for each example, of shape (B,)"
                )
            return "mean"
    raise UnsupportedFunctionError(
        "the loss is neither the sum nor the mean of the examples' losses: return one loss for each example, of shape "
        "(B,)"
    )


def _require_one_function(
    function: Callable[..., Any], arguments: Arguments, closed: ClosedJaxpr, factors: tuple[float, ...]
) -> None:
    """Refuse a loss that changes with the number of examples by more than the factors of a sum over these."""
    change = change_with_size(closed, _traced(function, arguments, 1), arguments.followed, factors)
    if change is not None:
        raise UnsupportedFunctionError(
            f"{change} in loss_fn, or how often it stands there, changes with the number of examples: a batch of one "
            "has another loss, or another gradient, than its example has in the batch. Divide a sum over all examples "
            "by their number, or return one loss for each example, of shape (B,)"
        )


class _Result(NamedTuple):
    passed: Passed
    reduction: str
    arguments: Arguments


def _computed(function: Callable[..., Any], settings: _Settings, params: Any, batch: Any, *, sums: bool) -> _Result:
    arguments = arguments_of(params, batch, settings.in_axes)
    reduction = "none" if settings.one_example else _reduction(function, arguments)
    keep = not settings.one_example

    def own(*args: Any) -> Any:
        return jnp.reshape(function(*args), ())

    closed = _traced(own if keep else function, arguments, 1 if keep else None)
    program = Program(closed)
    count = len(arguments.parameters)
    shared = dict(zip(program.inputs, arguments.parameters, strict=False))
    examples: dict[int, tuple[Any, int]] = {}
    for number, array, axis in zip(program.inputs[count:], arguments.batch, arguments.axes, strict=True):
        if axis is None:
            shared[number] = array
        else:
            examples[number] = (array, axis)
    plan = Plan(program, [program.inputs[k] for k in arguments.followed], list(examples))
    passed = run_plan(plan, shared, examples, arguments.size, keep=keep, sums=sums)
    squares = {k: passed.squares.get(program.inputs[k]) for k in range(count)}
    totals = {k: passed.sums.get(program.inputs[k]) for k in range(count)}
    passed = Passed(passed.losses, squares, totals)
    if settings.check:
        compare(function, arguments, passed, reduction, keep=keep, examples=settings.check)
    return _Result(passed, reduction, arguments)


def _norms(result: _Result, settings: _Settings) -> Any:
    arguments, squares = result.arguments, result.passed.squares
    kinds = [wide(arguments.parameters[k]).dtype for k in arguments.followed]
    dtype = jnp.result_type(*kinds)
    nothing = jnp.zeros(arguments.size, dtype)
    found = [nothing if (one := squares[k]) is None else one.astype(dtype) for k in range(len(arguments.parameters))]
    if not settings.per_parameter:
        total = sum(found, nothing)
        return total if settings.squared else jnp.sqrt(total)
    return jax.tree.unflatten(arguments.parameter_tree, [one if settings.squared else jnp.sqrt(one) for one in found])


def _settings(
    loss_fn: object, in_axes: Any, one_example: bool, per_parameter: bool, squared: bool, check: bool | int
) -> _Settings:
    if not callable(loss_fn):
        raise TypeError(f"loss_fn must be a function, got {type(loss_fn).__name__}")
    examples = (3 if check else 0) if isinstance(check, bool) else _validate.count("check", check, low=0)
    return _Settings(in_axes, bool(one_example), bool(per_parameter), bool(squared), examples)


def grad_norms(
    loss_fn: Callable[..., object],
    *,
    in_axes: object = 0,
    one_example: bool = False,
    per_parameter: bool = False,
    squared: bool = False,
    check: bool | int = False,
) -> Callable[..., PyTree]:
    """Return a function that computes the gradient norm of every example of a batch, in one backward pass.

    Parameters
    ----------
    loss_fn : callable
        ``loss_fn(params, *batch)``, with params and batch pytrees of arrays: the examples' losses, of shape (B,), or
        their sum or mean. With ``one_example``, the loss of one example, of shape ().
    in_axes : int, None, or pytree of these
        Which axis of the arrays of the batch counts examples, as in `jax.vmap`: one number for all, or a tuple with an
        entry for each argument behind params. None stands for what all examples share. The loss of a batch is called
        with this axis, that of one example without it.
    one_example : bool
        Whether ``loss_fn`` is the loss of one example. Nothing has to be proved then; random numbers may be drawn from
        a key of each example.
    per_parameter : bool
        Return norms by parameter, in the structure of params.
    squared : bool
        Return squared norms, which add up over parameters.
    check : bool or int
        Compare losses and norms with automatic differentiation of a few examples alone (three, or the given number,
        picked at random): worth a run for every new model, outside of `jax.jit`.

    Returns
    -------
    callable
        ``f(params, *batch)``: an array of shape (B,), or a pytree of such, in float32, or float64 where parameters are.
        It can be compiled by `jax.jit`, and copies nothing to the host.

    Raises
    ------
    UnsupportedFunctionError
        From the call, if examples of the batch meet, or may meet for all that is known, in the loss or in a derivative
        of its own: the message names the operation, its shapes, its line and the remedy.
    GradNormMismatchError
        From the call with ``check``, if an example alone has another gradient.
    TypeError, ValueError
        From the call, if arguments or losses are of another kind or shape than said above; with ``check`` under jit.

    Notes
    -----
    The norm of an example is that of the gradient of ``loss_fn`` on this example alone, a batch of one; so a mean loss
    gives the norms of the examples' own losses. The function is traced, and run for all examples at once by
    `jax.vmap`. Wherever a parameter, or what is made of parameters alone, meets values of the examples, the result gets
    a zero added, whose gradients one backward pass gives. From these and the other operands follow the norms: in closed
    form for products, convolutions and looked-up rows [GHO]_ [BOO]_, also of a parameter used several times and of a
    table tied to a product; by differentiating that one operation for one example, a chunk of examples at a time, for
    all others. What is made of parameters alone, W / ||W|| or A B, is differentiated per example. A loop (`lax.scan`)
    that parameters enter is such an operation as a whole.

    That examples of a batch do not meet is proved on another trace, at the size of the batch: each primitive keeps the
    axis of examples only by a rule of its own. Batch normalisation by the batch's own moments, contrasts between
    examples, masks drawn for the whole batch and arrays of the batch's length that are not among the arguments are
    refused. A batch of one needs no proof.

    Rules of differentiation of one's own (`jax.custom_jvp`, `jax.custom_vjp`) are traced and followed likewise. What a
    rule gives must have the axis of examples where the operand has it. Of a weight that examples share, it must be a
    sum of what each of them gives alone, and linear in that sum. A rule in a mean loss must be linear in the gradient
    that comes in, which the mean divides. Numbers that change with the number of examples are refused, but for those
    that a sum over the examples is divided by. With ``one_example`` none of this is asked for. Rematerialised parts
    (`jax.checkpoint`) are kept in memory.

    Norms are exact up to rounding, and certify nothing by themselves. Sums are float32 at least, so squares below 1e-38
    vanish and above 3e38 overflow, unless parameters are float64. Gram matrices whose terms cancel give way to the
    gradients themselves.

    References
    ----------
    .. [GHO] Goodfellow, Efficient per-example gradient computations (2015), arXiv:1510.01799.
    .. [BOO] Bu, Wang, Zha, Karypis, Differentially private optimization on large model at small cost (2022),
       arXiv:2210.00038.

    Examples
    --------
    >>> import jax, jax.numpy as jnp
    >>> def loss_fn(params, x):
    ...     return (x @ params["w"] + params["b"])[:, 0]
    >>> params = {"w": jnp.zeros((2, 1)), "b": jnp.zeros(1)}
    >>> x = jnp.array([[3.0, 4.0], [0.0, 1.0]])
    >>> [round(float(norm), 5) for norm in jax.jit(grad_norms(loss_fn))(params, x)]
    [5.09902, 1.41421]
    """
    settings = _settings(loss_fn, in_axes, one_example, per_parameter, squared, check)

    def norms(params: PyTree, *batch: PyTree) -> PyTree:
        result = _computed(loss_fn, settings, params, batch, sums=False)
        return _norms(result, settings)

    return norms


def value_and_grad_norms(
    loss_fn: Callable[..., object],
    *,
    in_axes: object = 0,
    one_example: bool = False,
    per_parameter: bool = False,
    squared: bool = False,
    check: bool | int = False,
) -> Callable[..., tuple[jax.Array, PyTree, PyTree]]:
    """Return a function that computes losses, their gradient and the gradient norm of every example.

    Parameters
    ----------
    loss_fn, in_axes, one_example, per_parameter, squared, check
        As for `grad_norms`.

    Returns
    -------
    callable
        ``f(params, *batch)``: what ``loss_fn`` returns of the batch (with ``one_example``, the losses of shape (B,));
        the gradient of it, or of the sum of losses of shape (B,), in the structure of params; and the norms, as
        `grad_norms` returns them. Arrays of params that are no floating point numbers have a gradient of zeros.

    Raises
    ------
    UnsupportedFunctionError, GradNormMismatchError, TypeError, ValueError
        As for `grad_norms`.

    Examples
    --------
    >>> import jax, jax.numpy as jnp
    >>> def loss_fn(params, x):
    ...     return (x @ params["w"]).mean()
    >>> params, x = {"w": jnp.array([1.0, 2.0])}, jnp.array([[3.0, 4.0], [0.0, 1.0]])
    >>> loss, grads, norms = jax.jit(value_and_grad_norms(loss_fn))(params, x)
    >>> float(loss), grads["w"].tolist(), norms.tolist()
    (6.5, [1.5, 2.5], [5.0, 1.0])
    """
    settings = _settings(loss_fn, in_axes, one_example, per_parameter, squared, check)

    def losses_and_norms(params: PyTree, *batch: PyTree) -> tuple[jax.Array, PyTree, PyTree]:
        result = _computed(loss_fn, settings, params, batch, sums=True)
        arguments, losses = result.arguments, result.passed.losses
        value = {"none": losses, "sum": losses.sum(), "mean": losses.mean()}[result.reduction]
        grads = [
            jnp.zeros_like(array) if result.passed.sums[k] is None else result.passed.sums[k]
            for k, array in enumerate(arguments.parameters)
        ]
        if result.reduction == "mean":
            grads = [grad / arguments.size if k in arguments.followed else grad for k, grad in enumerate(grads)]
        return value, jax.tree.unflatten(arguments.parameter_tree, grads), _norms(result, settings)

    return losses_and_norms
