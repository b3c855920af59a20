#!/usr/bin/env bash
# timm 1.0.31: in a new timm resnet18 the gradient of 16 of the 20 convolutions is exactly zero (torchvision's: none).
# timm starts the scale of the last batch norm of each branch at zero (zero_init_last=True), so that the branch does not
# touch the loss. Trainings do not mind; whatever scores weights at initialization by their gradient does: SNIP, GraSP
# and SynFlow score all these weights 0 and choose among them by position. With zero_init_last=False none is zero.
# Seen with torch 2.14.1, torchvision 0.29.1.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/env"
"$folder/env/bin/pip" install -q torch==2.14.1 torchvision==0.29.1 timm==1.0.31
cd "$folder"
"$folder/env/bin/python" -W ignore - <<'PYTHON'
import timm
import torch
import torchvision
from torch.nn import functional as F


def without_gradient(model):
    generator = torch.Generator().manual_seed(0)
    F.cross_entropy(model(torch.randn(4, 3, 64, 64, generator=generator)), torch.arange(4)).backward()
    kernels = [parameter for parameter in model.parameters() if parameter.dim() == 4]
    return sum(not kernel.grad.any() for kernel in kernels), len(kernels)


torch.manual_seed(0)
found = {
    "timm": without_gradient(timm.create_model("resnet18", num_classes=10)),
    "timm, zero_init_last=False": without_gradient(timm.create_model("resnet18", num_classes=10, zero_init_last=False)),
    "torchvision": without_gradient(torchvision.models.resnet18(num_classes=10)),
}
print("timm", timm.__version__, "convolutions without any gradient:", found)
assert found == {"timm": (16, 20), "timm, zero_init_last=False": (0, 20), "torchvision": (0, 20)}
PYTHON
