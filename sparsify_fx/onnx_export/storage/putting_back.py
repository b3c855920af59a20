"""The way back from `hoisting`: constants return to the nodes, branches and functions where they were."""

from __future__ import annotations

from bisect import bisect_left
from collections import defaultdict
from collections.abc import Collection, Iterable

import onnx
from onnx import helper

from sparsify_fx.onnx_export.storage.hoisting import (
    Call,
    callers_of,
    drop_initializers,
    rename_in,
)
from sparsify_fx.onnx_export.storage.origins import Moved, Origin
from sparsify_fx.onnx_tools.constants import (
    Scope,
    scopes,
)
from sparsify_fx.onnx_tools.view import is_standard
from sparsify_fx.onnx_tools.weights import all_nodes, key_of


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
    # 1. Nothing is changed before it is certain that all of it can go back: the history
    # in a file may be wrong.
    places, callers = scopes(model), callers_of(model)
    tensors = {tensor.name: tensor for tensor in model.graph.initializer}
    _check_places(moved, tensors, places)

    # 2. Each constant to its place, in the order of positions within a scope. A position
    # counts all nodes (or inputs) that were there; of those before it that are `still`
    # away none is in the list, so as many are taken off.
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
            # The initializer itself never left the main graph: it becomes an input again.
            given = helper.make_tensor_value_info(
                name, tensor.data_type, list(tensor.dims)
            )
            model.graph.input.insert(at, given)
            continue
        if name != origin.name:
            renamed[origin.scope][name] = origin.name
        _put(body, tensor, origin, at if in_order or origin.scope else 0)

    # 3. Old names, in one walk over each scope however many constants came back to it.
    for number, names in renamed.items():
        rename_in(places[number].body, names)

    # 4. Other programs may have removed nodes in front of a constant, so that its old
    # position lies after a reader.
    for number in {
        origin.scope
        for origin in moved.origins.values()
        if origin.at >= 0 and not origin.input
    }:
        _before_readers(places[number].body)

    # 5. What is no longer needed goes: the initializers of the main graph, and the inputs
    # of functions that they came in by.
    inside = {name for name, origin in moved.origins.items() if not origin.input}
    drop_initializers(model.graph, inside)
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
    # A copy with the tensor's own name: in a Constant node that may differ from the
    # value's name, or be empty.
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
    """Move constant nodes that stand after a reader, since nodes have been removed since, to the front."""
    read, late = set[str](), []
    for at, node in enumerate(body.node):
        if is_standard(node, "Constant") and not read.isdisjoint(node.output):
            late.append(at)
        for each in all_nodes([node]):
            read.update(each.input)
    # To the front, where it stands before every reader; a Constant node reads nothing
    # itself.
    for at in late:
        node = onnx.NodeProto()
        node.CopyFrom(body.node[at])
        del body.node[at]
        # One goes and one comes before those still to move, so their positions stay right.
        body.node.insert(0, node)


def _take_out(
    function: onnx.FunctionProto, callers: Iterable[Call], names: Collection[str]
) -> None:
    """The inputs of a function without these, and what its callers gave for them."""
    kept = [name for name in function.input if name not in names]
    function.input[:] = kept
    for node, _ in callers:
        given = list(node.input[: len(kept)])
        # Calls that got empty inputs written out for the new one to have its position are
        # short again.
        while given and not given[-1]:
            given.pop()
        node.input[:] = given
