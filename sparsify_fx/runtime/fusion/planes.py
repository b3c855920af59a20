"""Sparse convolutions that read each other's results in place: in planes with room for the padding around them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence

import onnx
from onnx import NodeProto, TensorProto, helper

from sparsify_fx.onnx_tools.view import GraphView
from sparsify_fx.runtime.candidates import DOMAIN, attributes
from sparsify_fx.runtime.fusion.halve import HALVE, halves_of
from sparsify_fx.runtime.fusion.join import add_attributes, fits_planes, read_counts
from sparsify_fx.runtime.fusion.join_sum import SUM
from sparsify_fx.runtime.replace import replace

PAD, UNPAD = "PadPlanes", "UnpadPlanes"

_SUFFIX = ".sparsify_fx.planes"


def pad_planes(model: onnx.ModelProto) -> None:
    """Lets chains of sparse convolutions, in place, pass padded planes on; copies at both ends of a chain convert.

    A chain of which more values would be converted than passed on stays as it is.
    """
    kept = GraphView(model).fixed

    # 1. Shortcuts that halve an image can be computed on planes too: without them every
    # such block would end a chain.
    halves = halves_of(model)
    nodes = list(_with_halves(model.graph.node, halves))
    chosen = {node.output[0]: node for node in nodes if _can(node)}

    # 2. A chain is worth it if more values pass within it than are converted at its ends.
    for chain in _chains(chosen):
        passed, converted = _counts(chain, nodes, kept)
        if converted >= passed:
            for name in chain:
                del chosen[name]
    if not chosen:
        return
    plain = {name: old for name, (old, _) in halves.items() if name not in chosen}
    left: list[NodeProto] = []
    for node in nodes:
        # A shortcut that no chain took would be one more operator of ours for nothing.
        left += plain.get(node.output[0], [node]) if node.op_type == HALVE else [node]
    replace(model, list(_padded(left, chosen, kept)), [])

    # 3. Equal symbols tell onnxruntime that a sum may overwrite what is added: buffers
    # are reused for equal shapes alone.
    for name, size in _sizes(chosen).items():
        model.graph.value_info.append(
            helper.make_tensor_value_info(name + _SUFFIX, TensorProto.FLOAT, [size])
        )


def _with_halves(
    nodes: Iterable[NodeProto],
    halves: Mapping[str, tuple[Sequence[NodeProto], NodeProto]],
) -> Iterator[NodeProto]:
    """The nodes with our operators in the place of such shortcuts."""
    gone: set[str] = set()
    for old, _ in halves.values():
        gone.update(node.output[0] for node in old[:-1])
    for node in nodes:
        if not node.output or node.output[0] not in gone:
            yield (
                halves[node.output[0]][1]
                if node.output and node.output[0] in halves
                else node
            )


def without_planes(nodes: Iterable[NodeProto]) -> Iterator[NodeProto]:
    """The nodes before `pad_planes`, in order."""
    for node in nodes:
        if node.domain != DOMAIN:
            yield node
        elif node.op_type not in (PAD, UNPAD):
            yield _plain(node)


def _can(node: NodeProto) -> bool:
    """Whether the library computes this node on padded planes."""
    if node.domain != DOMAIN or node.op_type not in ("SparseConv", SUM, HALVE):
        return False
    found = attributes(node)
    if node.op_type == HALVE:
        return True
    if node.op_type == SUM:
        steps = [found.get(name, [1, 1]) for name in ("strides", "projection_strides")]
        return all(max(each) <= 2 and len(set(each)) == 1 for each in steps)
    return "weight_shape" in found and fits_planes(tuple(found["weight_shape"]), found)


def _read(node: NodeProto) -> list[str]:
    """The activations that a sparse convolution reads: its input, and what is added."""
    return [node.input[0], *(name for name in node.input[4:5] if name)]


def _chains(nodes: Mapping[str, NodeProto]) -> list[set[str]]:
    """The names of these nodes' results, those together of which one is read by the node of another."""
    chains: list[set[str]] = []
    for name, node in nodes.items():
        # A node that reads from several chains makes one of them.
        near = [chain for chain in chains if not chain.isdisjoint(_read(node))]
        chains = [chain for chain in chains if chain not in near] + [
            {name}.union(*near)
        ]
    return chains


