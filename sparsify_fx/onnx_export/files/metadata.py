"""What a file says about itself: `metadata_props` under names that start with `sparsify_fx.`."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import onnx

PREFIX = "sparsify_fx."
WEIGHTS = "weights"
"""Under this name: {weight: "encoding values"} as JSON, for every weight that is not a plain tensor."""

TARGET, CHOICE = "target", "choice"
"""Of a file with sparse operators: their name as a target, and as JSON how each layer was chosen, with its times."""

ORIGIN = "origin"
"""Of a packed file: what it was before, as JSON (`history`)."""

STORAGE_KEYS = (WEIGHTS, "encoding", "values", TARGET, CHOICE, ORIGIN)
"""What a file says about how it stores its weights; the rest is about the model."""


def put_metadata(model: onnx.ModelProto, entries: Mapping[str, str]) -> None:
    """Replace all our entries by these; those of others stay."""
    # Only entries under our prefix are ours to remove.
    others = {
        item.key: item.value
        for item in model.metadata_props
        if not item.key.startswith(PREFIX)
    }
    ours = {PREFIX + key: value for key, value in entries.items()}
    onnx.helper.set_model_props(model, others | ours)


def get_metadata(model: onnx.ModelProto) -> dict[str, str]:
    """Our entries, without the prefix; none for a foreign file."""
    found = model.metadata_props
    return {
        item.key.removeprefix(PREFIX): item.value
        for item in found
        if item.key.startswith(PREFIX)
    }


def stored_weights(model: onnx.ModelProto) -> dict[str, tuple[str, str]]:
    """(encoding, values) of every weight that is rebuilt by nodes or sparse, as the file says; none if it is foreign.

    >>> model = onnx.ModelProto()
    >>> put_metadata(model, {"weights": '{"fc.weight": "gap fp16"}'})
    >>> stored_weights(model)
    {'fc.weight': ('gap', 'fp16')}
    """
    try:
        entries = json.loads(get_metadata(model).get(WEIGHTS, "{}"))
        return {
            str(name): (how.split()[0], how.split()[1]) for name, how in entries.items()
        }
    except (ValueError, AttributeError, IndexError, RecursionError):
        return {}  # not ours, whatever it is


def chosen_how(choice: Mapping[str, Any]) -> str:
    """By estimate or measurement, and for which sizes; files of earlier versions know the batch alone.

    >>> chosen_how({"by": "estimate", "batch": 1, "sizes": {"x": [1, 64]}, "sizes_from": "made up"})
    ', chosen by estimate for x [1, 64] (made up)'
    >>> chosen_how({"by": "estimate", "batch": 1})
    ', chosen by estimate for batch 1'
    """
    # Metadata are anyone's to write; what is not ours is not told.
    if not {"by", "batch"} <= choice.keys():
        return ""
    sizes, origin = choice.get("sizes"), choice.get("sizes_from", "")
    if not isinstance(sizes, Mapping) or not sizes:
        return f", chosen by {choice['by']} for batch {choice['batch']}"
    shapes = ", ".join(f"{name} {shape}" for name, shape in sizes.items())
    return f", chosen by {choice['by']} for {shapes}" + (
        f" ({origin})" if origin else ""
    )
