#!/usr/bin/env bash
# torch 2.14.1, torch.distributed.checkpoint: asking for the state of an optimizer that has not stepped yet
# (get_optimizer_state_dict, get_state_dict) makes it step once, with gradients of zero and a rate of zero. Weights stay, but the
# counters of Adam do not: the first real step is its second, and 0.74 of what it would be.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/env"
"$folder/env/bin/pip" install -q torch==2.14.1 numpy
"$folder/env/bin/python" -W ignore - <<'PYTHON'
import torch
from torch.distributed.checkpoint.state_dict import get_optimizer_state_dict


def first_update(asked):
    layer = torch.nn.Linear(1, 1, bias=False)
    optimizer = torch.optim.Adam(layer.parameters(), lr=0.1)
    if asked:
        get_optimizer_state_dict(layer, optimizer)
    before = layer.weight.item()
    layer(torch.ones(1, 1)).sum().backward()
    optimizer.step()
    (state,) = optimizer.state.values()
    return state["step"].item(), round(before - layer.weight.item(), 4)


seen = {"not asked": first_update(False), "asked before": first_update(True)}
print("(steps, first update):", seen)
assert seen == {"not asked": (1.0, 0.1), "asked before": (2.0, 0.0744)}, seen
PYTHON
