"""Readable names in the ONNX graph: the model's own for weights, the output's own for outputs."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence

import onnx
from onnx import numpy_helper
from torch import nn

from sparsify_fx.onnx_tools.view import names_in
from sparsify_fx.onnx_tools.weights import walk_graphs


def rename_values(graph: onnx.GraphProto, names: Mapping[str, str]) -> None:
    """Rename values (`names`: old -> new) everywhere in `graph` and its subgraphs, in place."""
    for inner in walk_graphs(graph):
        for group in (inner.initializer, inner.input, inner.output, inner.value_info):
            for item in group:
                item.name = names.get(item.name, item.name)
        for node in inner.node:
            # Both, in all graphs: a branch reads a value of the graph around it by the same name.
            node.input[:] = [names.get(name, name) for name in node.input]
            node.output[:] = [names.get(name, name) for name in node.output]


def name_outputs(graph: onnx.GraphProto, wanted: Sequence[str]) -> None:
    """Name the outputs as `wanted`, in place; where a value has that name already, `_out` is appended.

    Needed because torch.onnx gives an output the name asked for even if an initializer has it.
    """
    taken, names = set(names_in(graph)), {}
    for output, name in zip(list(graph.output), wanted, strict=True):
        # A value inside a branch may have the name as well, so all names count.
        while name in taken:
            name += "_out"
        taken.add(name)
        names[output.name] = name
    rename_values(graph, names)


def restore_weight_names(graph: onnx.GraphProto, model: nn.Module) -> None:
    """Give weights that the exporter transposed (`val_12`) their name back as `fc.weight.T`, in place.

    A linear layer on inputs of three or more dimensions becomes MatMul with the transposed weight, under a name that
    says nothing: all of a transformer. They are found by their bits; of equal weights the first in the model counts.
    """
    parameters = dict(model.named_parameters())
    taken = set(names_in(graph))
    transposed: dict[str, str] = {}
    for name, value in parameters.items():
        # A parameter whose name is in the graph was not transposed, or is there in both forms.
        if value.dim() == 2 and name not in taken:
            # By their bits: torch.onnx folds the transposition, and tells nobody where the result came from.
            transposed.setdefault(
                _digest(value.detach().T.contiguous().numpy().tobytes(), value.T.shape),
                f"{name}.T",
            )
    names = {}
    for tensor in graph.initializer:
        if len(tensor.dims) == 2 and tensor.name not in parameters:
            known = transposed.get(
                _digest(numpy_helper.to_array(tensor).tobytes(), tensor.dims)
            )
            # Equal weights (tied at the start, all zeros) have one digest; only one
            # tensor can get the name.
            if known is not None and known not in taken:
                names[tensor.name] = known
                taken.add(known)
    rename_values(graph, names)


def _digest(data: bytes, shape: Sequence[int]) -> str:
    """A key for the bits and the shape of a matrix."""
    # A digest rather than the bytes, which would be a second copy of the model. Two of
    # 128 bits do not meet by chance.
    return hashlib.blake2b(data, digest_size=16).hexdigest() + "x".join(map(str, shape))
