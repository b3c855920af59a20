#!/usr/bin/env bash
# torch 2.14.1 on a CPU: batch norm in training adds the values of a channel in single precision, one by one, when the
# batch is in channels_last, and in double precision when it is contiguous. The same batch of 512 images of 32x32 gives
# variances that are off by 2e-4 of themselves, and outputs off by 4e-4, against 6e-8 and 6e-7 for the contiguous one;
# the error grows with the batch. Seen on x86-64 with AVX2, one thread.
# What it means here: losses of a training in channels_last do not have the digits of one in the usual layout; images
# that lie side by side between sparse layers have a batch norm of their own, which adds runs in double precision.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/env"
"$folder/env/bin/pip" install -q torch==2.14.1 numpy
cd "$folder"
"$folder/env/bin/python" - <<'PYTHON'
import torch
from torch.nn import functional as F

torch.set_num_threads(1)
torch.manual_seed(0)
contiguous = torch.randn(512, 16, 32, 32)
exact = contiguous.double().var((0, 2, 3))
errors = {}
for name, images in {
    "contiguous": contiguous,
    "channels_last": contiguous.to(memory_format=torch.channels_last),
}.items():
    mean, variance = torch.zeros(16), torch.ones(16)
    F.batch_norm(images, mean, variance, training=True, momentum=1.0)
    errors[name] = float(((variance.double() - exact) / exact).abs().max())
    print(f"torch {torch.__version__}, {name}: variance off by {errors[name]:.1e}")
assert errors["channels_last"] > 100 * errors["contiguous"]
PYTHON
