"""What every rank does with vectors of living entries; the return value is JSON."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from unittest import mock

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.parallel import DistributedDataParallel

import sparsify_fx
from sparsify_fx import distributed
from sparsify_fx.distributed.tensor_hash import digest
from sparsify_fx.programs.owners import programs
from tests.distributed.cases import (
    case,
    error_of,
    masks_of,
    optimizer_state,
    same_on_all,
)

# Buckets of which each holds all, some, or one of the vectors.
CAPS = (25, 0.02, 0.001)
STEPS = 6


def net(seed: int = 0) -> nn.Sequential:
    """Without batch norm, so that ranks together compute what one does with all data."""
    torch.manual_seed(seed)
    return nn.Sequential(
        nn.Linear(48, 96), nn.Tanh(), nn.Linear(96, 96), nn.Tanh(), nn.Linear(96, 4)
    )


def data(rank: int, step: int) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(1000 * rank + step)
    inputs = torch.randn(8, 48, generator=generator)
    return inputs, torch.randint(0, 4, (8,), generator=generator)


def prepared(method: str, **given: Any) -> nn.Sequential:
    return sparsify_fx.apply(net(), method, sparsity=0.9, **given)


def trained(
    model: nn.Module, called: nn.Module, ranks: list[int], wrapped: bool
) -> dict[str, Any]:
    """The weights after some steps with the data of these ranks, and whether all ranks were equal after each."""
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.01)
    equal = True
    for step in range(STEPS):
        given = [data(rank, step) for rank in ranks]
        inputs, labels = (torch.cat(each) for each in zip(*given, strict=True))
        optimizer.zero_grad()
        F.cross_entropy(called(inputs), labels).backward()
        optimizer.step()
        held = dict(model.named_parameters()) | optimizer_state(optimizer)
        if wrapped:
            equal &= same_on_all(digest(held | masks_of(model)))
    weights = {name: p.effective() for name, p in programs(model).items()}
    return {"weights": weights or dict(model.named_parameters()), "equal": equal}


@contextmanager
def counted() -> Iterator[list[int]]:
    """The bytes of everything that is given to `all_reduce` from Python."""
    sent: list[int] = []
    real = dist.all_reduce

    def count(tensor: Tensor, *args: Any, **options: Any) -> Any:
        sent.append(tensor.nbytes)
        return real(tensor, *args, **options)

    with mock.patch.object(dist, "all_reduce", count):
        yield sent


def plain_hook(state: object, bucket: dist.GradBucket) -> Any:
    """What DistributedDataParallel does without a hook, in Python, where it can be counted."""
    buffer = bucket.buffer() / dist.get_world_size()
    work = dist.all_reduce(buffer, async_op=True)
    return work.get_future().then(lambda future: future.value()[0])


plain_hook.__annotations__.clear()


@case
def traffic(rank: int, ranks: int) -> dict[str, Any]:
    """Bytes of each step against those of a dense model; how far weights are from those of one process."""
    found: dict[str, Any] = {}
    dense = DistributedDataParallel(net())
    dense.register_comm_hook(None, plain_hook)
    with counted() as sent:
        trained(dense.module, dense, [rank], wrapped=True)
    whole = sum(sent)
    for method, hook in (
        ("random", plain_hook),
        ("signin", plain_hook),
        ("signin", distributed.living_hook),
        ("random", distributed.living_hook),
    ):
        with distributed.independent():
            alone = prepared(method)
            expected = trained(alone, alone, list(range(ranks)), wrapped=False)
        for cap in CAPS:
            for view in (False, True):
                model = prepared(method)
                wrapped = DistributedDataParallel(
                    model, bucket_cap_mb=cap, gradient_as_bucket_view=view
                )
                wrapped.register_comm_hook(model, hook)
                with counted() as sent:
                    seen = trained(model, wrapped, [rank], wrapped=True)
                gaps = [
                    float((weight - expected["weights"][name]).abs().max())
                    for name, weight in seen["weights"].items()
                ]
                found[f"{method} {hook.__name__} {cap} {view}"] = {
                    "share": sum(sent) / whole,
                    "equal": seen["equal"],
                    "gap": max(gaps),
                }
    return found


@case
def accumulated(rank: int, ranks: int) -> dict[str, Any]:
    """living_hook with no_sync: gradients of several batches are averaged at once."""
    ends = []
    for hook in (None, distributed.living_hook):
        model = prepared("signin")
        wrapped = DistributedDataParallel(model)
        if hook is not None:
            wrapped.register_comm_hook(model, hook)
        optimizer = torch.optim.SGD(model.parameters(), lr=0.5, momentum=0.9)
        for step in range(STEPS):
            inputs, labels = data(rank, step)
            if step % 2 == 0:
                with wrapped.no_sync():
                    F.cross_entropy(wrapped(inputs), labels).backward()
                continue
            F.cross_entropy(wrapped(inputs), labels).backward()
            optimizer.step()
            optimizer.zero_grad()
        ends.append({name: p.effective() for name, p in programs(model).items()})
    gaps = [float((ends[0][n] - ends[1][n]).abs().max()) for n in ends[0]]
    return {"gap": max(gaps), "equal": same_on_all(digest(ends[1]))}


@case
def terms_of_factors(rank: int, ranks: int) -> dict[str, Any]:
    """A loss of the factors themselves is told; a penalty of the method is averaged as without the hook."""
    model = prepared("signin")
    wrapped = DistributedDataParallel(model)
    wrapped.register_comm_hook(model, distributed.living_hook)
    inputs, labels = data(rank, 0)
    loss = F.cross_entropy(wrapped(inputs), labels)
    loss = loss + sum(p.m.square().sum() for p in programs(model).values())
    told = error_of(loss.backward)
    ends = []
    for hook in (None, distributed.living_hook):
        model = prepared("signin", penalty="factors")
        wrapped = DistributedDataParallel(model)
        if hook is not None:
            wrapped.register_comm_hook(model, hook)
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        scheduler = sparsify_fx.Scheduler(model, optimizer, epochs=1, steps_per_epoch=3)
        for step in range(3):
            inputs, labels = data(rank, step)
            optimizer.zero_grad()
            term = scheduler.penalty()
            (F.cross_entropy(wrapped(inputs), labels) + term).backward()
            optimizer.step()
            scheduler.step()
        ends.append({name: p.effective() for name, p in programs(model).items()})
    gaps = [float((ends[0][n] - ends[1][n]).abs().max()) for n in ends[0]]
    return {"told": told, "gap": max(gaps)}


@case
def lengths_that_would_change(rank: int, ranks: int) -> dict[str, Any]:
    """States with more living entries, optimizers that need whole weights, and models that are wrapped already."""
    denser = sparsify_fx.apply(net(), "signin", sparsity=0.5).state_dict()
    model = prepared("signin")
    model.load_state_dict(denser)
    before = [p.numel() for p in programs(model)["0.weight"].parameters()]
    model = prepared("signin")
    wrapped = DistributedDataParallel(model)
    try:
        model.load_state_dict(denser)
        loaded = ""
    except RuntimeError as error:
        loaded = str(error)
    matrices = torch.optim.Muon([p for p in model.parameters() if p.dim() == 2])
    rest = torch.optim.SGD([p for p in model.parameters() if p.dim() != 2], lr=0.1)
    F.cross_entropy(wrapped(data(rank, 0)[0]), data(rank, 0)[1]).backward()
    unwrapped = prepared("signin")
    muon = torch.optim.Muon([p for p in unwrapped.parameters() if p.dim() == 2])
    F.cross_entropy(unwrapped(data(rank, 0)[0]), data(rank, 0)[1]).backward()
    muon.step()
    early = DistributedDataParallel(net())
    told = error_of(lambda: sparsify_fx.apply(early.module, "random", storage="living"))
    sparsify_fx.apply(early.module, "random")
    F.cross_entropy(early(data(rank, 0)[0]), data(rank, 0)[1]).backward()
    return {
        "grown": before,
        "loaded": loaded,
        "Muon": error_of(matrices.step),
        "Scheduler": error_of(
            lambda: sparsify_fx.Scheduler(
                model, [matrices, rest], epochs=1, steps_per_epoch=1
            )
        ),
        "unwrapped": [p.places() is None for p in programs(unwrapped).values()],
        "early": told,
        "full": [p.places() is None for p in programs(early.module).values()],
    }
