"""Models of one random layer with something wrong: attributes, weights, gap codes, headers of planes, shapes, types.

Each begins as a layer that runs (`cases.py`), so that most changes are met deep inside of an operator.
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cache

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import NodeProto, TensorProto, helper, numpy_helper

from tests.runtime import cases
from tests.runtime.cases import Case

Array = NDArray[np.generic]
Random = np.random.Generator

EDGES = (
    -(2**63),
    -(2**31),
    -2,
    -1,
    0,
    1,
    2,
    3,
    4,
    5,
    7,
    64,
    2**16 + 1,
    2**20,
    2**24,
    2**24 + 1,
)
HUGE = (2**31 - 1, 2**31, 2**32 + 1, 2**40, 2**62, 2**63 - 1)
INTS = ("strides", "pads", "dilations", "weight_shape", "kernel_shape")
PREFIXES = ("", "depthwise_", "projection_", "pool_", "second_")
NUMBERS = (
    "group",
    "padded",
    "edges",
    "before",
    "behind",
    "heads",
    "head_size",
    "tokens_first",
    "transB",
)
TYPES = (np.float64, np.float16, np.int8, np.uint8, np.int32, np.int64, np.bool_)
LAYERS: tuple[Callable[[Random], Case], ...] = (
    cases.random_conv, cases.random_depthwise, cases.random_joined, cases.random_pooled, cases.random_matmul,
    cases.random_pool, cases.random_sum, cases.random_chain, cases.random_planes_sum, cases.random_attention,
    cases.random_halves, cases.random_mlp, cases.random_mlp,
)  # fmt: skip


@dataclass
class Trial:
    """Nodes that read each other, their constants, and what is fed; changed in place.

    `absurd`: shapes of inputs without elements, which become constants: numpy has no arrays of such sizes.
    """

    nodes: list[NodeProto]
    constants: dict[str, Array]
    fed: dict[str, Array]
    absurd: dict[str, list[int]] = field(default_factory=dict)

    def model(self) -> bytes:
        """As a file, in which nothing tells shapes beforehand."""
        weights = [
            numpy_helper.from_array(np.asarray(each), name)
            for name, each in self.constants.items()
        ]
        weights += [
            TensorProto(name=name, data_type=TensorProto.FLOAT, dims=dims, raw_data=b"")
            for name, dims in self.absurd.items()
        ]
        given = [
            helper.make_tensor_value_info(
                name, helper.np_dtype_to_tensor_dtype(each.dtype), None
            )
            for name, each in self.fed.items()
            if name not in self.absurd
        ]
        name = next((name for name in reversed(self.nodes[-1].output) if name), "y0")
        results = [helper.make_tensor_value_info(name, TensorProto.FLOAT, None)]
        graph = helper.make_graph(self.nodes, "hostile", given, results, weights)
        opsets = [helper.make_opsetid("", 20), helper.make_opsetid("sparsify_fx", 1)]
        data: bytes = helper.make_model(
            graph, opset_imports=opsets, ir_version=9
        ).SerializeToString()
        return data

    def feed(self) -> dict[str, Array]:
        """What the model takes."""
        return {
            name: each for name, each in self.fed.items() if name not in self.absurd
        }


def hostile_trial(random: Random, library: str) -> Trial:
    """A layer of any kind with one to three changes; `library` makes the padded planes."""
    case = LAYERS[random.integers(len(LAYERS))](random)
    nodes, weights = cases.sparse_nodes(case, "0")
    fed: dict[str, Array] = dict(cases.feeds([case]))
    trial = Trial(
        list(nodes), {each.name: numpy_helper.to_array(each) for each in weights}, fed
    )
    if random.random() < 0.5:
        _feed_planes(trial, random, library)
    if random.random() < 0.4:
        _code_weights(trial, random)
    for _ in range(int(random.integers(1, 4))):
        CHANGES[random.integers(len(CHANGES))](trial, random)
    return trial


def _feed_planes(trial: Trial, random: Random, library: str) -> None:
    """Planes are an input of the model, and not made inside of it, so that their header can be anything."""
    for node in [each for each in trial.nodes if each.op_type == "PadPlanes"]:
        edges = bool(node.attribute)
        trial.fed[node.output[0]] = _planes_of(
            trial.fed[node.input[0]].shape, edges, library
        ).copy()
        trial.nodes.remove(node)
        if not any(node.input[0] in other.input for other in trial.nodes):
            del trial.fed[node.input[0]]
    if random.random() < 0.3 and trial.nodes[-1].op_type == "UnpadPlanes":
        trial.nodes.pop()


def _code_weights(trial: Trial, random: Random) -> None:
    """Weights with gaps become bytes, with values of any kind; at times one of the bytes of the header is any."""
    for node in trial.nodes:
        for name, gaps in zip(node.input, node.input[1:], strict=False):
            values, places = trial.constants.get(name), trial.constants.get(gaps)
            if "gaps" not in gaps or values is None or places is None:
                continue
            coded = _coded(values, _first_length(node), random)
            if random.random() < 0.3:
                coded[random.integers(16)] = random.integers(256)
            trial.constants |= {name: coded, gaps: _nibbles(places)}


def _first_length(node: NodeProto) -> int:
    """Of the shape that the node gives its weight; 1 where there is none."""
    listed = [each.ints for each in node.attribute if each.name == "weight_shape"]
    return int(listed[0][0]) if listed else 1


def _coded(values: Array, channels: int, random: Random) -> NDArray[np.uint8]:
    """Values behind the header of `csrc/coded.cpp`, written without the package: its imports take too much memory."""
    kind, count = int(random.integers(1, 4)), values.size
    if kind == 1:
        payload = values.astype(np.float16).tobytes()
    elif kind == 2:
        # How many channels there are, shapes tell; with the wrong number this is refused.
        payload = np.ones(min(channels, 64), "<i4").tobytes() + bytes(count)
    else:
        payload = random.bytes(16 + 3 * count + (count * 4 + 7) // 8)
    detail = 4 if kind == 3 else int(random.integers(2))
    header = struct.pack("<BBBBhHQ", 2, kind, 4, detail, -7, 0, count)
    return np.frombuffer(header + payload, np.uint8).copy()


def _nibbles(gaps: Array) -> NDArray[np.uint8]:
    """Gaps as codes of four bits, of which 15 means that 15 zeros follow and no value."""
    codes: list[int] = []
    for gap in gaps.reshape(-1).tolist():
        codes += [15] * (gap // 15) + [gap % 15]
    codes += [15] * (len(codes) % 2)
    pairs = np.array(codes, np.uint8).reshape(-1, 2)
    return np.asarray(pairs[:, 0] | pairs[:, 1] << 4, np.uint8)


@cache
def _planes_of(
    shape: tuple[int, ...], edges: bool, library: str
) -> NDArray[np.float32]:
    node = helper.make_node(
        "PadPlanes", ["x"], ["y"], domain="sparsify_fx", edges=int(edges)
    )
    trial = Trial([node], {}, {"x": np.ones(shape, np.float32)})
    made: NDArray[np.float32] = cases.open_session(trial.model(), library).run(
        None, trial.feed()
    )[0]
    return made


def _number(random: Random) -> int:
    drawn = random.random()
    return int(
        random.integers(-1, 9)
        if drawn < 0.4
        else random.choice(EDGES)
        if drawn < 0.8
        else random.choice(HUGE)
    )


def _node(trial: Trial, random: Random) -> NodeProto:
    return trial.nodes[random.integers(len(trial.nodes))]


def _set(node: NodeProto, name: str, value: object) -> None:
    kept = [each for each in node.attribute if each.name != name]
    del node.attribute[:]
    node.attribute.extend(kept)
    if value is not None:
        node.attribute.append(helper.make_attribute(name, value))


def change_entry(trial: Trial, random: Random) -> None:
    """One number of one attribute that is there."""
    node = _node(trial, random)
    listed = [
        each
        for each in node.attribute
        if each.type == onnx.AttributeProto.INTS and each.ints
    ]
    if listed:
        attribute = listed[random.integers(len(listed))]
        attribute.ints[random.integers(len(attribute.ints))] = _number(random)
    if random.random() < 0.1:
        node.op_type = str(
            random.choice(
                [each.op_type for each in trial.nodes]
                + ["SparseConv", "SparseConvPool"]
            )
        )


def change_number(trial: Trial, random: Random) -> None:
    """An attribute of one number, whether the operator has it or not."""
    name = str(random.choice(PREFIXES)) + str(random.choice(NUMBERS))
    _set(_node(trial, random), name, _number(random))


def change_list(trial: Trial, random: Random) -> None:
    """A list of any length in the place of any list."""
    node = _node(trial, random)
    there = [
        each.name for each in node.attribute if each.type == onnx.AttributeProto.INTS
    ]
    name = str(
        random.choice([*there, str(random.choice(PREFIXES)) + str(random.choice(INTS))])
    )
    _set(node, name, [_number(random) for _ in range(int(random.integers(1, 6)))])


def change_kind(trial: Trial, random: Random) -> None:
    """An attribute goes, or becomes one of another type; activations and scales of all sorts."""
    node = _node(trial, random)
    if node.attribute and random.random() < 0.6:
        name = node.attribute[random.integers(len(node.attribute))].name
        values = (None, 1, 1.5, "Relu", [1.0, 2.0], ["a", "b"], [1, 1])
        _set(node, name, values[random.integers(len(values))])
    elif random.random() < 0.5:
        names = ("Relu", "Tanh", "relu", "", "Gelu" * 1000, "Silu", "\0", "Relu6", "ü")
        _set(
            node,
            str(random.choice(PREFIXES)) + "activation",
            names[random.integers(len(names))],
        )
    else:
        scales = random.choice(
            [0, -1, 1e38, np.inf, np.nan, 1e-45], int(random.integers(1, 5))
        )
        _set(node, "scales", [float(each) for each in scales])


def change_shape(trial: Trial, random: Random) -> None:
    """An input or a constant of other sizes: fewer, more, none, or one without elements of absurd sizes."""
    place = (
        trial.fed if random.random() < 0.6 or not trial.constants else trial.constants
    )
    if not place:
        return
    name = str(random.choice(list(place)))
    shape = list(place[name].shape)
    if random.random() < 0.2:
        trial.absurd[name] = _absurd(shape, random)
        trial.constants.pop(name, None)
        return
    for _ in range(int(random.integers(1, 3))):
        if shape and random.random() < 0.6:
            shape[random.integers(len(shape))] = int(random.choice([0, 1, 2, 3, 8, 17]))
        elif random.random() < 0.5:
            shape.insert(
                int(random.integers(len(shape) + 1)), int(random.choice([0, 1, 2]))
            )
        elif shape:
            shape.pop(int(random.integers(len(shape))))
    if np.prod(shape) < 2**18:
        place[name] = (
            np.resize(place[name], shape)
            if place[name].size
            else np.ones(shape, place[name].dtype)
        )


def _absurd(shape: list[int], random: Random) -> list[int]:
    sizes = [
        int(random.choice([each, 2**20, 2**24, 2**30, 2**31 - 1, 2**40, 2**62]))
        for each in shape
    ] or [1]
    sizes[random.integers(len(sizes))] = 0
    return sizes


def change_type(trial: Trial, random: Random) -> None:
    """Another type of numbers."""
    place = (
        trial.fed if random.random() < 0.5 or not trial.constants else trial.constants
    )
    if place:
        name = str(random.choice(list(place)))
        with np.errstate(all="ignore"):
            place[name] = place[name].astype(TYPES[random.integers(len(TYPES))])


def change_values(trial: Trial, random: Random) -> None:
    """Other gap codes; weights and activations that are no numbers."""
    place = (
        trial.fed if random.random() < 0.3 or not trial.constants else trial.constants
    )
    if not place:
        return
    name = str(random.choice(list(place)))
    array = place[name].copy()
    if array.dtype == np.uint8:
        array = random.integers(0, 256, array.shape).astype(np.uint8)
    elif array.dtype == np.float32 and array.size:
        spots = random.integers(array.size, size=3)
        array.reshape(-1)[spots] = random.choice(
            [np.inf, -np.inf, np.nan, 1e-45, -0.0, 3e38], 3
        )
    place[name] = array


def change_header(trial: Trial, random: Random) -> None:
    """The sizes that padded planes tell, the mark before them, or their length."""
    found = [
        name
        for name, each in trial.fed.items()
        if each.ndim == 1 and each.dtype == np.float32 and each.size > 16
    ]
    if not found:
        return
    array = trial.fed[str(random.choice(found))].copy()
    if random.random() < 0.3:
        array = array[: int(random.integers(array.size))]
    if array.size >= 6:
        for _ in range(int(random.integers(1, 3))):
            drawn = int(np.clip(_number(random), -(2**31), 2**31 - 1))
            array.view(np.int32)[int(random.choice([0, 1, 2, 3, 4, 5, 1, 2, 3, 4]))] = (
                drawn
            )
    trial.fed[str(random.choice(found))] = array


def change_wires(trial: Trial, random: Random) -> None:
    """Inputs that are missing, too many, exchanged, or twice the same; constants that are inputs; no output."""
    node = _node(trial, random)
    names = list(node.input)
    drawn, spot = random.random(), int(random.integers(max(1, len(names))))
    if drawn < 0.25 and names:
        names[spot] = ""
    elif drawn < 0.45:
        names += [
            str(random.choice([*trial.fed, *trial.constants] or [""])) for _ in range(3)
        ]
    elif drawn < 0.6 and names:
        names = names[:spot]
    elif drawn < 0.8 and names:
        names[spot] = names[int(random.integers(len(names)))]
    elif drawn < 0.9:
        found = [name for name in names if name in trial.constants]
        trial.fed.update({name: trial.constants.pop(name) for name in found[:1]})
    else:
        node.output[:] = (
            ["", "other"] if random.random() < 0.5 else [*node.output, "other"]
        )
    node.input[:] = names


CHANGES: tuple[Callable[[Trial, Random], None], ...] = (
    change_entry, change_number, change_list, change_kind, change_shape, change_shape, change_type, change_values,
    change_header, change_header, change_wires,
)  # fmt: skip
