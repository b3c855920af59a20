"""torch.export's graph of a model, and the ids of all its values."""

from __future__ import annotations

import operator
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, fx, nn

from sparsify_fx.coupling.rules import RULES
from sparsify_fx.coupling.rules.moving import getitem
from sparsify_fx.coupling.tracks import Tracks, Value, staying


def as_call(example_inputs: Any) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """Positional and keyword arguments: from a tensor, a tuple of arguments, or a dict of them by name."""
    if isinstance(example_inputs, Mapping):
        return (), dict(example_inputs)
    if isinstance(example_inputs, (tuple, list)):
        return tuple(example_inputs), {}
    return (example_inputs,), {}


@contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """In eval mode meanwhile; afterwards every module is in the mode that it was in."""
    before = {module: module.training for module in model.modules()}
    model.eval()
    try:
        yield
    finally:
        for module, training in before.items():
            module.training = training


def tracked(model: nn.Module, example_inputs: Any) -> Tracks:
    """Follow the channels of every layer from the inputs to the outputs; whatever torch.export raises goes on."""
    args, kwargs = as_call(example_inputs)
    with evaluating(model), torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        program = torch.export.export(model, args, kwargs, strict=False)
    tracks = _start(program, model)
    for node in program.graph.nodes:
        if node.op == "call_function":
            _follow(node, tracks)
        elif node.op == "output":
            _pin_inputs(node, tracks)
    return tracks


def _start(program: torch.export.ExportedProgram, model: nn.Module) -> Tracks:
    """The tensors of the model, by the nodes that stand for them."""
    signature = program.graph_signature
    places = {**signature.inputs_to_parameters, **signature.inputs_to_buffers}
    constants: dict[str, Tensor] = {}
    stored = {**program.constants, **program.state_dict}
    lifted = {**places, **signature.inputs_to_lifted_tensor_constants}
    for node, name in lifted.items():
        if isinstance(stored.get(name), Tensor):
            constants[node] = stored[name]
    return Tracks(places, constants)


def _follow(node: fx.Node, tracks: Tracks) -> None:
    """Note the ids of a node's results; what is not understood keeps all that it reads."""
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
