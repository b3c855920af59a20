"""Which values operators read, named by where they are defined: out of branches and through calls of functions.

Two rules of ONNX make this hard: a branch sees the names around it, which may be hidden by its own, and a function sees
nothing but its inputs, which are other values in every call.
"""

from __future__ import annotations

from collections.abc import Iterator

import onnx

from sparsify_fx.onnx_tools.constants import defined_in, scopes
from sparsify_fx.onnx_tools.weights import Key, called, key_of

Place = tuple[int, str]
"""The number of a scope, and the name of a value that is defined there."""

Operands = tuple[Place | None, ...]
"""What a node reads at some of its positions; None for what it does not read, and for names that nothing defines."""


class Bindings:
    """The values of a model by the scopes that define them."""

    def __init__(self, model: onnx.ModelProto) -> None:
        self.scopes = scopes(model)
        self._defined = [defined_in(scope.body) for scope in self.scopes]
        # Domains and names that no function of the model has are operators.
        self._calls: dict[Key, list[tuple[int, onnx.NodeProto]]] = {
            key_of(each): [] for each in model.functions
        }
        for number, scope in enumerate(self.scopes):
            for node in scope.body.node:
                if called(node) in self._calls:
                    self._calls[called(node)].append((number, node))

    def home(self, number: int, name: str) -> Place | None:
        """Where a value is defined that a node of this scope reads.

        >>> inner = onnx.helper.make_graph([onnx.helper.make_node("Relu", ["x"], ["y"])], "inner", [], [])
        >>> node = onnx.helper.make_node("Loop", ["n"], ["z"], body=inner)
        >>> x = onnx.helper.make_tensor_value_info("x", 1, [1])
        >>> Bindings(onnx.helper.make_model(onnx.helper.make_graph([node], "g", [x], []))).home(1, "x")
        (0, 'x')
        """
        # Outward until a scope defines it: inner names hide outer ones. Around the main
        # graph and around the body of a function there is nothing (-1).
        while number >= 0:
            if name in self._defined[number]:
                return number, name
            number = self.scopes[number].outer
        return None

    def read(
        self, number: int, node: onnx.NodeProto, positions: tuple[int, ...]
    ) -> Iterator[Operands]:
        """What a node of this scope reads at these positions: once for each way in which its function is called.

        The input of a function stands for what callers give for it, all operands of one call together.
        """
        # All positions are resolved at once: operands of two different calls must not be mixed.
        given = [node.input[at] if at < len(node.input) else "" for at in positions]
        waiting, seen = (
            [self._homes([(number, name) for name in given])],
            set[Operands](),
        )
        while waiting:
            operands = waiting.pop()
            # Functions that call themselves, and calls that give the same values.
            if operands in seen:
                continue
            seen.add(operands)
            # One function at a time: what its callers give may be inputs of the function around them.
            function = next(
                (key for key in map(self._input_of, operands) if key is not None), None
            )
            if function is None:
                yield operands
                continue
            for caller, call in self._calls[function]:
                waiting.append(
                    self._homes(
                        [
                            self._passed(place, function, caller, call)
                            for place in operands
                        ]
                    )
                )

    def is_inside(self, number: int) -> bool:
        """Whether a scope is a branch or a loop's body, or belongs to a function that is called in one."""
        waiting, seen = [number], set[int]()
        while waiting:
            at = waiting.pop()
            if at in seen:
                continue
            seen.add(at)
            scope = self.scopes[at]
            if scope.outer >= 0:
                return True
            if scope.function is not None:
                # A function's body is inside where any of its calls is.
                waiting += [caller for caller, _ in self._calls[key_of(scope.function)]]
        return False

    def _homes(self, places: list[Place | None]) -> Operands:
        """Names as seen from a scope, by the scopes that define them."""
        return tuple(
            self.home(*place) if place is not None and place[1] else None
            for place in places
        )

    def _input_of(self, place: Place | None) -> Key | None:
        """The function of which this is an input."""
        if place is None:
            return None
        body = self.scopes[place[0]].body
        is_input = isinstance(body, onnx.FunctionProto) and place[1] in body.input
        return key_of(body) if is_input else None

    def _passed(
        self, place: Place | None, function: Key, number: int, call: onnx.NodeProto
    ) -> Place | None:
        """What this call gives for an input of the function; any other place stays."""
        if place is None or self._input_of(place) != function:
            return place
        at = list(self.scopes[place[0]].body.input).index(place[1])
        return (number, call.input[at]) if at < len(call.input) else None
