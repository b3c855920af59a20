"""One rank: runs every case of a kind in one gloo process group and writes what it saw as JSON.

python -m tests.distributed.worker RANK RANKS RENDEZVOUS RESULT KIND
"""

from __future__ import annotations

import json
import sys
import traceback
import warnings
from pathlib import Path

import torch
import torch.distributed as dist

from tests.distributed import batch_cases as _batch_cases
from tests.distributed import fsdp_cases as _fsdp_cases
from tests.distributed import fsdp_odd_cases as _fsdp_odd_cases
from tests.distributed import living_cases as _living_cases
from tests.distributed.cases import CASES

# The imports add their cases.
assert [_batch_cases, _fsdp_cases, _fsdp_odd_cases, _living_cases]
# On four ranks these tell nothing that the others do not.
LEFT_OUT = {(4, f"fsdp {method}") for method in _fsdp_cases.OTHERS}


def main(rank: int, ranks: int, rendezvous: str, result: str, kind: str) -> None:
    torch.set_num_threads(1)
    warnings.simplefilter("error")
    dist.init_process_group(
        "gloo", init_method=f"file://{rendezvous}", rank=rank, world_size=ranks
    )
    found = {}
    for name, case in CASES.items():
        if name.startswith("fsdp") != (kind == "fsdp") or (ranks, name) in LEFT_OUT:
            continue
        try:
            found[name] = case(rank, ranks)
        except Exception:
            found[name] = {"failed": traceback.format_exc()}
        flags: list[bool] = [False] * ranks
        dist.all_gather_object(
            flags, isinstance(found[name], dict) and "failed" in found[name]
        )
        if any(flags) and not flags[rank]:
            found[name] = {"failed": "on another rank"}
    Path(result).write_text(json.dumps(found), encoding="utf-8")
    dist.destroy_process_group()


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]), *sys.argv[3:])
