#!/usr/bin/env bash
# torch 2.14.1: a model that makes a tensor on its first call, and keeps it as an attribute that it did not have before
# (`if not hasattr(self, "table")`), is spoilt by torch.export.export, and so by torch.onnx.export: the attribute stays behind
# as a FakeTensor, which has a shape and no values. Nothing is raised, then or later: from now on the model itself answers
# with FakeTensors. An attribute that is None before the first call is put back as it was, as export's check of changed
# attributes promises; one that is new is not seen by it. What it means here: trace a copy, or call a model once before.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/env"
"$folder/env/bin/pip" install -q torch==2.14.1 numpy
cd "$folder"
"$folder/env/bin/python" - <<'PYTHON' 2> errors || { cat errors; exit 1; }
import torch
from torch import nn


class Late(nn.Module):
    def forward(self, x):
        if not hasattr(self, "table"):
            self.table = torch.arange(4.0)
        return x + self.table


class Early(nn.Module):
    def __init__(self):
        super().__init__()
        self.table = None

    def forward(self, x):
        if self.table is None:
            self.table = torch.arange(4.0)
        return x + self.table


def after_export(model, called_before):
    x = torch.ones(2, 4)
    if called_before:
        model(x)
    torch.export.export(model, (x,))
    return type(model(x)).__name__


print("torch", torch.__version__)
found = {
    "new attribute": after_export(Late(), called_before=False),
    "new attribute, model called before": after_export(Late(), called_before=True),
    "attribute that was None": after_export(Early(), called_before=False),
}
for case, kind in found.items():
    print(f"{case}: after export the model answers with a {kind}")
assert list(found.values()) == ["FakeTensor", "Tensor", "Tensor"], "this has changed"
PYTHON
