"""Constants of all scopes as initializers of the main graph, so that one piece of code packs them, and back again.

A Constant node becomes an initializer. A tensor of an inner graph moves out, to where that graph sees it as well. One
in the body of a function becomes an input of that function, which every call passes on. An initializer that is an input
too is one no more. `Moved` remembers where each came from: it is written into the file, for `unpack` to put them back.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import replace

import onnx

from sparsify_fx.onnx_export.storage.origins import Moved, Origin
from sparsify_fx.onnx_export.tracing.names import rename_values
from sparsify_fx.onnx_tools.constants import (
    Constant,
    calls,
    constants,
    names_of,
    outputs_of,
    scopes,
)
from sparsify_fx.onnx_tools.weights import Key, all_nodes, called, key_of


def hoist(model: onnx.ModelProto, wanted: Callable[[Constant], bool]) -> Moved:
    """Make the wanted constants initializers of the main graph and no inputs of it, in place; says where they were.

    What gives a graph or a function an output stays, and so do sparse tensors outside of the main graph. A model of IR
    version 3, which wants all initializers to be inputs and treats them as constants all the same, becomes one of
    version 4.
    """
    # A list of all constants first: taking one adds an initializer to the graph that is
    # walked.
    move, constant_inputs = _Move(model), model.ir_version < 4
    for each in list(constants(model)):
        # Before IR version 4 all initializers are inputs. Left so, in version 4 those
        # that do not move would become values that callers may replace, so all cease to
        # be inputs, and `Moved` brings them back.
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
        self.callers = callers_of(model)
        self.origins: dict[str, Origin] = {}
        self.gone: dict[int, list[tuple[Constant, str]]] = {}

    def take(self, each: Constant) -> None:
        """Move one constant, unless it must stay where it is."""
        # What a graph gives out must be made in that graph.
        if each.name in self.outputs[each.scope]:
            return
        # It is in its place already, and only has to stop being an input.
        if each.scope == 0 and each.node is None:
            if each.name in self.inputs:
                self.origins[each.name] = Origin(
                    0, each.name, self.inputs[each.name], input=True
                )
            return
        function = self.places[each.scope].function
        # Names of a function's body are its own, so two functions may both have a `w`; in
        # the main graph the names must differ.
        hint = each.name if function is None else f"{function.name}.{each.name}"
        # A name that only one scope defines can be kept; where another scope defines it
        # as well, one of the two values would hide the other.
        alone = function is None and self.taken[each.name] == 1
        name = each.name if each.scope == 0 or alone else self._fresh(hint)
        node = each.node.name if each.node is not None else ""
        self.origins[name] = Origin(
            each.scope, each.name, each.at, node, each.tensor.name
        )
        moved = self.model.graph.initializer.add()
        moved.CopyFrom(each.tensor)
        moved.name = name
        # Removal waits for `finish`: the positions of the other constants of this scope
        # count from the nodes as they are now.
        self.gone.setdefault(each.scope, []).append((each, name))
        # A function sees nothing of the outside, so the constant comes in as one more
        # input of every call.
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
        # Functions may be called from several places, and this one been reached before.
        if name in function.input:
            return
        # The position of the new input, for callers that leave optional inputs out at the
        # end: these have to be written as empty.
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
            # From the last to the first, so that the positions of those still to go stay
            # right.
            for at in sorted(
                (each.at for each, _ in group if each.node is not None), reverse=True
            ):
                del body.node[at]
            # Those of the main graph have not moved at all.
            if isinstance(body, onnx.GraphProto) and number:
                drop_initializers(
                    body, {each.name for each, _ in group if each.node is None}
                )
            rename_in(
                body, {each.name: name for each, name in group if each.name != name}
            )
        # Only now, since positions in `origins` count from the inputs as they were.
        _drop_inputs(
            self.model.graph,
            {name for name, origin in self.origins.items() if origin.input},
        )
        return Moved(self.origins)


Call = tuple[onnx.NodeProto, onnx.FunctionProto | None]


def callers_of(model: onnx.ModelProto) -> dict[Key, list[Call]]:
    """The calls of every local function, each with the function in whose body it stands."""
    found: dict[Key, list[Call]] = {
        key_of(function): [] for function in model.functions
    }
    if found:
        for node, caller in calls(model):
            if called(node) in found:
                found[called(node)].append((node, caller))
    return found


def rename_in(
    body: onnx.GraphProto | onnx.FunctionProto, names: dict[str, str]
) -> None:
    """Rename values in a scope and in the graphs inside it."""
    if not names:
        return
    if isinstance(body, onnx.GraphProto):
        rename_values(body, names)
        return
    for node in all_nodes(body.node):
        node.input[:] = [names.get(name, name) for name in node.input]
        node.output[:] = [names.get(name, name) for name in node.output]


def drop_initializers(graph: onnx.GraphProto, names: Collection[str]) -> None:
    for at in reversed(range(len(graph.initializer))):
        if graph.initializer[at].name in names:
            del graph.initializer[at]


def _drop_inputs(graph: onnx.GraphProto, names: Collection[str]) -> None:
    for at in reversed(range(len(graph.input))):
        if graph.input[at].name in names:
            del graph.input[at]
