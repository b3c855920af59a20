"""What a packed file was before: kept in its metadata, so that `unpack` gives the original back."""

from __future__ import annotations

import json
from dataclasses import dataclass, field

import onnx

from sparsify_fx.onnx_export.files.metadata import (
    ORIGIN,
    STORAGE_KEYS,
    get_metadata,
    put_metadata,
)
from sparsify_fx.onnx_export.storage.origins import Moved, Origin
from sparsify_fx.onnx_export.storage.putting_back import put_back
from sparsify_fx.onnx_tools.constants import scopes
from sparsify_fx.onnx_tools.weights import all_nodes


@dataclass(frozen=True)
class History:
    """Producer, IR version and sparsity entry (None: it had none) of the original, and where its constants lay."""

    producer: str
    producer_version: str
    ir_version: int
    sparsity: str | None
    moved: Moved = field(default_factory=Moved)


def history_of(model: onnx.ModelProto) -> History:
    """The history of a model that is not packed yet; none of its constants have moved."""
    sparsity = get_metadata(model).get("sparsity")
    return History(
        model.producer_name, model.producer_version, model.ir_version, sparsity
    )


def remember(model: onnx.ModelProto, history: History) -> None:
    """Write the history into the metadata of the packed model, in place."""
    entry = {
        "producer": [history.producer, history.producer_version],
        "ir_version": history.ir_version,
        "sparsity": history.sparsity,
        "moved": history.moved.to_json(),
    }
    short = {key: value for key, value in entry.items() if value not in (None, [])}
    put_metadata(
        model, get_metadata(model) | {ORIGIN: json.dumps(short, separators=(",", ":"))}
    )


def undo(model: onnx.ModelProto, *, in_order: bool) -> None:
    """Make the decoded model the original again, in place; one without a history only loses what told of its storage.

    `in_order`: as in `hoisting.put_back`. Raises ValueError for a history that is none.
    """
    entries = get_metadata(model)
    told = entries.get(ORIGIN)
    kept = {key: value for key, value in entries.items() if key not in STORAGE_KEYS}
    if told is None:
        put_metadata(model, kept)
        return
    # Only constants whose scope is still there can return; the others stay in the main
    # graph, which every branch sees.
    history = _parsed(told)
    fitting = _fitting(model, history.moved)
    put_back(
        model, fitting, still=history.moved.without(fitting.origins), in_order=in_order
    )
    model.producer_name, model.producer_version = (
        history.producer,
        history.producer_version,
    )
    # A field that is set to empty is written as two bytes; the original had none.
    _clear_empty(model)
    model.ir_version = history.ir_version
    kept.pop("sparsity", None)
    put_metadata(
        model,
        kept | ({} if history.sparsity is None else {"sparsity": history.sparsity}),
    )


def _fitting(model: onnx.ModelProto, moved: Moved) -> Moved:
    """The constants that can go back: those whose scope is still there and still reads them.

    Other programs drop branches and unused weights, inline functions, and write the branches of If in another order.
    What does not fit stays in the main graph, which all branches see. ValueError when none is there under its name.
    """
    # One that is missing may have been dropped as unused; if all are, they were renamed,
    # and the model would stay half packed without a word.
    there = {tensor.name for tensor in model.graph.initializer} & moved.origins.keys()
    if moved.origins and not there:
        raise ValueError(
            f"constants of which it tells where they were are missing: {list(moved.origins)[:3]}; another program may "
            "have renamed them"
        )
    # By number of scope, as in `Origin`. The main graph needs no check: what lies there
    # is seen everywhere.
    reads = [
        _names_read(scope.body) if number else set()
        for number, scope in enumerate(scopes(model))
    ]
    inputs = {item.name for item in model.graph.input}

    def fits(name: str, origin: Origin) -> bool:
        if origin.input:
            return name not in inputs
        return origin.scope == 0 or (
            0 < origin.scope < len(reads) and name in reads[origin.scope]
        )

    return moved.only({name for name in there if fits(name, moved.origins[name])})


def _names_read(body: onnx.GraphProto | onnx.FunctionProto) -> set[str]:
    """What the nodes of a scope and of the graphs in it read; of a function only what reaches it as an input."""
    found: set[str] = set()
    for node in all_nodes(body.node):
        found.update(node.input)
    # Whatever is no input of a function is made in its body, and is no constant of ours.
    return found & set(body.input) if isinstance(body, onnx.FunctionProto) else found


def _parsed(text: str) -> History:
    try:
        # Metadata are anyone's to write, so every step here may fail on a damaged or
        # foreign entry.
        entry = json.loads(text)
        producer, version = map(str, entry["producer"])
        sparsity = entry.get("sparsity")
        moved = Moved.from_json(entry.get("moved", ()))
        return History(
            producer,
            version,
            int(entry["ir_version"]),
            sparsity and str(sparsity),
            moved,
        )
    except (KeyError, TypeError, AttributeError, RecursionError) as error:
        raise ValueError(
            f"its metadata {ORIGIN!r} do not tell what it was ({type(error).__name__})"
        ) from error


def _clear_empty(model: onnx.ModelProto) -> None:
    """Fields that are empty are fields that are absent."""
    for name in ("producer_name", "producer_version"):
        if not getattr(model, name):
            model.ClearField(name)
