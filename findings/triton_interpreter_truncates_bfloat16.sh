#!/usr/bin/env bash
# triton 3.8.0: in the interpreter (TRITON_INTERPRET=1) float32 becomes bfloat16 by cutting off the lower half of its bits,
# towards zero, where torch, and kernels on a GPU, round to the nearest and ties to even. Triton's docs say to compute with
# bfloat16 in float32 there; the way back still differs in the last bit, for about half of all numbers, and 3.4e38 stays finite
# where the nearest bfloat16 is infinite.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/env"
"$folder/env/bin/pip" install -q torch==2.14.1 triton==3.8.0 numpy
cd "$folder"
cat > kernel.py <<'PYTHON'
import torch
import triton
import triton.language as tl


@triton.jit
def narrow(given, made, SIZE: tl.constexpr):
    at = tl.arange(0, SIZE)
    tl.store(made + at, tl.load(given + at).to(tl.bfloat16))


given = torch.tensor([1.0, 1 + 5 * 2**-10, 1 + 3 * 2**-8, 3.4e38])
made = torch.zeros(4, dtype=torch.bfloat16)
narrow[(1,)](given, made, SIZE=4)
print("interpreter:", made.tolist())
print("torch:      ", given.bfloat16().tolist())
assert made.tolist() == [1.0, 1.0, 1.0078125, 3.3895313892515355e38], made.tolist()
assert given.bfloat16().tolist() == [1.0, 1.0078125, 1.015625, float("inf")]
PYTHON
TRITON_INTERPRET=1 "$folder/env/bin/python" -W ignore kernel.py
