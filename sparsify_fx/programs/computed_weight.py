"""ComputedWeight: what a rewritten layer's weight reads as outside of a forward, where writing to it raises.

A computed weight is a temporary tensor: a write to it would be lost without a word. So a read from outside of a
module's forward gives a tensor that behaves like any other, whose results are plain tensors, but which refuses in-place
operations, assignments to `.data`, and the like, also through its views. Inside of a forward, under compilers, tracers
and `torch.func` the weight is the plain tensor.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping, Sequence
from types import CodeType, FrameType
from typing import Any, cast

import torch
from torch import Tensor, nn

from sparsify_fx.errors import LayerError

# A module calls its forward and hooks from here; compiled, the code is another one of the same name and file.
_CALL = nn.Module._call_impl.__code__

_OPERATORS = (
    "add",
    "sub",
    "mul",
    "matmul",
    "truediv",
    "floordiv",
    "mod",
    "pow",
    "and",
    "or",
    "xor",
    "lshift",
    "rshift",
)
_IN_PLACE_OPERATORS = frozenset(
    {"__setitem__", *(f"__i{name}__" for name in _OPERATORS)}
)
# torch itself refuses it where it would be lost.
_ALLOWED = frozenset({"requires_grad_"})
# What is assigned to these is lost with the temporary tensor. Others are attributes of the Python object alone.
_ATTRIBUTES = frozenset({"data", "grad", "real", "imag"})
_VIEWS = frozenset({"data", "T", "mT", "H", "mH", "real", "imag"})
# A copy or a pickle that refused writes would be of no use, and a text shall not name this class.
_OF_PLAIN_TENSORS = frozenset({"__deepcopy__", "__reduce_ex__", "__repr__", "__iter__"})


class _EqualToTensor(type(Tensor)):  # type: ignore[misc]
    """The type of a class that equals `torch.Tensor`.

    torch has lists of the tensor types that it handles, among the inputs of compiled functions for instance.
    """

    def __eq__(cls, other: object) -> bool:
        return other is cls or other is Tensor

    def __hash__(cls) -> int:
        return hash(Tensor)


class ComputedWeight(Tensor, metaclass=_EqualToTensor):
    """The effective weight of a rewritten layer, for reading.

    Raises LayerError on writes: in-place operations, item assignment, `.data = ...`, `out=`, on itself and its views.
    A copy (`clone`, arithmetic) is a plain tensor; so is a parameter made of it.

    >>> import sparsify_fx
    >>> layer = sparsify_fx.apply(nn.Linear(2, 2), "random", sparsity=0.5)
    >>> int((layer.weight != 0).sum())
    2
    >>> layer.weight.data.zero_()
    Traceback (most recent call last):
    sparsify_fx.errors.LayerError: weight of this Linear is computed by its weight program: zero_ would write to a ...
    """

    _described: str

    @property
    def _is_param(self) -> bool:
        return False

    @_is_param.setter
    def _is_param(self, value: bool) -> None:
        # nn.Parameter(weight) sets this on a detached alias, and then it is the parameter.
        self.__dict__.clear()
        self.__class__ = nn.Parameter  # type: ignore[assignment]

    @property
    def _is_buffer(self) -> bool:
        return False

    @_is_buffer.setter
    def _is_buffer(self, value: bool) -> None:
        # The same for nn.Buffer: the alias becomes a plain tensor.
        self.__dict__.pop("_described", None)
        self.__class__ = Tensor  # type: ignore[assignment]
        self._is_buffer = value

    @classmethod
    def __torch_function__(
        cls,
        func: Callable[..., Any],
        types: Sequence[type],
        args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        """Run `func` on the tensor as it is, unless it writes to it; views of the weight refuse writes as well."""
        options = kwargs or {}
        # Compilers trace operations, and would trace these checks with them.
        if torch.compiler.is_compiling():
            with torch._C.DisableTorchFunctionSubclass():
                return func(*args, **options)
        # Operators of torch.ops carry their overload: add_.Tensor.
        name = str(getattr(func, "__name__", "")).partition(".")[0]
        written = _written(func, name, args, options)
        if written is not None:
            raise LayerError(
                _told(
                    written,
                    f"assigning .{_attribute(func)}" if name == "__set__" else name,
                )
            )
        if name in _OF_PLAIN_TENSORS:
            return _of_plain(func, name, args, options)
        with torch._C.DisableTorchFunctionSubclass():
            result = func(*args, **options)
            # Attributes such as shape and grad are no views, and are given back as they are.
            if name == "__get__" and _attribute(func) not in _VIEWS:
                return result
            source = next(
                (item for item in args if isinstance(item, ComputedWeight)), None
            )
            return result if source is None else _views_kept(result, source)


def protected(weight: Tensor, described: str) -> Tensor:
    """`weight` as a tensor that refuses writes.

    Args:
        described: which weight it is, for the error: "weight of this Linear".
    """
    read = weight.as_subclass(ComputedWeight)
    read._described = described
    return read


def in_forward() -> bool:
    """Whether the caller's caller runs within the `forward` of a module, rather than in a hook or outside of any.

    The nearest call of a module on the stack decides.
    """
    child: FrameType = sys._getframe(2)
    frame = child.f_back
    while frame is not None:
        code = frame.f_code
        if code is _CALL:
            return True
        if code.co_filename == _CALL.co_filename:
            # Compilers give the code another name, which holds the old one.
            if _CALL.co_name in code.co_name:
                return True
            # A module with hooks runs those and its forward from `inner`, and only the forward counts.
            if code.co_name == "inner":
                forward = _code(frame.f_locals.get("forward_call"))
                return forward is None or _same_code(forward, child.f_code)
        child, frame = frame, frame.f_back
    return False


def _code(function: Any) -> CodeType | None:
    return getattr(getattr(function, "__func__", function), "__code__", None)


def _same_code(a: CodeType, b: CodeType) -> bool:
    """Whether two codes are of one function, which may be compiled in one of them."""
    return a is b or (
        (a.co_filename, a.co_firstlineno) == (b.co_filename, b.co_firstlineno)
        and a.co_name in b.co_name
    )


def _written(
    func: Any, name: str, args: Sequence[Any], options: Mapping[str, Any]
) -> ComputedWeight | None:
    """The computed weight that a call would write to."""
    found = _first(options.get("out"))
    # In-place operations write to their first argument, which torch lets callers name in three ways.
    first = (
        args[0]
        if args
        else next(
            (options[key] for key in ("input", "tensor", "self") if key in options),
            None,
        )
    )
    if name == "__set__":
        value = args[1] if len(args) > 1 else None
        # To set grad to None frees it and writes nothing: `zero_grad` does so.
        writes = _attribute(func) in _ATTRIBUTES and not (
            _attribute(func) == "grad" and value is None
        )
    else:
        in_place = (
            name.endswith("_") and not name.endswith("__") and name not in _ALLOWED
        )
        writes = (
            in_place or name in _IN_PLACE_OPERATORS or options.get("inplace") is True
        )
    # `out=` is written whatever the operation is.
    return found if found is not None or not writes else _first(first)


def _first(value: Any) -> ComputedWeight | None:
    items = value if isinstance(value, (list, tuple)) else (value,)
    return next((item for item in items if isinstance(item, ComputedWeight)), None)


def _attribute(func: Any) -> str:
    return str(getattr(getattr(func, "__self__", None), "__name__", ""))


def _told(weight: ComputedWeight, what: str) -> str:
    return (
        f"{weight._described} is computed by its weight program: {what} would write to a temporary tensor and be lost. "
        "Initialize before sparsify_fx.apply; load values with load_state_dict or sparsify_fx.take_from; merge first "
        "(sparsify_fx.merge(model)) for LoRA's merge, clipping or averaging of weights; or write to a clone"
    )


def _plain(value: Any) -> Any:
    return value.as_subclass(Tensor) if isinstance(value, ComputedWeight) else value


def _of_plain(
    func: Callable[..., Any], name: str, args: Sequence[Any], options: Mapping[str, Any]
) -> Any:
    """Copies, pickles and texts are those of a plain tensor; iteration gives rows that refuse writes."""
    if name == "__iter__":
        return iter(args[0].unbind(0))
    with torch._C.DisableTorchFunctionSubclass():
        return func(_plain(args[0]), *args[1:], **options)


def _views_kept(result: Any, source: ComputedWeight) -> Any:
    """The result, in which tensors that share memory with the weight refuse writes too."""
    if isinstance(result, Tensor):
        # Only views: arithmetic has memory of its own, and writing to that loses nothing.
        if type(result) is Tensor and _same_memory(result, source):
            return protected(result, source._described)
        if isinstance(result, ComputedWeight):
            result._described = source._described
        return result
    if type(result) in (list, tuple):
        return type(result)(_views_kept(item, source) for item in result)
    return result


def _same_memory(a: Tensor, b: Tensor) -> bool:
    # Sparse tensors have no storage to compare.
    if a.layout != torch.strided or b.layout != torch.strided:
        return False
    return cast(bool, a.untyped_storage()._cdata == b.untyped_storage()._cdata)
