#!/usr/bin/env bash
# torch 2.14.1: torch.compile takes the shapes of parameters as fixed, also with dynamic=True, and mark_dynamic on a parameter
# is accepted and has no effect: every length compiles again, up to the limit after which the model runs uncompiled.
# mark_dynamic on an ordinary tensor works. With torch._dynamo.config.force_parameter_static_shapes off, or the parameter named
# in torch.compiler.config.dynamic_sources, one graph does for all.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/env"
"$folder/env/bin/pip" install -q torch==2.14.1 numpy
"$folder/env/bin/python" -W ignore - <<'PYTHON'
import torch
from torch._dynamo.utils import counters


class Sum(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.vector = torch.nn.Parameter(torch.ones(8))

    def forward(self):
        return self.vector.sum() * 2


def graphs(mark):
    torch._dynamo.reset()
    counters.clear()
    model = Sum()
    compiled = torch.compile(model, backend="eager", dynamic=True)
    for length in range(8, 14):
        model.vector.data = torch.ones(length)
        if mark:
            torch._dynamo.mark_dynamic(model.vector, 0)
        compiled()
    return counters["stats"]["unique_graphs"]


seen = {"dynamic=True": graphs(False), "and mark_dynamic": graphs(True)}
with torch._dynamo.config.patch(force_parameter_static_shapes=False):
    seen["parameters not static"] = graphs(False)
with torch.compiler.config.patch(dynamic_sources=r".*\['vector'\].*"):
    seen["named in dynamic_sources"] = graphs(False)
print("graphs for six lengths:", seen)
assert list(seen.values()) == [6, 6, 1, 1], seen
PYTHON
