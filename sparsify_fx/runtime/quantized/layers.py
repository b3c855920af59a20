"""Quantized layers with float32 weights, as candidates for sparse operators; those that are not chosen get theirs back.

    x -> QuantizeLinear -> DequantizeLinear -> Conv(DequantizeLinear(codes)) -> QuantizeLinear -> ...

What is between the activations in 8 bits is a layer in float32, which a sparse operator may compute. It then differs
from onnxruntime's integer kernels by what those round, and by the order of sums.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass, field

import numpy as np
import onnx
from onnx import NodeProto, TensorProto, numpy_helper

from sparsify_fx.onnx_tools.view import GraphView, attribute, input_of, is_standard
from sparsify_fx.runtime.quantized.codes import Array, Scale
from sparsify_fx.runtime.replace import copied

Read = Callable[[TensorProto], Array]

_LAYERS = ("Conv", "Gemm", "MatMul")
_INTEGERS = (TensorProto.INT8, TensorProto.UINT8)


@dataclass(frozen=True)
class Weight:
    """A quantized weight: its DequantizeLinear, the tensors that this reads, and the scale that they are."""

    node: NodeProto
    tensors: tuple[TensorProto, ...]
    scale: Scale


@dataclass(frozen=True)
class InFloats:
    """A model whose quantized layers have float32 weights under the names of their codes, and what they had before."""

    model: onnx.ModelProto
    weights: Mapping[str, Weight] = field(default_factory=dict)
    biases: Mapping[str, NodeProto] = field(default_factory=dict)


def in_floats(model: onnx.ModelProto, read: Read) -> InFloats:
    """A copy with float32 weights in the layers whose input and weight are dequantized; the model itself if none are.

    Weights stay whose scale or codes are computed or can be replaced by callers, and those that more than layers read.
    """
    view = GraphView(model)
    found = {
        codes: weight
        for codes, weight in _weights(view, read)
        if _only_layers(view, codes)
    }
    if not found:
        return InFloats(model)
    changed = copied(model)
    gone = {name for name, _ in _outputs_of(view, found)}
    biases = {
        node.input[2]: maker
        for node in view.nodes
        if node.op_type in ("Conv", "Gemm")
        and input_of(node, 1) in gone
        and (maker := _constant_maker(view, input_of(node, 2))) is not None
        and _is_row(view, maker)
    }
    codes_of = dict(_outputs_of(view, found))
    _take_out(changed, gone | biases.keys(), codes_of)
    _exchange(changed, found, biases, view, read)
    return InFloats(changed, found, biases)


def put_back(
    model: onnx.ModelProto, before: onnx.ModelProto, floats: InFloats, held: set[str]
) -> None:
    """Give all weights but those `held` by sparse operators their codes again, and the biases theirs, in place."""
    graph = model.graph
    # 1. The nodes that dequantize, in front of their readers; float32 tensors were under the names of codes, and
    # those of biases under the names of what these nodes give.
    left = {name: w for name, w in floats.weights.items() if name not in held}
    makers = {w.node.output[0]: w.node for w in left.values()} | dict(floats.biases)
    outputs = {name: w.node.output[0] for name, w in left.items()}
    nodes = list(_with_makers(graph.node, makers, outputs))
    read: set[str] = set()
    read.update(*(node.input for node in nodes))

    # 2. Codes in the place of floats.
    temporary = left.keys() | floats.biases.keys()
    kept = [t for t in graph.initializer if t.name not in temporary]
    tensors = [TensorProto.FromString(t.SerializeToString()) for t in kept]
    present = {tensor.name for tensor in tensors}
    tensors += [
        tensor
        for tensor in before.graph.initializer
        if tensor.name in read and tensor.name not in present
    ]

    # 3. Scales and zero points of weights that are held go, unless something else reads them.
    unread: set[str] = set()
    for name in held:
        unread.update(each.name for each in floats.weights[name].tensors)
    unread -= read | GraphView(model).fixed
    del graph.node[:]
    graph.node.extend(nodes)
    del graph.initializer[:]
    graph.initializer.extend(t for t in tensors if t.name not in unread)


def _with_makers(
    nodes: Collection[NodeProto],
    makers: Mapping[str, NodeProto],
    outputs: Mapping[str, str],
) -> Iterator[NodeProto]:
    """The nodes in order, each DequantizeLinear before the first that reads its result."""
    waiting = dict(makers)
    for node in nodes:
        copy = NodeProto.FromString(node.SerializeToString())
        copy.input[:] = [outputs.get(name, name) for name in copy.input]
        for name in copy.input:
            if name in waiting:
                yield waiting.pop(name)
        yield copy


def _weights(view: GraphView, read: Read) -> Iterator[tuple[str, Weight]]:
    """The weights of layers whose input is dequantized too, by the name of their codes."""
    for node in view.nodes:
        given = view.producers.get(input_of(node, 0))
        maker = _constant_maker(view, input_of(node, 1))
        if (
            not is_standard(node, *_LAYERS)
            or maker is None
            or given is None
            or not is_standard(given, "DequantizeLinear")
        ):
            continue
        codes = view.tensors[maker.input[0]]
        weight = _weight(maker, view, read) if codes.data_type in _INTEGERS else None
        # Whatever comes out must lead back to the same codes.
        if weight is not None and _is_exact(weight.scale, read(codes)):
            yield codes.name, weight


def _weight(maker: NodeProto, view: GraphView, read: Read) -> Weight | None:
    codes = view.tensors[maker.input[0]]
    tensors = [view.tensors[name] for name in maker.input[1:] if name]
    scale = read(tensors[0])
    zero = (
        read(tensors[1])
        if len(tensors) > 1
        else np.zeros((), onnx.helper.tensor_dtype_to_np_dtype(codes.data_type))
    )
    axis, rank = int(attribute(maker, "axis", 1)), len(codes.dims)
    # Blocks have a scale each, and other types of scales round otherwise.
    if attribute(maker, "block_size", 0) or scale.dtype != np.float32 or rank < 2:
        return None
    if attribute(maker, "output_dtype", 0) not in (0, TensorProto.FLOAT):
        return None
    if max(scale.ndim, zero.ndim) > 1 or not -rank <= axis < rank:
        return None
    if any(each.size not in (1, codes.dims[axis]) for each in (scale, zero)):
        return None
    inline = (
        numpy_helper.from_array(read(t), t.name) if t.external_data else t
        for t in tensors
    )
    return Weight(maker, tuple(inline), Scale(scale, zero, axis))


def _is_exact(scale: Scale, codes: Array) -> bool:
    # Products with smaller scales lose bits, and larger ones may become infinite.
    sizes = np.abs(scale.scale)
    if not ((sizes > 1e-30) & (sizes < 1e30)).all():
        return False
    return np.array_equal(scale.codes_of(scale.values_of(codes)), codes)


def _constant_maker(view: GraphView, name: str) -> NodeProto | None:
    """The DequantizeLinear of constants that gives this value."""
    maker = view.producers.get(name)
    if maker is None or not is_standard(maker, "DequantizeLinear"):
        return None
    return maker if all(n in view.tensors for n in maker.input if n) else None


def _is_row(view: GraphView, maker: NodeProto) -> bool:
    """Whether what a DequantizeLinear gives is a bias that its scale fits, and no output."""
    codes, *others = (view.tensors[name] for name in maker.input if name)
    sizes = {int(np.prod(each.dims)) for each in others}
    fits = len(codes.dims) == 1 and sizes <= {1, codes.dims[0]}
    return fits and maker.output[0] not in view.fixed


def _only_layers(view: GraphView, codes: str) -> bool:
    """Whether layers alone read what is made of these codes, as weights, and in one way."""
    makers = view.uses[codes]
    first = makers[0]
    if codes in view.fixed or any(
        list(each.input) != list(first.input)
        or each.attribute != first.attribute
        or each.output[0] in view.fixed
        for each in makers
    ):
        return False
    return all(_only_weight_of_layers(view, each.output[0]) for each in makers)


def _only_weight_of_layers(view: GraphView, name: str) -> bool:
    """Whether each reader of this value is a layer, of which it is the weight and nothing else."""
    for node in view.uses[name]:
        places = [place for place, given in enumerate(node.input) if given == name]
        if not is_standard(node, *_LAYERS) or places != [1]:
            return False
    return True


def _outputs_of(
    view: GraphView, weights: Mapping[str, Weight]
) -> Iterator[tuple[str, str]]:
    """The values that are made of codes, and the codes of each."""
    for codes in weights:
        yield from ((maker.output[0], codes) for maker in view.uses[codes])


def _take_out(
    model: onnx.ModelProto, gone: Collection[str], codes_of: Mapping[str, str]
) -> None:
    """Remove the nodes that give these values; what read dequantized weights reads their codes' names."""
    graph = model.graph
    for place in reversed(range(len(graph.node))):
        node = graph.node[place]
        if node.output and node.output[0] in gone:
            del graph.node[place]
            continue
        node.input[:] = [codes_of.get(name, name) for name in node.input]
    for place in reversed(range(len(graph.value_info))):
        if graph.value_info[place].name in {*gone, *codes_of.values()}:
            del graph.value_info[place]


def _exchange(
    model: onnx.ModelProto,
    weights: Mapping[str, Weight],
    biases: Mapping[str, NodeProto],
    view: GraphView,
    read: Read,
) -> None:
    """Float32 tensors in the place of codes, and beside them those of biases."""
    for tensor in model.graph.initializer:
        if tensor.name in weights:
            values = weights[tensor.name].scale.values_of(read(tensor))
            tensor.CopyFrom(numpy_helper.from_array(values, tensor.name))
    for name, maker in biases.items():
        arrays = [read(view.tensors[each]) for each in maker.input if each]
        zero = arrays[2] if len(arrays) > 2 else np.zeros((), np.int32)
        values = (arrays[0] - zero).astype(np.float32) * arrays[1]
        model.graph.initializer.append(
            numpy_helper.from_array(values.astype(np.float32), name)
        )
