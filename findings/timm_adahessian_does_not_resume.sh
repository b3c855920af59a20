#!/usr/bin/env bash
# timm 1.0.31: a training with timm.optim.Adahessian that is saved by state_dict() in the middle and goes on in new
# objects ends at other weights than one that was not interrupted. Its Hutchinson probes come from a torch.Generator of
# its own, seeded when the optimizer is built, which state_dict() leaves out: the resumed run draws the first probes
# again. Two uninterrupted runs are equal to the bit. Seen with torch 2.14.1.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/env"
"$folder/env/bin/pip" install -q torch==2.14.1 torchvision==0.29.1 timm==1.0.31
cd "$folder"
"$folder/env/bin/python" -W ignore - <<'PYTHON'
import copy

import timm
import torch
from timm.optim import Adahessian
from torch import nn


def train(interrupted_at=None):
    torch.manual_seed(0)
    model, inputs = nn.Linear(4, 4), torch.randn(8, 4)
    optimizer = Adahessian(model.parameters(), lr=0.1)
    for step in range(6):
        if step == interrupted_at:
            states = copy.deepcopy((model.state_dict(), optimizer.state_dict()))
            model = nn.Linear(4, 4)
            optimizer = Adahessian(model.parameters(), lr=0.1)
            model.load_state_dict(states[0])
            optimizer.load_state_dict(states[1])
        model(inputs).tanh().square().sum().backward(create_graph=True)
        optimizer.step()
        optimizer.zero_grad()
    return model.weight.detach()


whole, again, resumed = train(), train(), train(interrupted_at=3)
print("timm", timm.__version__, "resumed differs by", float((whole - resumed).abs().max()))
assert torch.equal(whole, again)
assert (whole - resumed).abs().max() > 1e-3
PYTHON
