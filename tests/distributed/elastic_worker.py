"""One rank of a training that other ranks have begun, or will go on with.

python -m tests.distributed.elastic_worker RANK RANKS RENDEZVOUS RESULT METHOD FROM TO STEP
"""

from __future__ import annotations

import json
import sys
import warnings
from pathlib import Path

import torch
import torch.distributed as dist

from sparsify_fx.distributed import load_checkpoint, save_checkpoint
from tests.distributed.fsdp_cases import Run


def go_on(run: Run, source: str, target: str, stop: int, background: bool) -> None:
    """Load if there is something, train to a step, save if it is wanted."""
    if source != "none":
        extra = load_checkpoint(source, run.model, run.optimizer, run.scheduler)
        assert extra == {"note": run.scheduler.step_count}
    while run.scheduler.step_count < stop:
        run.step()
    if target == "none":
        return
    future = save_checkpoint(
        target,
        run.model,
        run.optimizer,
        run.scheduler,
        extra={"note": run.scheduler.step_count},
        asynchronous=background,
    )
    # What is trained while the file is written must not be in it.
    if future is not None:
        run.step()
        future.result()


def main(rank: int, ranks: int, rendezvous: str, result: str, *given: str) -> None:
    torch.set_num_threads(1)
    warnings.simplefilter("error")
    method, source, target, stop, background = given
    # Copies to the CPU and the writing thread talk through gloo in any case.
    dist.init_process_group(
        "gloo", init_method=f"file://{rendezvous}", rank=rank, world_size=ranks
    )
    run = Run(method, rank, ranks, {})
    go_on(run, source, target, int(stop), background == "background")
    Path(result).write_text(json.dumps(run.scheduler.step_count), encoding="utf-8")
    dist.destroy_process_group()


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]), *sys.argv[3:])
