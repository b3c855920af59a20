"""2:4 and block masks on a GPU: the products of torch's sparse tensors beside dense ones, their results compared.

python benchmarks/gpu_sparse.py                 # needs a CUDA device of compute capability 8.0 and later
python benchmarks/gpu_sparse.py --out gpu.json  # milliseconds and errors as JSON
"""

from __future__ import annotations

import argparse
import copy
import json
import statistics

import torch
from torch import nn

import sparsify_fx
from sparsify_fx import handing_on

parser = argparse.ArgumentParser(
    description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
)
parser.add_argument("--rows", type=int, default=4096, help="of the input")
parser.add_argument("--width", type=int, default=4096)
parser.add_argument("--block", type=int, default=64, help="side of a block")
parser.add_argument("--sparsity", type=float, default=0.9, help="of the blocks")
parser.add_argument("--rounds", type=int, default=30)
parser.add_argument("--out")
args = parser.parse_args()

if not torch.cuda.is_available():
    raise SystemExit(
        "no CUDA device: sparse tensor cores and torch's block kernels run on GPUs alone. On a CPU "
        "handing_on.semi_structured_layers(model) and block_sparse_layers(model, block) tell which layers fit, and "
        "to_block_sparse works there by MKL"
    )

torch.manual_seed(0)
dense = nn.Sequential(
    nn.Linear(args.width, args.width), nn.ReLU(), nn.Linear(args.width, args.width)
)
inputs = torch.randn(args.rows, args.width, device="cuda", dtype=torch.float16)


def masked(granularity: str, sparsity: float) -> nn.Module:
    """A copy with these zeros, on the GPU in float16."""
    model = copy.deepcopy(dense)
    sparsify_fx.apply(
        model, "magnitude", schedule="at-init", granularity=granularity, sparsity=sparsity
    )  # fmt: skip
    return sparsify_fx.merge(model).eval().cuda().half()


def milliseconds(model: nn.Module) -> float:
    """The median time of a forward, after three that are not counted."""
    taken = []
    with torch.no_grad():
        for number in range(args.rounds + 3):
            begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
            begin.record()
            model(inputs)
            end.record()
            torch.cuda.synchronize()
            if number >= 3:
                taken.append(begin.elapsed_time(end))
    return statistics.median(taken)


def compared(name: str, model: nn.Module, stored: nn.Module) -> dict[str, object]:
    """Times of both, and the largest difference of their outputs over the largest output."""
    with torch.no_grad():
        expected, found = model(inputs).float(), stored(inputs).float()
    error = float((found - expected).abs().max() / expected.abs().max())
    assert error < 1e-2, f"{name}: outputs differ by {error:.1e}"
    again, dense_ms = milliseconds(model), milliseconds(model)
    sparse_ms = milliseconds(stored)
    print(
        f"{name}: dense {dense_ms:.3f} ms (again {again:.3f}), sparse {sparse_ms:.3f} ms, error {error:.1e}"
    )
    return {"dense_ms": dense_ms, "again_ms": again, "sparse_ms": sparse_ms, "error": error}  # fmt: skip


results: dict[str, object] = {
    "device": torch.cuda.get_device_name(),
    "torch": torch.__version__,
    "shape": [args.rows, args.width],
}
model = masked("2:4", 0.5)
stored = copy.deepcopy(model)
print(handing_on.to_semi_structured(stored))
results["2:4"] = compared("2:4", model, stored)

side = args.block
model = masked(f"block:{side}x{side}", args.sparsity)
stored = copy.deepcopy(model)
print(handing_on.to_block_sparse(stored, (side, side)))
results[f"blocks of {side}x{side}"] = compared(f"blocks of {side}", model, stored)

if args.out:
    with open(args.out, "w", encoding="utf-8") as file:
        json.dump(results, file, indent=1)
