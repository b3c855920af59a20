#!/usr/bin/env bash
# accelerate 1.15.0 takes two empty tensors of a state dict for one shared tensor and saves only the first of them:
# `Accelerator.save_model` logs that this "should be OK", and the file does not load into the same model
# (RuntimeError, missing key). Empty tensors have no memory of their own, so that all of them lie at address 0.
# Seen with torch 2.13.0 and safetensors 0.6 or later. What it means here: a state dict must not hold two empty tensors.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/env"
"$folder/env/bin/pip" install -q torch==2.13.0 numpy accelerate==1.15.0 safetensors
cd "$folder"
"$folder/env/bin/python" - <<'PYTHON'
import accelerate
import torch
from safetensors.torch import load_file
from torch import nn


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(2, 2)
        self.register_buffer("first", torch.empty(0))
        self.register_buffer("second", torch.empty(0))


net = Net()
accelerate.Accelerator(cpu=True).save_model(net, "saved")
saved = load_file("saved/model.safetensors")
print("accelerate", accelerate.__version__, "saved", sorted(saved), "of", sorted(net.state_dict()))
assert sorted(saved) == ["first", "layer.bias", "layer.weight"]
try:
    Net().load_state_dict(saved)
except RuntimeError as error:
    assert 'Missing key(s) in state_dict: "second"' in str(error)
    print("loading it into the same model:", str(error).splitlines()[-1].strip())
else:
    raise SystemExit("the file loads now")
PYTHON
