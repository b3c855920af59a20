"""Numbers of parameters of timm's models: from a table, counted on the meta device where the table lacks a name.

`python -m sparsify_fx.coverage.timm_sizes` writes the table anew for the installed timm.
"""

from __future__ import annotations

import functools
import json
from pathlib import Path

import timm
import torch

TABLE = Path(__file__).with_name("timm_sizes.json")


@functools.cache
def _table() -> dict[str, int]:
    """The table, read once: building all of timm's models on the meta device instead takes minutes."""
    sizes: dict[str, int] = json.loads(TABLE.read_text(encoding="utf-8"))["parameters"]
    return sizes


def count_on_meta(name: str) -> int:
    """Parameters of the model `name`, counted without memory for them.

    >>> count_on_meta("resnet18")
    11689512
    """
    with torch.device("meta"):
        model = timm.create_model(name, pretrained=False)
    return sum(parameter.numel() for parameter in model.parameters())


def parameters_of(name: str) -> int:
    """The same number, from the table where it has the name."""
    known = _table().get(name)
    return count_on_meta(name) if known is None else known


def write_table() -> None:
    """Count every model of the installed timm."""
    sizes = {name: count_on_meta(name) for name in timm.list_models()}
    text = json.dumps({"timm": timm.__version__, "parameters": sizes}, indent=0)
    TABLE.write_text(text + "\n", encoding="utf-8")


if __name__ == "__main__":
    write_table()
