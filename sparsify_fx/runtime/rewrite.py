"""Layers of an ONNX model become the sparse operators of this package."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from functools import partial

import onnx
from onnx import NodeProto, TensorProto, helper, numpy_helper

from sparsify_fx.onnx_tools.shapes import infer_shapes
from sparsify_fx.onnx_tools.view import GraphView
from sparsify_fx.runtime.attention.join import join_attention
from sparsify_fx.runtime.candidates import (
    DOMAIN,
    Candidate,
    sparse_node,
)
from sparsify_fx.runtime.choice.cost import Times, estimate
from sparsify_fx.runtime.choice.giving_back import fastest
from sparsify_fx.runtime.choice.layouts import fastest_layers
from sparsify_fx.runtime.choice.racing import inlined, made_up
from sparsify_fx.runtime.encode import packed_weight
from sparsify_fx.runtime.fusion.join import join_depthwise
from sparsify_fx.runtime.fusion.join_mlp import join_mlps, join_norms
from sparsify_fx.runtime.fusion.join_pool import join_pools
from sparsify_fx.runtime.fusion.join_sum import join_sums
from sparsify_fx.runtime.fusion.planes import pad_planes
from sparsify_fx.runtime.fusion.pools import is_pool, pool_node
from sparsify_fx.runtime.known import Constants, Known
from sparsify_fx.runtime.quantized.layers import in_floats, put_back
from sparsify_fx.runtime.quantized.record import write_record
from sparsify_fx.runtime.replace import copied, replace
from sparsify_fx.runtime.restore import Read


def to_sparse(
    model: onnx.ModelProto,
    choose: Callable[[Candidate], bool] | None = None,
    *,
    timed: Callable[[Candidate], Times] | None = None,
    autotune: bool = False,
    batch: int = 1,
    threads: int = 1,
    sizes: Mapping[str, tuple[int, ...]] | None = None,
    expected: Mapping[str, tuple[int, ...]] | None = None,
    read: Read = numpy_helper.to_array,
) -> tuple[onnx.ModelProto, list[str]]:
    """A copy of `model` with sparse operators where they are faster, and the names of the weights they hold.

    Additions of equal shape and activations (ReLU, ReLU6, SiLU, GELU) after a layer become part of it. All other
    nodes stay as they are, but for attention over packed heads, which becomes one operator; activations stay in NCHW,
    so nothing is converted between sparse and dense layers. A weight that several nodes read becomes sparse for all of
    them or for none.

    A layer between activations in 8 bits (QDQ) may become one that computes in float32 between these.

    Args:
        model: a model with dense weights as initializers.
        choose: which layers to take; the default are those with which the whole model should take the least time.
        timed: for that, the times of a layer instead of estimates.
        autotune: choose anew by times on this machine, with `threads` threads: those of layers within the whole model,
            on made-up inputs, and of the whole models that such choices make; the fastest stays (`giving_back`).
        batch: the batch size to expect, where the model leaves it open.
        sizes: the shapes of the model's inputs to expect, where it leaves more open than that.
        expected: the shapes of other values at these sizes, as a run of the model has them; the rest is inferred.
        read: gives the array of an initializer, for models with external data.

    Raises ExportError when `autotune` cannot run the model.

    >>> import numpy as np
    >>> weight = numpy_helper.from_array(np.eye(512, dtype=np.float32), "w")
    >>> x, y = (helper.make_tensor_value_info(name, TensorProto.FLOAT, [64, 512]) for name in "xy")
    >>> node = helper.make_node("MatMul", ["x", "w"], ["y"])
    >>> model = helper.make_model(helper.make_graph([node], "g", [x], [y], [weight]))
    >>> sparse, names = to_sparse(model)
    >>> names, sparse.graph.node[0].op_type
    (['w'], 'SparseMatMul')
    """
    # 1. With autotune this function is called again for each choice, with times in the
    # place of estimates.
    timed = timed or partial(estimate, batch=batch)
    if autotune and choose is None:
        again = partial(
            to_sparse, model, batch=batch, sizes=sizes, expected=expected, read=read
        )
        whole, given = inlined(model, read), made_up(model, sizes)
        tried = fastest(
            whole,
            lambda times: again(timed=times),
            timed,
            given,
            add=True,
            threads=threads,
        )
        return tried.model, tried.names

    # 2. Shapes twice: those that hold for every input decide what may be fused, those at
    # the expected sizes what is fast.
    floats = in_floats(model, read)
    rewritten = copied(floats.model)
    shapes = infer_shapes(rewritten, recorded=True)
    at_sizes = (
        shapes
        | (infer_shapes(rewritten, sizes) if sizes else {})
        | dict(expected or {})
    )
    known = Known(
        GraphView(rewritten),
        Constants(rewritten.graph, read),
        shapes,
        at_sizes,
        floats.weights,
    )

    # 3. Layers and the poolings between them are chosen together, as a minimum cut.
    pools: list[NodeProto] = []
    if choose is None:
        outputs = [item.name for item in rewritten.graph.output]
        chosen = fastest_layers(known.graph(outputs, batch), timed)
        choose = partial(_makes_one_of, chosen)
        pools = [
            node
            for node in known.view.nodes
            if is_pool(node) and node.output[0] in chosen
        ]

    # 4. Layers and what follows them become our operators.
    layers = known.layers(choose)
    # Pooling pays between sparse layers alone, and a file without any must not need the library.
    nodes = _with_ours(known, layers, pools if layers else [])
    weights = {layer.node.input[1]: layer.weight for layer in layers.values()}
    if floats.weights and not weights:
        return copied(model), []
    packed: list[TensorProto] = []
    for name, weight in weights.items():
        packed += packed_weight(name, weight)
    replace(rewritten, nodes, packed)
    if weights and all(opset.domain != DOMAIN for opset in rewritten.opset_import):
        rewritten.opset_import.append(helper.make_opsetid(DOMAIN, 1))

    # 5. Our operators are fused with each other. Planes are last, since they take fused
    # sums too; attention is found by what it computes, apart from all of these.
    join_depthwise(rewritten)
    join_pools(rewritten)
    join_sums(rewritten)
    pad_planes(rewritten)
    join_norms(rewritten, shapes)
    join_mlps(rewritten)
    # Attention alone makes no sparse file either, so that it does not need the library.
    if layers:
        join_attention(rewritten, shapes, Constants(rewritten.graph, read))

    # 6. Quantized layers that stay have codes again; of the others the file tells what they were.
    if floats.weights:
        put_back(rewritten, model, floats, floats.weights.keys() & weights)
        write_record(rewritten, floats.weights, weights)
    return rewritten, list(weights)


def _makes_one_of(names: set[str], layer: Candidate) -> bool:
    return layer.node.output[0] in names


def _with_ours(
    known: Known, layers: Mapping[int, Candidate], pools: Iterable[NodeProto]
) -> list[NodeProto]:
    """All nodes in their order, with these layers and the tails after them, and these poolings, as our operators."""
    replaced: dict[int, list[NodeProto]] = {
        id(node): [pool_node(node)] for node in pools
    }
    taken: set[int] = set()
    for layer in layers.values():
        # In the order of the graph, so that of two layers whose sum is taken the first
        # gets the addition.
        tail = known.tail(layer.node, taken)
        gone = (layer.node, *tail.nodes)
        taken.update(id(each) for each in gone)
        replaced.update({id(each): [] for each in gone})
        # In the place of the last node, where all that any of them reads is there.
        replaced[id(gone[-1])] = [sparse_node(layer, tail)]
    nodes: list[NodeProto] = []
    for node in known.view.nodes:
        nodes += replaced.get(id(node), [node])
    return nodes