def _counts(
    chain: set[str], nodes: Iterable[NodeProto], kept: set[str]
) -> tuple[int, int]:
    """How often a value passes from node to node within the chain, and how many must be converted."""
    passed, given, taken = 0, set(), kept & chain
    for node in nodes:
        if node.output and node.output[0] in chain:
            passed += sum(name in chain for name in _read(node))
            given |= set(_read(node)) - chain
        else:
            taken |= chain.intersection(node.input)
    return passed, len(given) + len(taken)


def _padded(
    nodes: Iterable[NodeProto], chosen: Mapping[str, NodeProto], kept: set[str]
) -> Iterator[NodeProto]:
    """All nodes, these on planes, and the copies that convert where a chain begins and ends."""
    nodes = list(nodes)
    # Readers outside need a value in NCHW.
    others = read_counts(node for node in nodes if not _in(node, chosen))
    there = set(chosen)
    sizes = _sizes(chosen)
    # Planes that may share a buffer must have one layout: if one of them needs the lines
    # of neighbors, all have them.
    edged = {
        sizes.get(node.input[0], node.input[0])
        for node in chosen.values()
        if _reads_edges(node)
    }
    for node in nodes:
        if not _in(node, chosen):
            yield node
            continue
        # Converted right before its first reader, and once for all of them.
        for name in _read(node):
            if name not in there:
                there.add(name)
                pad = helper.make_node(PAD, [name], [name + _SUFFIX], domain=DOMAIN)
                add_attributes(
                    pad, {"edges": 1} if sizes.get(name, name) in edged else {}
                )
                yield pad
        output = node.output[0]
        yield _on_planes(node, sizes[output] in edged)
        # Under its old name, so that readers outside need no change.
        if others[output] or output in kept:
            yield helper.make_node(UNPAD, [output + _SUFFIX], [output], domain=DOMAIN)


def _sizes(chosen: Mapping[str, NodeProto]) -> dict[str, str]:
    """A symbol for the size of each node's result: that of what is added to it, so that the sum may overwrite it."""
    sizes: dict[str, str] = {}
    for name, node in chosen.items():
        added = _read(node)[1] if node.op_type != SUM and len(_read(node)) > 1 else name
        sizes[name] = sizes[added] = sizes.get(added, f"{added}.size")
    return sizes


def _reads_edges(node: NodeProto) -> bool:
    return bool(attributes(node).get("weight_shape", [1])[-1] > 1)


def _in(node: NodeProto, chosen: Mapping[str, NodeProto]) -> bool:
    return bool(node.output) and node.output[0] in chosen


def _on_planes(node: NodeProto, edges: bool) -> NodeProto:
    """The node on planes; `edges`: bands of its result hold the lines of their neighbors, for kernels of 3x3."""
    node = NodeProto.FromString(node.SerializeToString())
    read = _read(node)
    for place, name in enumerate(node.input):
        if place in (0, 4) and name in read:
            node.input[place] = name + _SUFFIX
    node.output[0] += _SUFFIX
    add_attributes(node, {"padded": 1} | ({"edges": 1} if edges else {}))
    return node


def _plain(node: NodeProto) -> NodeProto:
    """The same node on NCHW."""
    if not attributes(node).get("padded"):
        return node
    node = NodeProto.FromString(node.SerializeToString())
    for names in (node.input, node.output):
        for place, name in enumerate(names):
            names[place] = name.removesuffix(_SUFFIX)
    kept = [found for found in node.attribute if found.name not in ("padded", "edges")]
    del node.attribute[:]
    node.attribute.extend(kept)
    return node
