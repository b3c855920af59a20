"""Constants of all scopes as initializers of the main graph, so that one piece of code packs them, and back again.

A Constant node becomes an initializer. A tensor of an inner graph moves out, to where that graph sees it as well. One
in the body of a function becomes an input of that function, which every call passes on. An initializer that is an input
too is one no more. `Moved` remembers where each came from: it is written into the file, for `unpack` to put them back.
"""

from __future__ import annotations

from bisect import bisect_left
from collections import defaultdict
from collections.abc import Callable, Collection, Iterable
from dataclasses import asdict, dataclass, field, replace

import onnx
from onnx import helper

from sparsify_fx.onnx_export.tracing.names import rename_values
from sparsify_fx.onnx_tools.constants import (
    Constant,
    Scope,
    calls,
    constants,
    names_of,
    outputs_of,
    scopes,
)
from sparsify_fx.onnx_tools.view import is_standard
from sparsify_fx.onnx_tools.weights import Key, all_nodes, called, key_of


@dataclass(frozen=True)
class Origin:
    """Where a constant lay: its scope by number, its name there, and its node if it was in one.

    `at`: the position of that node among all nodes of its scope, or of the input; -1 for neither. `input`: it is an
    initializer of the main graph that was an input as well.
    """

    scope: int
    name: str
    at: int = -1
    node: str = ""
    tensor: str = ""
    input: bool = False


@dataclass(frozen=True)
class Moved:
    """The constants that have moved, by their name in the main graph.

    `constant_inputs`: those that were inputs were constants all the same, as before IR version 4.
    """

    origins: dict[str, Origin] = field(default_factory=dict)
    constant_inputs: bool = False

    def only(self, names: Collection[str]) -> Moved:
        """Those of them with these names."""
        return replace(
            self,
            origins={
                name: origin for name, origin in self.origins.items() if name in names
            },
        )

    def without(self, names: Collection[str]) -> Moved:
        """All others."""
        return replace(
            self,
            origins={
                name: origin
                for name, origin in self.origins.items()
                if name not in names
            },
        )

    def to_json(self) -> list[list[object]]:
        """For the file's metadata: a list for each, cut off behind what differs from the defaults."""
        return [
            _short([name, *asdict(origin).values()])
            for name, origin in self.origins.items()
        ]

    @classmethod
    def from_json(cls, rows: Iterable[Iterable[object]]) -> Moved:
        """What `to_json` gave; ValueError or TypeError for anything else.

        >>> import json
        >>> Moved.from_json(json.loads(json.dumps(Moved({"w": Origin(0, "w", 3)}).to_json()))).origins["w"].at
        3
        """
        origins = {}
        for name, *values in rows:
            origin = Origin(*values)  # type: ignore[arg-type]
            kinds = [type(value) for value in asdict(origin).values()]
            if [type(name), *kinds] != [str, int, str, int, str, str, bool]:
                raise ValueError(f"no constant can have come from {values!r}")
            origins[str(name)] = origin
        return cls(origins)


def _short(row: list[object]) -> list[object]:
    defaults: list[object] = [None, None, None, -1, "", "", False]
    while len(row) > 3 and row[-1] == defaults[len(row) - 1]:
        row.pop()
    return row


def hoist(model: onnx.ModelProto, wanted: Callable[[Constant], bool]) -> Moved:
    """Make the wanted constants initializers of the main graph and no inputs of it, in place; says where they were.

    What gives a graph or a function an output stays, and so do sparse tensors outside of the main graph. A model of IR
    version 3, which wants all initializers to be inputs and treats them as constants all the same, becomes one of
    version 4.
    """
    move, constant_inputs = _Move(model), model.ir_version < 4
    for each in list(constants(model)):
        always = constant_inputs and each.scope == 0 and each.node is None
        if isinstance(each.tensor, onnx.TensorProto) and (always or wanted(each)):
            move.take(each)
    model.ir_version = max(model.ir_version, 4)
    return replace(move.finish(), constant_inputs=constant_inputs)


