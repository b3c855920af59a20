#!/usr/bin/env bash
# torch 2.14.1, torch.distributed.tensor: float(), int() and .item() of the sum, norm, maximum or count of a sharded DTensor give
# the number of this process's shard, without a word, and so another one on every rank: `float(x.norm()) > 2` differs, while
# `x.norm() > 2` is of the whole and the same everywhere. The number of the whole is `x.norm().full_tensor().item()`.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/env"
"$folder/env/bin/pip" install -q torch==2.14.1 numpy
cd "$folder"
cat > ranks.py <<'PYTHON'
import os

import torch
import torch.distributed as dist
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.tensor import Shard, distribute_tensor

rank = int(os.environ["RANK"])
mesh = init_device_mesh("cpu", (2,))
numbers = distribute_tensor(torch.arange(4.0), mesh, [Shard(0)])
seen = {
    "sum": numbers.sum().item(),
    "max": float(numbers.max()),
    "count": int(numbers.count_nonzero()),
    "float(norm) > 2": float(numbers.norm()) > 2,
    "norm > 2": bool(numbers.norm() > 2),
    "whole sum": numbers.sum().full_tensor().item(),
}
print(f"rank {rank}: {seen}", flush=True)
own = [(1.0, 1.0, 1, False, True, 6.0), (5.0, 3.0, 2, True, True, 6.0)]
assert tuple(seen.values()) == own[rank], seen
dist.destroy_process_group()
PYTHON
"$folder/env/bin/torchrun" --nproc-per-node 2 ranks.py 2>"$folder/errors" || { cat "$folder/errors"; exit 1; }
