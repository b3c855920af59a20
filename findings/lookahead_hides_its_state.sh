#!/usr/bin/env bash
# timm 1.0.31 and pytorch_optimizer 4.1.0: after a step of Lookahead around SGD with momentum, `optimizer.state`, where
# every torch optimizer has the momentum of a parameter, holds none: timm's is empty, pytorch_optimizer's has only the
# slow weights. The momentum is in the state of the optimizer inside. Code that clears or edits momentum by
# `optimizer.state[parameter]` (pruning, layer freezing, state surgery) does nothing, without a word.
# Seen with torch 2.14.1.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/env"
"$folder/env/bin/pip" install -q torch==2.14.1 torchvision==0.29.1 timm==1.0.31 pytorch_optimizer==4.1.0
cd "$folder"
"$folder/env/bin/python" -W ignore - <<'PYTHON'
import pytorch_optimizer
import timm.optim
import torch
from torch import nn

seen = {}
for library in (timm.optim, pytorch_optimizer):
    weight = nn.Parameter(torch.ones(3))
    inside = torch.optim.SGD([weight], lr=0.1, momentum=0.9)
    outside = library.Lookahead(inside)
    weight.grad = torch.ones(3)
    outside.step()
    assert inside.state[weight]["momentum_buffer"].any()
    seen[library.__name__] = sorted(outside.state.get(weight, {}))
print("entries of Lookahead's own state for the parameter:", seen)
assert seen == {"timm.optim": [], "pytorch_optimizer": ["slow_params"]}
PYTHON