class _Move:
    """The work of `hoist`: what has moved so far, and what is to be removed at its end."""

    def __init__(self, model: onnx.ModelProto) -> None:
        self.model, self.places, self.taken = model, scopes(model), names_of(model)
        self.outputs = [outputs_of(scope.body) for scope in self.places]
        self.inputs = {item.name: at for at, item in enumerate(model.graph.input)}
        self.callers = _callers(model)
        self.origins: dict[str, Origin] = {}
        self.gone: dict[int, list[tuple[Constant, str]]] = {}

    def take(self, each: Constant) -> None:
        """Move one constant, unless it must stay where it is."""
        if each.name in self.outputs[each.scope]:
            return
        if each.scope == 0 and each.node is None:
            if each.name in self.inputs:
                self.origins[each.name] = Origin(
                    0, each.name, self.inputs[each.name], input=True
                )
            return
        function = self.places[each.scope].function
        hint = each.name if function is None else f"{function.name}.{each.name}"
        alone = function is None and self.taken[each.name] == 1
        name = each.name if each.scope == 0 or alone else self._fresh(hint)
        node = each.node.name if each.node is not None else ""
        self.origins[name] = Origin(
            each.scope, each.name, each.at, node, each.tensor.name
        )
        moved = self.model.graph.initializer.add()
        moved.CopyFrom(each.tensor)
        moved.name = name
        self.gone.setdefault(each.scope, []).append((each, name))
        if function is not None:
            self._pass_in(function, name)

    def _fresh(self, hint: str) -> str:
        """A name that nothing in any scope has: a value of the main graph is seen by all graphs."""
        name, number = hint, 0
        while name in self.taken:
            number += 1
            name = f"{hint}.{number}"
        self.taken[name] = 1
        return name

    def _pass_in(self, function: onnx.FunctionProto, name: str) -> None:
        """A further input of a function, given by all its callers; those that are functions themselves get it too."""
        if name in function.input:
            return
        before = len(function.input)
        function.input.append(name)
        for node, caller in self.callers.get(key_of(function), ()):
            node.input.extend([""] * (before - len(node.input)) + [name])
            if caller is not None:
                self._pass_in(caller, name)

    def finish(self) -> Moved:
        """Remove the constants from where they were, and name them by their new names there."""
        for number, group in self.gone.items():
            body = self.places[number].body
            for at in sorted(
                (each.at for each, _ in group if each.node is not None), reverse=True
            ):
                del body.node[at]
            if isinstance(body, onnx.GraphProto) and number:
                _drop_initializers(
                    body, {each.name for each, _ in group if each.node is None}
                )
            _rename(
                body, {each.name: name for each, name in group if each.name != name}
            )
        _drop_inputs(
            self.model.graph,
            {name for name, origin in self.origins.items() if origin.input},
        )
        return Moved(self.origins)


def put_back(
    model: onnx.ModelProto,
    moved: Moved,
    *,
    still: Moved | None = None,
    in_order: bool = True,
) -> None:
    """The way back from `hoist`, in place, for all constants but those that are `still` away.

    `in_order`: the nodes of the main graph are those that `hoist` left; otherwise constant nodes come first. Raises
    ValueError when the model is not one that these constants moved in.
    """
    places, callers = scopes(model), _callers(model)
    tensors = {tensor.name: tensor for tensor in model.graph.initializer}
    _check_places(moved, tensors, places)
    renamed: dict[int, dict[str, str]] = defaultdict(dict)
    away = sorted(
        (origin.scope, origin.input, origin.at)
        for origin in (still or Moved()).origins.values()
    )
    for name, origin in sorted(
        moved.origins.items(), key=lambda pair: (pair[1].scope, pair[1].at)
    ):
        place = (origin.scope, origin.input, origin.at)
        at = origin.at - (bisect_left(away, place) - bisect_left(away, (*place[:2], 0)))
        body, tensor = places[origin.scope].body, tensors[name]
        if origin.input:
            given = helper.make_tensor_value_info(
                name, tensor.data_type, list(tensor.dims)
            )
            model.graph.input.insert(at, given)
            continue
        if name != origin.name:
            renamed[origin.scope][name] = origin.name
        _put(body, tensor, origin, at if in_order or origin.scope else 0)
    for number, names in renamed.items():
        _rename(places[number].body, names)
    for number in {
        origin.scope
        for origin in moved.origins.values()
        if origin.at >= 0 and not origin.input
    }:
        _before_readers(places[number].body)
    inside = {name for name, origin in moved.origins.items() if not origin.input}
    _drop_initializers(model.graph, inside)
    for function in model.functions:
        if not inside.isdisjoint(function.input):
            _take_out(function, callers.get(key_of(function), []), inside)


