"""The nodes and tensors that rebuild one weight inside an ONNX graph."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import helper, numpy_helper

from sparsify_fx.onnx_export.files.tensors import tensor_bytes

SHARED = "sparsify_fx."
"""Values whose name starts so are constants that weights of a file share: `role` or, of several, `role.which`."""

OUTPUT = "weight"
"""The local name of the rebuilt weight."""


@dataclass
class Parts:
    """What rebuilds one weight: `nodes` in order, `tensors` of its own, `shared` tensors and nodes of the whole file.

    All names are local to the weight, except those that start with `SHARED`. A weight without nodes is stored as a
    plain initializer, the tensor named `OUTPUT`, or as the sparse initializer `sparse`. `late`: shared values without
    which little is computed of this weight (see `rounds`).
    """

    nodes: list[onnx.NodeProto] = field(default_factory=list)
    tensors: dict[str, NDArray[Any]] = field(default_factory=dict)
    shared: dict[str, NDArray[Any]] = field(default_factory=dict)
    shared_nodes: dict[str, onnx.NodeProto] = field(default_factory=dict)
    sparse: onnx.SparseTensorProto | None = None
    late: set[str] = field(default_factory=set)

    def own(self, name: str, array: NDArray[Any]) -> str:
        """Store a tensor of this weight; returns its name."""
        self._check_free(name)
        self.tensors[name] = array
        return name

    def share(self, name: str, array: NDArray[Any]) -> str:
        """Store a constant that other weights use too; returns its name."""
        self.shared[SHARED + name] = array
        return SHARED + name

    def node(
        self,
        operator: str,
        inputs: list[str],
        output: str,
        attributes: dict[str, Any] | None = None,
    ) -> str:
        """Append a node with one output; returns the output's name."""
        self._check_free(output)
        self.nodes.append(
            helper.make_node(operator, inputs, [output], **(attributes or {}))
        )
        return output

    def share_node(
        self,
        operator: str,
        inputs: list[str],
        name: str,
        attributes: dict[str, Any] | None = None,
    ) -> str:
        """A node on shared values, made once for the whole file; returns its output's name."""
        node = helper.make_node(operator, inputs, [SHARED + name], **(attributes or {}))
        self.shared_nodes[SHARED + name] = node
        return SHARED + name

    def awaited(self, name: str) -> str:
        """Mark a shared value as one that the weight may be made to wait for; returns its name."""
        self.late.add(name)
        return name

    def table(self, name: str, entries: NDArray[Any]) -> str:
        """A shared int32 table of entries below 2**16, stored in one or two bytes each; returns its name."""
        stored = self.share(
            f"{name}_short",
            entries.astype(np.uint8 if entries.max() < 256 else np.uint16),
        )
        return self.awaited(
            self.share_node("Cast", [stored], name, {"to": onnx.TensorProto.INT32})
        )

    def filled(self, size: int, value: NDArray[Any]) -> str:
        """A vector of `size` times the value [1], made once for all weights of that size."""
        # The name tells type and value, since weights that agree in both share it.
        kind = value.dtype if not value.any() else f"{value.dtype}_{value.item()}"
        length = self.share(f"size.{size}", np.array([size], np.int64))
        filling = {"value": numpy_helper.from_array(value)}
        return self.share_node(
            "ConstantOfShape", [length], f"zeros.{kind}_{size}", filling
        )

    def _check_free(self, name: str) -> None:
        """Two values of one name would overwrite each other, silently."""
        if name in self.tensors or any(name in node.output for node in self.nodes):
            raise ValueError(
                f"two values are named {name!r}; encodings and kinds of values need names of their own"
            )

    @property
    def operators(self) -> set[str]:
        """The operators of all nodes."""
        return {node.op_type for node in (*self.nodes, *self.shared_nodes.values())}

    @property
    def inputs(self) -> list[str]:
        """Everything the nodes read that they do not make: own tensors, then shared values, each once."""
        made, read = set[str](), list[str]()
        for node in self.nodes:
            read += (name for name in node.input if name not in made)
            made.update(node.output)
        # By first use, so that weights that are rebuilt alike call one function with the same order of inputs.
        return sorted(
            set(read), key=lambda name: (name.startswith(SHARED), read.index(name))
        )


def own_bytes(parts: Parts) -> int:
    """About the bytes that one weight adds to the file: its tensors and nodes, not what it shares with others."""
    # Two bytes for each node are the tag and the length before it in the graph.
    sparse = 0 if parts.sparse is None else int(parts.sparse.ByteSize())
    tensors = sum(tensor_bytes(name, array) for name, array in parts.tensors.items())
    return sparse + tensors + sum(int(node.ByteSize()) + 2 for node in parts.nodes)


def shared_bytes(weights: Iterable[Parts | None]) -> int:
    """About the bytes of everything that these weights share, each counted once."""
    # By name, so that what several weights share counts once.
    tensors, nodes = dict[str, int](), dict[str, int]()
    for parts in weights:
        if parts is not None:
            tensors |= {
                name: tensor_bytes(name, array) for name, array in parts.shared.items()
            }
            nodes |= {
                name: node.ByteSize() for name, node in parts.shared_nodes.items()
            }
    return sum(tensors.values()) + sum(nodes.values())


def renamed(
    nodes: Iterable[onnx.NodeProto], names: dict[str, str]
) -> list[onnx.NodeProto]:
    """Copies of the nodes with their values renamed; what `names` lacks stays."""
    copies = []
    for node in nodes:
        copied = onnx.NodeProto()
        copied.CopyFrom(node)
        copied.input[:] = [names.get(name, name) for name in node.input]
        copied.output[:] = [names.get(name, name) for name in node.output]
        copies.append(copied)
    return copies
