"""From a PyTorch module to a dense ONNX model, through torch.onnx."""

from __future__ import annotations

import re
import warnings
from collections.abc import Sequence
from typing import Any

import onnx
import torch
from torch import nn

from sparsify_fx.errors import ExportError
from sparsify_fx.onnx_export.tracing.inputs import Inputs, Place
from sparsify_fx.onnx_export.tracing.open_axes import Axes, for_torch

# What the exporter says about its own insides; pytest would turn each into an error,
# and users can do nothing about it.
_HARMLESS: tuple[tuple[type[Warning], str], ...] = (
    (FutureWarning, ""),
    (DeprecationWarning, ""),
    (UserWarning, r"# The axis name: "),
    (UserWarning, r"The tensor attributes? .* (was|were) assigned during export"),
)


def trace(
    model: nn.Module,
    inputs: Inputs,
    outputs: int,
    *,
    opset: int | None,
    axes: Axes,
    at: Sequence[Place],
) -> onnx.ModelProto:
    """The dense ONNX model of `model`, which returns a tuple of `outputs` tensors.

    Its inputs have the order of `inputs.tensors` and the names of forward's parameters, and `axes` of them are open.
    Raises ExportError when torch.onnx cannot export the model or does not know the opset.
    """
    # 1. torch.export takes a size of 1 for a constant, so it must see open axes with two
    # entries or more. The samples that are repeated for that are traced, and never compared.
    grown = [
        {axis: max(2, value.shape[axis]) for axis in mine}
        for value, mine in zip(inputs.tensors, axes, strict=True)
    ]
    inputs, shapes = inputs.resized(grown), for_torch(axes, at)

    # 2. Trace, once more without torch's optimizer where it broke the graph: it may
    # drop limits that a Clip still reads (timm's gemma4).
    try:
        traced = _program(model, inputs, outputs, opset, shapes, optimize=True)
        if _unmade(traced):
            traced = _program(model, inputs, outputs, opset, shapes, optimize=False)
    except Exception as error:
        raise ExportError(
            f"torch.onnx cannot export this model: {_root_cause(error)}"
        ) from error

    # 3. torch.onnx may drop inputs that nothing reads, and add outputs for buffers that changed.
    _check_traced(traced, len(inputs.tensors), outputs, opset)
    _sort_inputs(traced.graph, [place.name for place in at])
    return traced


def _sort_inputs(graph: onnx.GraphProto, names: Sequence[str]) -> None:
    """Inputs in the order of ours, in place; those with names of torch's own are in it already."""
    # torch.export orders by the signature, and we by the arguments given.
    by_name = {item.name: item for item in graph.input}
    if sorted(by_name) == sorted(names):
        ordered = [by_name[name] for name in names]
        # Copies: deleting a field of protobuf frees the messages in it.
        kept = [
            onnx.ValueInfoProto.FromString(item.SerializeToString()) for item in ordered
        ]
        del graph.input[:]
        graph.input.extend(kept)


def _program(
    model: nn.Module,
    inputs: Inputs,
    outputs: int,
    opset: int | None,
    shapes: Any,
    *,
    optimize: bool,
) -> onnx.ModelProto:
    """What torch.onnx makes of the model; `shapes` are its dynamic ones, `optimize` lets it simplify the graph."""
    # dynamo=True: torch deprecates the exporter that goes through TorchScript, and the
    # open axes are torch.export's.
    with warnings.catch_warnings(), torch.no_grad():
        for category, message in _HARMLESS:
            warnings.filterwarnings("ignore", message, category)
        program = torch.onnx.export(
            model,
            inputs.args,
            kwargs=inputs.kwargs,
            dynamo=True,
            verbose=False,
            optimize=optimize,
            opset_version=opset,
            dynamic_shapes=shapes,
            output_names=[f"sparsify_fx_output_{i}" for i in range(outputs)],
        )
    # None comes from the exporter through TorchScript alone.
    assert program is not None
    found: onnx.ModelProto = program.model_proto
    for value in program.model.graph.initializers.values():
        value.const_value = None  # rewriting rules of the exporter remember the last graph, and with it the weights
    return found


def _unmade(model: onnx.ModelProto) -> list[str]:
    """Values of the main graph that a node reads and nothing makes."""
    graph = model.graph
    # "" stands for an input that is left out.
    made = {item.name for item in (*graph.input, *graph.initializer)} | {""}
    for node in graph.node:
        made.update(node.output)
    found: list[str] = []
    for node in graph.node:
        found += [name for name in node.input if name not in made]
    return found


def _check_traced(
    model: onnx.ModelProto, inputs: int, outputs: int, opset: int | None
) -> None:
    """Inputs, outputs and opset are the ones asked for."""
    graph, written = model.graph, opset_of(model)
    if opset is not None and written != opset:
        raise ExportError(
            f"opset {opset} was asked for, but torch.onnx wrote {written}; use opset={written} or None"
        )
    if unmade := _unmade(model):
        raise ExportError(
            f"torch.onnx cannot export this model: its graph reads {unmade[:4]}, which nothing makes"
        )
    if (len(graph.input), len(graph.output)) != (inputs, outputs):
        raise ExportError(
            f"torch.onnx made a graph with {len(graph.input)} inputs and {len(graph.output)} outputs from a model with "
            f"{inputs} and {outputs}; a forward that changes its own buffers or inputs cannot be exported"
        )


def opset_of(model: onnx.ModelProto) -> int:
    """The version of the standard operator set, 0 if the model imports none."""
    return next(
        (
            entry.version
            for entry in model.opset_import
            if entry.domain in ("", "ai.onnx")
        ),
        0,
    )


def _root_cause(error: BaseException) -> str:
    """Type and first lines of the error at the bottom of the chain, without terminal colors."""
    # torch.onnx wraps each error in advice of several screens; the first one is at the bottom.
    while error.__cause__ is not None:
        error = error.__cause__
    lines = [
        line.strip()
        for line in re.sub(r"\x1b\[\d+m", "", str(error)).splitlines()
        if line.strip()
    ]
    return f"{type(error).__name__}: {' '.join(lines[:2])}"
