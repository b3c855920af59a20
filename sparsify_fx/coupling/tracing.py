"""torch.export's graph of a model, and the ids of all its values."""

from __future__ import annotations

import io
import logging
import operator
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, redirect_stderr
from typing import Any

import torch
from torch import Tensor, fx, nn

from sparsify_fx.coupling.rules import RULES
from sparsify_fx.coupling.rules.base import tables
from sparsify_fx.coupling.rules.moving import getitem
from sparsify_fx.coupling.tracks import Tracks, Value, staying

# They look at shapes and types alone.
_LOOKING = ("_assert_tensor_metadata", "_assert_scalar", "_assert_async")


def as_call(example_inputs: Any) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """Positional and keyword arguments: from a tensor, a tuple of arguments, or a dict of them by name."""
    if isinstance(example_inputs, Mapping):
        return (), dict(example_inputs)
    if isinstance(example_inputs, (tuple, list)):
        return tuple(example_inputs), {}
    return (example_inputs,), {}


@contextmanager
def in_mode(model: nn.Module, training: bool = False) -> Iterator[None]:
    """In eval or training mode meanwhile; afterwards every module is in the mode that it was in."""
    before = {module: module.training for module in model.modules()}
    fast = torch.backends.mha.get_fastpath_enabled()
    # One kernel for a whole layer of a transformer has no channels that could be followed.
    torch.backends.mha.set_fastpath_enabled(False)
    model.train(training)
    try:
        yield
    finally:
        torch.backends.mha.set_fastpath_enabled(fast)
        for module, mode in before.items():
            module.training = mode


@contextmanager
def _quietly() -> Iterator[None]:
    """Without what torch.export tells of a model that it cannot trace, all of its graph included: parts are next."""
    logger = logging.getLogger("torch.fx.experimental.symbolic_shapes")
    before = logger.disabled
    logger.disabled = True
    try:
        with warnings.catch_warnings(), redirect_stderr(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.disabled = before


def tracked(
    model: nn.Module,
    args: tuple[Any, ...],
    kwargs: Mapping[str, Any],
    start: Tracks,
    training: bool = False,
) -> Tracks:
    """Follow the channels of every layer from the inputs to the outputs; whatever torch.export raises goes on.

    Args:
        start: empty tracks, whose classes and names of tensors are used.
        training: trace the model as it trains.
    """
    with in_mode(model, training), torch.no_grad(), _quietly():
        program = torch.export.export(model, args, dict(kwargs), strict=False)
    tracks = _named(program, start)
    for node in program.graph.nodes:
        if node.op == "call_function":
            _follow(node, tracks)
        elif node.op == "output":
            _pin_inputs(node, tracks)
    return tracks


def _named(program: torch.export.ExportedProgram, tracks: Tracks) -> Tracks:
    """With the tensors of the model, by the nodes that stand for them."""
    signature = program.graph_signature
    places = {**signature.inputs_to_parameters, **signature.inputs_to_buffers}
    tracks.tensors.update({n: tracks.name_of(name) for n, name in places.items()})
    stored = {**program.constants, **program.state_dict}
    lifted = {**places, **signature.inputs_to_lifted_tensor_constants}
    for node, name in lifted.items():
        if isinstance(stored.get(name), Tensor):
            tracks.constants[node] = stored[name]
    return tracks


def _follow(node: fx.Node, tracks: Tracks) -> None:
    """Note the ids of a node's results; what is not understood keeps all that it reads."""
    if _name(node) in _LOOKING:
        return
    tables(node, tracks)
    if node.target is operator.getitem:
        found: Value | list[Value] | None = getitem(node, tracks)
    else:
        rule = RULES.get(_name(node))
        found = None if rule is None else rule(node, tracks)
    if found is None:
        if _pin_inputs(node, tracks):
            name = str(node.target)
            tracks.unknown[name] = tracks.unknown.get(name, 0) + 1
        meta = node.meta.get("val")
        found = staying(tuple(meta.shape)) if isinstance(meta, Tensor) else None
    if found is not None:
        tracks.values[node.name] = found


def _name(node: fx.Node) -> str:
    parts = str(node.target).split(".")
    return parts[1] if parts[0] == "aten" and len(parts) > 1 else str(node.target)


def _pin_inputs(node: fx.Node, tracks: Tracks) -> bool:
    """Everything that a node reads stays; whether there were channels among it."""
    passing = False
    for arg in node.all_input_nodes:
        found = tracks.values.get(arg.name)
        if tracks.is_raw(arg) and isinstance(arg.meta.get("val"), Tensor):
            tracks.uses.setdefault(tracks.tensors[arg.name], []).append(
                staying(tuple(arg.meta["val"].shape))
            )
        for value in found if isinstance(found, list) else [found]:
            if value is not None:
                passing = passing or bool(value.varying)
                tracks.pin(value)
    return passing