def _check_places(
    moved: Moved, tensors: Collection[str], places: Collection[Scope]
) -> None:
    """All that moved is there, and so is where it was."""
    if lost := [name for name in moved.origins if name not in tensors]:
        raise ValueError(
            f"constants of which it tells where they were are missing: {lost[:3]}"
        )
    if wrong := [
        name
        for name, origin in moved.origins.items()
        if not 0 <= origin.scope < len(places)
    ]:
        raise ValueError(
            f"constants of which it tells where they were have no such place: {wrong[:3]}"
        )


def _put(
    body: onnx.GraphProto | onnx.FunctionProto,
    tensor: onnx.TensorProto,
    origin: Origin,
    at: int,
) -> None:
    """The tensor back into its scope, as an initializer or as a node at this position."""
    whole = onnx.TensorProto()
    whole.CopyFrom(tensor)
    whole.name = origin.tensor
    if origin.at < 0 and isinstance(body, onnx.GraphProto):
        body.initializer.append(whole)
        return
    node = helper.make_node("Constant", [], [origin.name], name=origin.node or None)
    node.attribute.append(helper.make_attribute("value", whole))
    body.node.insert(at, node)


def _before_readers(body: onnx.GraphProto | onnx.FunctionProto) -> None:
    """Move constant nodes that stand behind a reader, since nodes have been removed since, to the front."""
    read, late = set[str](), []
    for at, node in enumerate(body.node):
        if is_standard(node, "Constant") and not read.isdisjoint(node.output):
            late.append(at)
        read.update(name for each in all_nodes([node]) for name in each.input)
    for at in late:
        node = onnx.NodeProto()
        node.CopyFrom(body.node[at])
        del body.node[at]
        body.node.insert(0, node)  # those before `at` are as many as they were


def _take_out(
    function: onnx.FunctionProto, callers: Iterable[Call], names: Collection[str]
) -> None:
    """The inputs of a function without these, and what its callers gave for them."""
    kept = [name for name in function.input if name not in names]
    function.input[:] = kept
    for node, _ in callers:
        given = list(node.input[: len(kept)])
        while given and not given[-1]:
            given.pop()
        node.input[:] = given


Call = tuple[onnx.NodeProto, onnx.FunctionProto | None]


def _callers(model: onnx.ModelProto) -> dict[Key, list[Call]]:
    """The calls of every local function, each with the function in whose body it stands."""
    found: dict[Key, list[Call]] = {
        key_of(function): [] for function in model.functions
    }
    if found:
        for node, caller in calls(model):
            if called(node) in found:
                found[called(node)].append((node, caller))
    return found


def _rename(body: onnx.GraphProto | onnx.FunctionProto, names: dict[str, str]) -> None:
    """Rename values in a scope and in the graphs inside it."""
    if not names:
        return
    if isinstance(body, onnx.GraphProto):
        rename_values(body, names)
        return
    for node in all_nodes(body.node):
        node.input[:] = [names.get(name, name) for name in node.input]
        node.output[:] = [names.get(name, name) for name in node.output]


def _drop_initializers(graph: onnx.GraphProto, names: Collection[str]) -> None:
    for at in reversed(range(len(graph.initializer))):
        if graph.initializer[at].name in names:
            del graph.initializer[at]


def _drop_inputs(graph: onnx.GraphProto, names: Collection[str]) -> None:
    for at in reversed(range(len(graph.input))):
        if graph.input[at].name in names:
            del graph.input[at]
