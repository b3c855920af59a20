#!/usr/bin/env bash
# torch 2.13.0: two optimizers that load one state dict share their momentum from then on, and share it with the
# optimizer that the state dict came from: a step of one changes the others, without a word. `Module.load_state_dict`
# copies; `Optimizer.load_state_dict` keeps the tensors of the dict where dtype and device fit. Whoever compares two
# continuations of one checkpoint in a process must load the file twice, or deepcopy.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/env"
"$folder/env/bin/pip" install -q torch==2.13.0 numpy
cd "$folder"
"$folder/env/bin/python" - <<'PYTHON'
import torch
from torch import nn

weights = [nn.Parameter(torch.ones(3)) for _ in range(3)]
first, second, third = (torch.optim.SGD([weight], lr=0.1, momentum=0.9) for weight in weights)
weights[0].grad = torch.ones(3)
first.step()

state = first.state_dict()
second.load_state_dict(state)
third.load_state_dict(state)
weights[1].grad = torch.full((3,), 100.0)
second.step()

momenta = [optimizer.state[weight]["momentum_buffer"] for optimizer, weight in zip((first, third), (weights[0], weights[2]))]
print("torch", torch.__version__, "momentum of the two that made no step: was 1, is", [m[0].item() for m in momenta])
assert all(torch.allclose(momentum, torch.tensor(100.9)) for momentum in momenta)

source, target = nn.Linear(1, 1), nn.Linear(1, 1)
target.load_state_dict(source.state_dict())
assert source.weight.data_ptr() != target.weight.data_ptr()
PYTHON
