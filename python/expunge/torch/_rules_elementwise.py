"""Rules of calls that treat every entry by itself, arguments broadcast together."""

from __future__ import annotations

import torch
from torch import Tensor

from expunge.torch._axis import Axis, Lost, State
from expunge.torch._rule import CONSTANT, IN_PLACE, LIKE, LINEAR, RULES, SHAPED, Call, functions, rule

__all__ = ["broadcast"]

_UNARY = """
abs absolute neg negative positive exp exp2 expm1 log log2 log10 log1p sin cos tan asin acos atan arcsin arccos arctan
sinh cosh tanh asinh acosh atanh arcsinh arccosh arctanh sqrt rsqrt square reciprocal sign sgn signbit floor ceil round
trunc fix frac erf erfc erfinv lgamma digamma polygamma mvlgamma gammaln i0 i0e i1 i1e sinc deg2rad rad2deg sigmoid
logit expit log_ndtr ndtr ndtri entr psi special_expit nan_to_num isnan isinf isfinite isreal isposinf isneginf
logical_not bitwise_not relu relu6 gelu silu elu selu celu leaky_relu softplus softshrink hardshrink hardtanh hardswish
hardsigmoid tanhshrink softsign mish logsigmoid log_sigmoid threshold rrelu clamp clamp_min clamp_max clip dropout
alpha_dropout feature_dropout feature_alpha_dropout dropout1d dropout2d dropout3d bernoulli clone contiguous detach to
cpu cuda float double half bfloat16 int long short char byte bool cfloat cdouble type conj conj_physical resolve_conj
resolve_neg angle requires_grad fake_quantize_per_tensor_affine __neg__ __pos__ __abs__ __invert__ ldexp
"""
_SEVERAL = """
add sub subtract rsub mul multiply div divide true_divide floor_divide fmod remainder pow float_power maximum minimum
fmax fmin atan2 arctan2 hypot eq ne lt le gt ge greater greater_equal less less_equal equal_to not_equal isclose
logical_and logical_or logical_xor logaddexp logaddexp2 copysign nextafter xlogy xlog1py heaviside gcd lcm
bitwise_and bitwise_or bitwise_xor bitwise_left_shift bitwise_right_shift lerp addcmul addcdiv masked_fill complex polar
copy type_as prelu zeta igamma igammac float_power special_xlogy special_xlog1py
__add__ __radd__ __sub__ __rsub__ __mul__ __rmul__ __truediv__ __rtruediv__ __div__ __rdiv__ __floordiv__ __rfloordiv__
__mod__ __rmod__ __pow__ __rpow__ __and__ __rand__ __or__ __ror__ __xor__ __rxor__ __eq__ __ne__ __lt__ __le__ __gt__
__ge__ __lshift__ __rshift__
__iadd__ __isub__ __imul__ __itruediv__ __idiv__ __ifloordiv__ __imod__ __ipow__ __iand__ __ior__ __ixor__
"""
# Fill, or draw, without a look at what was there: in place, the axis stays that of the target.
_FILLS = "zero_ fill_ uniform_ normal_ bernoulli_ random_ exponential_ log_normal_ cauchy_ geometric_"
_FACTORIES = """
zeros_like ones_like empty_like rand_like randn_like randint_like new_zeros new_ones new_empty
zeros ones empty arange eye range rand randn randint randperm tril_indices triu_indices result_type promote_types
can_cast
"""

LINEAR.update(
    functions("add sub subtract rsub mul multiply div divide true_divide neg negative positive clone contiguous detach "
              "to float double half bfloat16 cpu cuda __add__ __radd__ __sub__ __rsub__ __mul__ __rmul__ __truediv__ "
              "__div__ __neg__ __pos__ __iadd__ __isub__ __imul__ __itruediv__ where type_as")
)  # fmt: skip
CONSTANT.update(functions(_FACTORIES))
LIKE.update(functions("to type_as"))
SHAPED.update(functions("full_like new_full new_tensor"))
IN_PLACE.update(getattr(Tensor, name) for name in [*_SEVERAL.split(), *_FILLS.split()]
                if (name.startswith("__i") or name in _FILLS.split()) and hasattr(Tensor, name))  # fmt: skip


def broadcast(call: Call, output: Tensor, among: tuple[Tensor, ...] | None = None) -> Axis | Lost:
    """Return the axis after arguments were broadcast to the shape of ``output``."""
    found: Axis | None = None
    for tensor, state in call.states:
        assert isinstance(state, Axis)
        if among is not None and not any(tensor is t for t in among):
            return call.lost("took examples for an argument that is shared by all")
        index = state.dim + output.ndim - tensor.ndim
        if index < 0 or output.shape[index] != tensor.shape[state.dim]:
            return call.lost("broadcasts the batch dimension, of length one, to another")
        axis = state.at(index)
        if found is None:
            found = axis
        elif found != axis:
            return call.lost("combines batch dimensions at different places")
    assert found is not None
    return found


@rule(_UNARY + _SEVERAL)
def _entries(call: Call) -> State | list[State]:
    if len(call.outputs) == 1:
        return broadcast(call, call.outputs[0])
    return [broadcast(call, output) for output in call.outputs]


for _property in ("data", "real", "imag"):
    RULES[getattr(Tensor, _property).__get__] = _entries
for _name in _FILLS.split():
    RULES[getattr(Tensor, _name)] = _entries


@rule("where")
def _where(call: Call) -> State:
    if len(call.args) + len(call.kwargs) == 1:
        return call.lost("picks entries, so that rows are no longer those of examples")
    return broadcast(call, call.outputs[0])


@rule("prelu", homes=(torch, torch.nn.functional, Tensor))
def _prelu(call: Call) -> State:
    if call.axis.dim == 1 and call.argument(1, "weight").numel() > 1:
        return call.lost("has a slope for every example")
    return call.axis


@rule("tensor as_tensor new_tensor")
def _copied(call: Call) -> State:
    data = call.argument(1 if call.name == "new_tensor" else 0, "data")
    return call.states[0][1] if call.states[0][0] is data else call.lost("puts numbers of examples together")


@rule("full full_like new_full scalar_tensor linspace logspace")
def _filled(call: Call) -> State:
    return call.lost("fills a tensor with a number that depends on examples")


@rule("fused_dropout native_dropout")
def _pairs(call: Call) -> State:
    return call.axis
