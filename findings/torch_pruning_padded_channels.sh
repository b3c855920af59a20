#!/usr/bin/env bash
# Torch-Pruning 1.6.0: its dependency graph takes a padding along the channels for an operator that leaves channels as
# they are. Where the shortcut of a residual net is filled up with channels of zeros (option A of He et al., ResNet-20
# and -56 of many CIFAR repositories), it couples channel i of the narrow width with channel i of the wide one, and
# `step()` ends in an IndexError. In deeper nets of this kind it may pass and leave layers whose sizes do not fit.
# Seen with torch 2.14.1.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/env"
"$folder/env/bin/pip" install -q torch==2.14.1 torch-pruning==1.6.0
cd "$folder"
"$folder/env/bin/python" -W ignore - <<'PYTHON'
import torch
import torch_pruning
from torch import nn
from torch.nn import functional as F


class Net(nn.Module):
    """Two widths, joined as in He et al.'s CIFAR nets: the narrow one is filled up with channels of zeros."""

    def __init__(self):
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3, padding=1)
        self.wide = nn.Conv2d(8, 16, 3, padding=1)
        self.head = nn.Linear(16, 10)

    def forward(self, x):
        x = F.relu(self.stem(x))
        x = self.wide(x) + F.pad(x, (0, 0, 0, 0, 4, 4))
        return self.head(F.relu(x).mean((2, 3)))


torch.manual_seed(0)
net, images = Net().eval(), torch.randn(1, 3, 8, 8)
assert net(images).shape == (1, 10)
pruner = torch_pruning.pruner.GroupNormPruner(
    net, images, importance=torch_pruning.importance.GroupMagnitudeImportance(p=2), pruning_ratio=0.5,
    ignored_layers=[net.head],
)
try:
    pruner.step()
    said = "pruned"
except IndexError as error:
    said = str(error)
print("step:", said)
assert said == "index 8 is out of bounds for dimension 0 with size 8", said
PYTHON
