"""Operators on each entry by itself, of one tensor or of several that broadcast.

f(x)            the ids of x
x + y, x * y    the ids of x and y joined, entry by entry
1 channel * n   the one channel is read by all n: it stays
"""

from __future__ import annotations

from torch import fx

from sparsify_fx.coupling.rules.base import Rule, arguments, keep_ids, shape_of
from sparsify_fx.coupling.tracks import Tracks, Value, compressed

UNARY = (
    "relu", "relu_", "relu6", "relu6_", "leaky_relu", "leaky_relu_", "elu", "elu_", "selu", "selu_", "celu", "celu_",
    "gelu", "gelu_", "silu", "silu_", "mish", "mish_", "hardswish", "hardswish_", "hardsigmoid", "hardsigmoid_",
    "hardtanh", "hardtanh_", "sigmoid", "sigmoid_", "tanh", "tanh_", "softplus", "threshold", "threshold_", "abs",
    "neg", "exp", "log", "log1p", "sqrt", "rsqrt", "reciprocal", "sin", "cos", "erf", "floor", "ceil", "round", "sign",
    "square", "clamp", "clamp_", "clamp_min", "clamp_max", "dropout", "dropout_", "feature_dropout", "alpha_dropout",
    "to", "type_as", "_to_copy", "clone", "contiguous", "alias", "detach", "detach_", "lift_fresh_copy", "positive",
    "logical_not", "bitwise_not", "isnan", "nan_to_num", "fill_", "fill", "zero_", "log_sigmoid", "softsign", "expm1",
    "log2", "log10", "exp2", "isinf", "isfinite", "trunc", "frac", "hardshrink", "softshrink", "sqrt_", "exp_", "abs_",
    "neg_", "square_", "clamp_min_", "clamp_max_", "erf_", "rrelu", "feature_dropout_", "alpha_dropout_", "celu_",
    "bernoulli", "bernoulli_", "float", "double", "half", "tan", "asin", "acos", "atan", "sinh", "cosh",
)  # fmt: skip
SEVERAL = (
    "add", "add_", "sub", "sub_", "rsub", "mul", "mul_", "div", "div_", "pow", "maximum", "minimum", "where",
    "masked_fill", "masked_fill_", "addcmul", "addcdiv", "lerp", "eq", "ne", "lt", "le", "gt", "ge", "logical_and",
    "logical_or", "fmod", "remainder", "floor_divide", "atan2",
)  # fmt: skip


def several(node: fx.Node, tracks: Tracks) -> Value | None:
    """The ids of all operands, joined."""
    shape = shape_of(node)
    # Whatever is no tensor is one number for all entries.
    given = [arg for arg in node.args if isinstance(arg, fx.Node)]
    computed = [arg for arg in given if not tracks.is_raw(arg)]
    result: Value | None = None
    for arg in computed:
        other = _aligned(tracks.value(arg), len(shape))
        result = other if result is None else _joined(result, other, shape, tracks)
    for arg in given:
        if tracks.is_raw(arg):
            result = _with_parameter(arg, result, shape, tracks)
    return None if result is None else Value(result.ids, shape)


def _aligned(value: Value, rank: int) -> Value:
    """With axes of size 1 in front."""
    missing = [1] * (rank - len(value.shape))
    return Value(
        value.ids.reshape([*missing, *value.ids.shape]), (*missing, *value.shape)
    )


def _joined(a: Value, b: Value, shape: tuple[int, ...], tracks: Tracks) -> Value:
    """The ids of both; what is broadcast over different ids is read by all of them, and stays."""
    if _spreads(a, b):
        tracks.pin(a)
        kept = b.ids
    elif _spreads(b, a):
        tracks.pin(b)
        kept = a.ids
    else:
        tracks.join(a.ids, b.ids)
        # Both have the same classes now; the one that is stored shorter tells so.
        kept = min(a.ids, b.ids, key=lambda ids: ids.numel())
    broad = [max(pair) for pair in zip(a.shape, b.shape, strict=True)]
    return Value(kept, tuple(broad))


def _spreads(a: Value, b: Value) -> bool:
    """Whether `a` is one entry for several of `b` that differ."""
    return any(a.shape[axis] == 1 and b.shape[axis] > 1 for axis in b.varying)


def _with_parameter(
    node: fx.Node, other: Value | None, shape: tuple[int, ...], tracks: Tracks
) -> Value:
    """A scale or a table of a layer: sliced along the axes on which the other operand's ids differ."""
    own_shape = shape_of(node)
    missing = len(shape) - len(own_shape)
    if other is None:
        return _aligned(tracks.value(node), len(shape))
    axes = [
        axis
        for axis in other.varying
        if axis >= missing and own_shape[axis - missing] > 1
    ]
    # One number for every channel needs no slice.
    if not axes:
        return other
    # A table that differs along one axis of several is sliced only where all channels of that place go.
    rest = tuple(axis for axis in other.varying if axis not in axes)
    one = tracks.unify(other, rest) if rest or len(axes) > 1 else other
    if len(axes) > 1:
        one = tracks.unify(one, tuple(axes[1:]))
    tracks.use(node, {axes[0] - missing: one.along(axes[0])})
    return other


def _glu(node: fx.Node, tracks: Tracks) -> Value | None:
    """Halves, of which one is the gate of the other."""
    data, axis = tracks.value(node.args[0]), arguments(node)["dim"]
    first, second = data.full().chunk(2, axis)
    tracks.join(first, second)
    return compressed(first)


def _prelu(node: fx.Node, tracks: Tracks) -> Value | None:
    data, slopes = tracks.value(node.args[0]), node.args[1]
    assert isinstance(slopes, fx.Node)
    if not tracks.is_raw(slopes) or set(data.varying) - {1}:
        return None
    if slopes.meta["val"].numel() > 1:
        tracks.use(slopes, {0: data.along(1)})
    return data


ELEMENTWISE: dict[str, Rule] = {
    **dict.fromkeys(UNARY, keep_ids),
    **dict.fromkeys(SEVERAL, several),
    "glu": _glu,
    "prelu": _prelu,
}
