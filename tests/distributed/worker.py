"""One rank of a gloo process group: runs each case that it reads the name of, and answers with what it saw as JSON.

python -m tests.distributed.worker RANK RANKS RENDEZVOUS
"""

from __future__ import annotations

import json
import os
import sys
import traceback
import warnings
from typing import Any

import torch
import torch.distributed as dist

from tests.distributed import batch_cases as _batch_cases
from tests.distributed import fsdp_cases as _fsdp_cases
from tests.distributed import fsdp_odd_cases as _fsdp_odd_cases
from tests.distributed import living_cases as _living_cases
from tests.distributed.cases import CASES

# The imports add their cases.
assert [_batch_cases, _fsdp_cases, _fsdp_odd_cases, _living_cases]


def main(rank: int, ranks: int, rendezvous: str) -> None:
    torch.set_num_threads(1)
    warnings.simplefilter("error")
    # Answers have the pipe for themselves: what else is printed goes where errors go.
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    dist.init_process_group(
        "gloo", init_method=f"file://{rendezvous}", rank=rank, world_size=ranks
    )
    for line in sys.stdin:
        print(
            json.dumps(outcome(line.rstrip("\n"), rank, ranks)),
            file=answers,
            flush=True,
        )
    dist.destroy_process_group()


def outcome(name: str, rank: int, ranks: int) -> Any:
    """What a case saw, or how it failed."""
    try:
        found = CASES[name](rank, ranks)
    except Exception:
        found = {"failed": traceback.format_exc()}
    flags: list[bool] = [False] * ranks
    dist.all_gather_object(flags, isinstance(found, dict) and "failed" in found)
    if any(flags) and not flags[rank]:
        found = {"failed": "on another rank"}
    return found


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]), sys.argv[3])
