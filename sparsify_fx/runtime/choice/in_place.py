"""What each layer takes where it stands: whole models are profiled, dense and sparse, and times of nodes put together.

onnxruntime renames and joins nodes. So every node gets a name that is found again in those of what it becomes; and a
convolution in blocks of channels is named after the value that it gives.
"""

from __future__ import annotations

import math
import re
import statistics
from collections.abc import Callable, Collection, Iterable, Mapping
from typing import Any

import onnx

from sparsify_fx.runtime.candidates import DOMAIN, Candidate
from sparsify_fx.runtime.choice.cost import Times
from sparsify_fx.runtime.choice.racing import node_times
from sparsify_fx.runtime.replace import copied

_MARK = re.compile(r"sfx\d{7}x")
_BLOCKED = "_nchwc"


def dense_times(
    model: onnx.ModelProto,
    layers: Iterable[Candidate],
    feed: Mapping[str, Any],
    threads: int = 1,
) -> dict[str, float]:
    """Nanoseconds of layers of a dense model with what follows them, by their first output; of those that are found."""
    marked = copied(model)
    outputs = _mark(marked)
    owner: dict[str, str] = {}
    for layer in layers:
        owner.update(dict.fromkeys(layer.values, layer.node.output[0]))
    found: dict[str, float] = {}
    for name, taken in node_times(marked, feed, threads).items():
        # onnxruntime names a fused node after those that it took in, so all of their
        # marks may be in its name.
        values = [outputs[mark] for mark in _MARK.findall(name) if mark in outputs] or [
            name.removesuffix(_BLOCKED)
        ]
        # A node that belongs to several layers is shared out evenly: nothing tells what
        # each part of it takes.
        owners = {owner[value] for value in values if value in owner}
        for key in owners:
            found[key] = found.get(key, 0.0) + taken / len(owners)
    return {key: taken for key, taken in found.items() if taken > 0}


def sparse_times(
    model: onnx.ModelProto,
    layers: Iterable[Candidate],
    feed: Mapping[str, Any],
    threads: int = 1,
) -> dict[str, float]:
    """The same of layers that are sparse operators in `model`; what joined ones take is shared by multiply-adds."""
    marked = copied(model)
    _mark(marked)
    # A sparse operator is known by the weights that it holds: outputs have other names
    # once tails are fused.
    readers: dict[str, list[str]] = {}
    layers = list(layers)
    for layer in layers:
        readers.setdefault(f"{layer.node.input[1]}.values", []).append(
            layer.node.output[0]
        )
    work = {layer.node.output[0]: _multiply_adds(layer) for layer in layers}
    held: dict[str, list[str]] = {}
    for node in marked.graph.node:
        if node.domain == DOMAIN:
            held[node.name] = []
            for name in node.input:
                held[node.name] += readers.get(name, [])
    beside = _around(
        marked, {layer.node.output[0] for layer in layers if layer.quantized}, held
    )
    found: dict[str, list[float]] = {}
    more: dict[str, float] = {}
    for name, taken in node_times(marked, feed, threads).items():
        own = held.get(name, [])
        whole = sum(work[key] for key in own)
        for key in own:
            found.setdefault(key, []).append(taken * work[key] / whole)
        # onnxruntime copies a DequantizeLinear for each that reads it: its name holds the mark.
        around: set[str] = set()
        around.update(*(beside.get(mark, []) for mark in _MARK.findall(name)))
        for key in around:
            more[key] = more.get(key, 0.0) + taken
    # A weight that several nodes read: each of them takes as long as all on the average.
    return {
        key: statistics.fmean(taken) + more.get(key, 0.0)
        for key, taken in found.items()
    }


def _multiply_adds(layer: Candidate) -> float:
    """Those of its living weights, at least one; as for one pixel or row where the shape of the result is unknown."""
    living = layer.density * layer.weight.size
    shape = layer.output_shape or ()
    lengths = [length for length in shape if isinstance(length, int)]
    if len(lengths) != len(shape):
        return max(1.0, living)
    pixels = lengths[2:] if layer.node.op_type == "Conv" else lengths[:-1]
    return max(1.0, living * math.prod(pixels))


def _around(
    model: onnx.ModelProto, quantized: Collection[str], held: Mapping[str, list[str]]
) -> dict[str, list[str]]:
    """The nodes that dequantize for sparse operators, and quantize what they give, each with the layers it is for.

    In integers a layer does both itself, so that they count as a part of it.
    """
    makers = {node.output[0]: node for node in model.graph.node if node.output}
    found: dict[str, list[str]] = {}
    owners: dict[str, list[str]] = {}
    for node in model.graph.node:
        layers = [key for key in held.get(node.name, []) if key in quantized]
        if not layers:
            continue
        owners[node.output[0]] = layers
        maker = makers.get(node.input[0])
        if maker is not None and maker.op_type == "DequantizeLinear":
            found.setdefault(maker.name, []).extend(layers)
    for node in model.graph.node:
        if node.op_type == "QuantizeLinear" and node.input[0] in owners:
            found[node.name] = owners[node.input[0]]
    return found


def _mark(model: onnx.ModelProto) -> dict[str, str]:
    """Gives the nodes their names, in place; the first output of each by that name."""
    outputs = {}
    for number, node in enumerate(model.graph.node):
        node.name = f"sfx{number:07d}x"
        if node.output:
            outputs[node.name] = node.output[0]
    return outputs


def corrected(
    estimates: Mapping[str, Times],
    dense: Mapping[str, float],
    sparse: Mapping[str, float],
) -> dict[str, Times]:
    """Measured times where there are any; estimates of the others, scaled as measured times were to their estimates."""
    # The median of ratios, since single layers may be off by far.
    scale_dense = _scale(dense, lambda key: estimates[key].dense)
    scale_sparse = (
        _scale(sparse, lambda key: estimates[key].sparse) if sparse else scale_dense
    )
    return {
        key: Times(
            dense.get(key, scale_dense * each.dense),
            sparse.get(key, scale_sparse * each.sparse),
        )
        for key, each in estimates.items()
    }


def _scale(measured: Mapping[str, float], estimated: Callable[[str], float]) -> float:
    ratios = [
        taken / estimated(key) for key, taken in measured.items() if estimated(key) > 0
    ]
    return statistics.median(ratios) if ratios else 1.0
