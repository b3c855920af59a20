"""Read weights back from an ONNX graph, with its own nodes, in onnxruntime."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import numpy as np
import onnx
import onnxruntime
from numpy.typing import NDArray
from onnx import helper

from sparsify_fx.errors import ExportError
from sparsify_fx.onnx_export.files.tensors import TensorReader
from sparsify_fx.onnx_export.storage.codecs.extents import (
    KNOWN,
    Extent,
    check_extent,
    extent_after,
    extent_of,
    extents_of_call,
)
from sparsify_fx.onnx_export.storage.codecs.rebuilding import ancestors, producers_in
from sparsify_fx.onnx_export.storage.sparse_initializers import decode_coo
from sparsify_fx.onnx_tools.weights import called, key_of

_AT_ONCE = 2**22
"""Entries of the weights that are rebuilt in one session, if there are several."""

_TOGETHER = 64
"""How many these are at most: what goes wrong is told of one of them."""


class Decoder:
    """The constant values of a model: initializers, dense or sparse, and what nodes make of them.

    Raises ExportError for a value that is not there, depends on an input, takes more work than any packed weight
    (`extents`), or cannot be computed.
    """

    def __init__(
        self, model: onnx.ModelProto, reader: TensorReader | None = None
    ) -> None:
        self.model, self.reader = model, reader or TensorReader()
        self.tensors = {tensor.name: tensor for tensor in model.graph.initializer}
        self.sparse = {
            tensor.values.name: tensor for tensor in model.graph.sparse_initializer
        }
        self.nodes = list(model.graph.node)
        self.places: dict[str, int] = {}
        for place, node in enumerate(self.nodes):
            self.places.update(dict.fromkeys(node.output, place))
        self.producers = producers_in(self.nodes)
        self.functions = {key_of(function): function for function in model.functions}
        self._extents: dict[str, Extent] = {}

    def array(self, name: str) -> NDArray[Any]:
        """The array that the graph gives for this name."""
        return next(array for _, array in self.arrays([name]))

    def arrays(self, names: Iterable[str]) -> Iterator[tuple[str, NDArray[Any]]]:
        """The values of these names, each with its name; those that nodes make come last, several from one session."""
        # Stored ones come as they are found; those that nodes make wait, to be rebuilt
        # together.
        made: list[str] = []
        for name in names:
            if name in self.tensors:
                yield name, self.reader.array(self.tensors[name])
            elif name in self.sparse:
                yield name, decode_coo(self.sparse[name], self.reader)
            elif name in self.producers:
                made.append(name)
            else:
                raise ExportError(
                    f"{name}: the file holds no such tensor; it may be damaged, write it again"
                )
        for batch in self._batches(made):
            yield from self._run(batch)

    def shape(self, name: str) -> tuple[int, ...]:
        """The shape of a value, which is not computed for that."""
        if name in self.producers:
            self._checked(name)
        return self._extent(name).shape

    def _batches(self, names: Iterable[str]) -> Iterator[list[str]]:
        """The names in groups that are rebuilt at once: a session takes time, and large weights take memory."""
        batch, held = list[str](), 0
        for name in names:
            # Before the session that rebuilds it is made: there is no limit to what that
            # may compute.
            entries = self._checked(name)
            if batch and (held + entries > _AT_ONCE or len(batch) == _TOGETHER):
                yield batch
                batch, held = [], 0
            batch.append(name)
            held += entries
        if batch:
            yield batch

    def _checked(self, name: str) -> int:
        """The entries of a value, once it is certain that nothing on the way to it is too large."""
        # 1. How much the file stores for this value: what is rebuilt may be larger by a
        # bounded factor only.
        needed = set(ancestors(name, self.producers))
        stored = sum(
            math.prod(self.tensors[value].dims)
            for value in needed
            if value in self.tensors
        )
        stored += sum(
            math.prod(self.sparse[value].values.dims)
            for value in needed
            if value in self.sparse
        )

        # 2. In the order of the graph, so that the extents of all inputs are known when a
        # node's turn comes.
        for place in sorted(
            {self.places[value] for value in needed if value in self.places}
        ):
            node = self.nodes[place]
            # Values that weights share are worked out once: of many small weights each
            # has the same tables.
            if any(output not in self._extents for output in node.output):
                self._extents.update(self._extents_of(node, stored))
        return self._extents[name].entries

    def _extents_of(self, node: onnx.NodeProto, stored: int) -> dict[str, Extent]:
        """The extents of what a node makes."""
        given = [self._extent(value) if value else None for value in node.input]
        function = self.functions.get(called(node))
        found = (
            extent_after(node, given)
            if function is None
            else extents_of_call(node, function, given, stored)
        )
        check_extent(node.output[0], found, stored)
        return dict.fromkeys(node.output, found)

    def _extent(self, name: str) -> Extent:
        if name in self._extents:
            return self._extents[name]
        if name in self.tensors:
            tensor = self.tensors[name]
            # A short tensor may be a shape or a size, so its values count; of all others
            # the extent is enough.
            small = (
                math.prod(tensor.dims) <= KNOWN
                and tensor.data_type != onnx.TensorProto.STRING
            )
            return (
                extent_of(self.reader.array(tensor))
                if small
                else Extent(tuple(tensor.dims))
            )
        if name in self.sparse:
            return Extent(tuple(self.sparse[name].dims))
        raise ExportError(
            f"{name}: the file holds no such tensor; it may be damaged, write it again"
        )

    def _run(self, names: Sequence[str]) -> Iterator[tuple[str, NDArray[Any]]]:
        """Run the nodes that make these values, and no others."""
        # 1. A model of these nodes alone, so that nothing else in the file is run or
        # loaded.
        values: set[str] = set()
        for name in names:
            values.update(ancestors(name, self.producers))
        model = onnx.ModelProto(ir_version=self.model.ir_version)
        model.opset_import.extend(self.model.opset_import)
        model.functions.extend(self.model.functions)
        graph = model.graph
        graph.name = "weights"
        graph.output.extend(helper.make_empty_tensor_value_info(name) for name in names)
        places = sorted(
            {self.places[value] for value in values if value in self.places}
        )
        graph.node.extend(self.nodes[place] for place in places)
        graph.initializer.extend(
            self.reader.inline(self.tensors[value])
            for value in values & self.tensors.keys()
        )
        graph.sparse_initializer.extend(
            self._inside(self.sparse[value]) for value in values & self.sparse.keys()
        )

        # 2. Without optimization, which would fold all nodes first and hold what each of
        # them gives; here they run once anyway.
        options = onnxruntime.SessionOptions()
        options.log_severity_level = 4
        options.graph_optimization_level = (
            onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
        )
        try:
            data = model.SerializeToString()
            session = onnxruntime.InferenceSession(
                data, options, providers=["CPUExecutionProvider"]
            )
            arrays = session.run(list(names), {})
        # onnxruntime raises a dozen classes, which have only Exception in common.
        except Exception as error:
            what = (
                names[0]
                if len(names) == 1
                else f"{names[0]} or one of {len(names) - 1} others"
            )
            raise ExportError(
                f"{what}: onnxruntime cannot rebuild this weight: {error}"
            ) from error
        yield from zip(names, map(np.asarray, arrays), strict=True)

    def _inside(self, sparse: onnx.SparseTensorProto) -> onnx.SparseTensorProto:
        """The sparse tensor with its data inside."""
        whole = onnx.SparseTensorProto(dims=sparse.dims)
        whole.values.CopyFrom(self.reader.inline(sparse.values))
        whole.indices.CopyFrom(self.reader.inline(sparse.indices))
        return whole
