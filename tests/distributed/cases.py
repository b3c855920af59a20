"""What every rank does in each case; the return value is JSON, and the tests look at those of all ranks."""

from __future__ import annotations

import copy
import functools
import inspect
import warnings
from collections.abc import Callable
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.parallel import DistributedDataParallel

import sparsify_fx
from sparsify_fx import distributed
from sparsify_fx.criteria import FunctionCriterion, PruningContext
from sparsify_fx.distributed.tensor_hash import digest
from sparsify_fx.errors import SparsifyError
from sparsify_fx.programs.owners import programs
from tests.conftest import small_net

CASES: dict[str, Callable[[int, int], Any]] = {}
SCORED = ("rigl", "obd", "woodfisher", "snip", "grasp")
LIVING = ("signin", "random", "lrr", "rigl", "gmp", "acdc+signin")
METHODS = (*SCORED, "gmp", "set", "acdc+signin", "lrr+signin", "l0", "pilot")
DATA_METHODS = ("snip", "grasp", "obd", "woodfisher")


def case(function: Callable[[int, int], Any]) -> Callable[[int, int], Any]:
    CASES[function.__name__] = function
    return function


def data(
    rank: int, count: int = 3, size: int = 8, dtype: torch.dtype = torch.float32
) -> list[tuple[Tensor, Tensor]]:
    """Batches that only this rank has."""
    generator = torch.Generator().manual_seed(100 + rank)
    return [
        (
            torch.randn(size, 3, 8, 8, generator=generator, dtype=dtype),
            torch.randint(0, 4, (size,), generator=generator),
        )
        for _ in range(count)
    ]


def masks_of(model: nn.Module) -> dict[str, Tensor]:
    found = {name: program.current_mask() for name, program in programs(model).items()}
    return {name: mask for name, mask in found.items() if mask is not None}


def same_on_all(value: str) -> bool:
    every: list[str] = [""] * dist.get_world_size()
    dist.all_gather_object(every, value)
    return len(set(every)) == 1


def optimizer_state(optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    states = [
        optimizer.state.get(p, {})
        for group in optimizer.param_groups
        for p in group["params"]
    ]
    found = {
        f"{i}.{key}": value
        for i, state in enumerate(states)
        for key, value in state.items()
    }
    return {key: value for key, value in found.items() if isinstance(value, Tensor)}


def error_of(do: Callable[[], object]) -> list[str]:
    """[class, text] of the error that it raises."""
    try:
        do()
    except SparsifyError as error:
        return [type(error).__name__, str(error)]
    return ["none", ""]


def train(method: str, rank: int, storage: str = "auto", **ddp: Any) -> dict[str, Any]:
    """Trains with data of its own; at which steps parameters, masks or optimizer state differ over the ranks."""
    batches = data(rank)
    model = sparsify_fx.apply(
        small_net(),
        method,
        sparsity=0.5,
        batches=batches,
        loss_fn=F.cross_entropy,
        storage=storage,
    )
    wrapped = DistributedDataParallel(model, **ddp)
    lengths = [parameter.numel() for parameter in model.parameters()]
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9)
    scheduler = sparsify_fx.Scheduler(
        model, optimizer, epochs=8, steps_per_epoch=len(batches)
    )
    differing, changes, before = [], 0, digest(masks_of(model))
    for step in range(scheduler.steps):
        inputs, labels = batches[step % len(batches)]
        optimizer.zero_grad()
        (F.cross_entropy(wrapped(inputs), labels) + scheduler.penalty()).backward()
        optimizer.step()
        if (step + 1) % len(batches) == 0:
            scheduler.observe(accuracy=(rank + 1) / 10)
        scheduler.step()
        held = {
            f"parameter {name}": p for name, p in model.named_parameters()
        } | masks_of(model)
        if not same_on_all(digest(held | optimizer_state(optimizer))):
            differing.append(step)
        changes, before = (
            changes + (digest(masks_of(model)) != before),
            digest(masks_of(model)),
        )
    nonzeros = sum(int(mask.sum()) for mask in masks_of(model).values())
    return {
        "differing": differing,
        "steps": scheduler.steps,
        "changes": changes,
        "nonzeros": nonzeros,
        "lengths": lengths == [parameter.numel() for parameter in model.parameters()],
        "living": [p.places() is not None for p in programs(model).values()],
    }


for _method in LIVING:
    CASES[f"train living {_method}"] = functools.partial(
        lambda rank, ranks, method: train(method, rank, storage="living"),
        method=_method,
    )
for _method in METHODS:
    CASES[f"train {_method}"] = functools.partial(
        lambda rank, ranks, method: train(method, rank), method=_method
    )


@case
def wrappers(rank: int, ranks: int) -> dict[str, Any]:
    """The options of DistributedDataParallel that concern buffers and graphs."""
    options = [
        {"broadcast_buffers": False},
        {"static_graph": True},
        {"find_unused_parameters": True},
    ]
    if (
        "forward_sync_buffers" in inspect.signature(DistributedDataParallel).parameters
    ):  # since torch 2.14
        options.append({"forward_sync_buffers": False})
    with warnings.catch_warnings():
        warnings.filterwarnings(
            "ignore", "`broadcast_buffers` is deprecated", FutureWarning
        )
        return {str(given): train("rigl", rank, **given) for given in options}


@case
def union(rank: int, ranks: int) -> dict[str, list[int]]:
    """Entries in which the masks differ from those of one process that has the data of all ranks."""
    found = {}
    for method in DATA_METHODS:
        given: dict[str, Any] = {
            "sparsity": 0.5,
            "loss_fn": F.cross_entropy,
            "schedule": "at-init",
        }
        own, every = (data(r, count=1 + r, dtype=torch.float64) for r in (rank, 0)), []
        for other in range(ranks):
            every += data(other, count=1 + other, dtype=torch.float64)
        model = sparsify_fx.apply(
            small_net().double(), method, batches=next(own), **given
        )
        with distributed.independent():
            alone = sparsify_fx.apply(
                small_net().double(), method, batches=every, **given
            )
            first = sparsify_fx.apply(
                small_net().double(),
                method,
                batches=data(0, 1, dtype=torch.float64),
                **given,
            )
        found[method] = [difference(model, alone), difference(model, first)]
    return found


def difference(a: nn.Module, b: nn.Module) -> int:
    return sum(
        int((mask != masks_of(b)[name]).sum()) for name, mask in masks_of(a).items()
    )


@case
def tampered(rank: int, ranks: int) -> dict[str, list[str]]:
    """One entry of one mask of the last rank changes in training."""
    found = {}
    for method in ("gmp", "rigl", "acdc+signin", "lrr+signin"):
        batches = data(rank)
        model = sparsify_fx.apply(
            small_net(), method, sparsity=0.5, batches=batches, loss_fn=F.cross_entropy
        )
        optimizer = torch.optim.SGD(model.parameters(), lr=0.05)
        scheduler = sparsify_fx.Scheduler(model, optimizer, epochs=8, steps_per_epoch=3)
        before = digest(masks_of(model))

        def go_on(scheduler: sparsify_fx.Scheduler = scheduler) -> None:
            while not scheduler.finished:
                scheduler.step()

        if rank == ranks - 1:
            mask = masks_of(model)["3.weight"]
            mask.view(-1)[7] = 1 - mask.view(-1)[7]
        found[method] = [*error_of(go_on), str(same_on_all(before))]
    return found


@case
def failing(rank: int, ranks: int) -> dict[str, Any]:
    """The last rank cannot score: no data, a loss that fails, a loss that fails late; then all is well again."""
    last = rank == ranks - 1

    def loss(outputs: Tensor, targets: Tensor) -> Tensor:
        if last:
            raise ValueError("no such class")
        return F.cross_entropy(outputs, targets)

    given: dict[str, Any] = {
        "sparsity": 0.5,
        "loss_fn": F.cross_entropy,
        "batches": data(rank),
    }
    nets = [small_net() for _ in range(3)]
    empty = error_of(
        lambda: sparsify_fx.apply(
            nets[0], "snip", **{**given, "batches": [] if last else data(rank)}
        )
    )
    try:
        sparsify_fx.apply(nets[1], "grasp", **{**given, "loss_fn": loss})
        raising = ["none", ""]
    except (SparsifyError, ValueError) as error:
        raising = [type(error).__name__, str(error)]
    late = sparsify_fx.apply(nets[2], "obd", **given)
    scheduler = sparsify_fx.Scheduler(
        late, torch.optim.SGD(late.parameters(), lr=0.1), epochs=1, steps_per_epoch=2
    )
    if last:
        given["batches"].clear()
    events = error_of(lambda: [scheduler.step() for _ in range(2)])
    well = sparsify_fx.apply(small_net(), "snip", **{**given, "batches": data(rank)})
    plain = not any(programs(net) for net in nets[:2])
    return {
        "empty": empty,
        "raising": raising,
        "late": events,
        "plain": plain,
        "well": same_on_all(digest(masks_of(well))),
    }


@case
def weights_that_differ(rank: int, ranks: int) -> dict[str, Any]:
    """Ranks that were seeded differently must not choose masks by their weights."""
    model = small_net(seed=rank)
    error = error_of(
        lambda: sparsify_fx.apply(model, "magnitude", schedule="at-init", sparsity=0.5)
    )
    return {"error": error, "plain": not programs(model)}


@case
def gradients_that_nobody_averages(rank: int, ranks: int) -> dict[str, list[str]]:
    """Without a wrapper, and with one that has not seen the factors."""
    batches = data(rank)
    model = sparsify_fx.apply(small_net(), "acdc+signin", sparsity=0.5)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    scheduler = sparsify_fx.Scheduler(
        model, optimizer, epochs=8, steps_per_epoch=len(batches)
    )

    def go_on() -> None:
        for inputs, labels in batches * 8:
            optimizer.zero_grad()
            F.cross_entropy(model(inputs), labels).backward()
            optimizer.step()
            scheduler.step()

    early = DistributedDataParallel(small_net())
    return {
        "alone": error_of(go_on),
        "early": error_of(lambda: sparsify_fx.apply(early, "signin", sparsity=0.5)),
        "dense": error_of(lambda: sparsify_fx.apply(early, "gmp", sparsity=0.5)),
    }


@case
def own_models(rank: int, ranks: int) -> dict[str, Any]:
    """Ranks that train models of their own, of different lengths, in one process group."""
    with distributed.independent():
        method = ("gmp", "snip", "lrr", "rigl")[rank]
        model = sparsify_fx.apply(
            small_net(seed=rank),
            method,
            sparsity=0.5,
            batches=data(rank),
            loss_fn=F.cross_entropy,
        )
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        scheduler = sparsify_fx.Scheduler(
            model, optimizer, epochs=4 + rank, steps_per_epoch=1
        )
        for _ in range(scheduler.steps):
            scheduler.step()
        inside = distributed.group() is None
    return {
        "finished": scheduler.finished,
        "inside": inside,
        "outside": distributed.group() is not None,
    }


@case
def halves(rank: int, ranks: int) -> dict[str, Any]:
    """Two groups of replicas in one job: each agrees within itself."""
    groups = [
        dist.new_group(list(range(start, start + ranks // 2)))
        for start in (0, ranks // 2)
    ]
    mine = groups[rank // (ranks // 2)]
    with distributed.use_group(mine):
        model = sparsify_fx.apply(
            small_net(seed=rank // (ranks // 2)),
            "snip",
            sparsity=0.5,
            batches=data(rank),
            loss_fn=F.cross_entropy,
        )
    return {"masks": digest(masks_of(model)), "group": rank // (ranks // 2)}


@case
def user_criterion(rank: int, ranks: int) -> dict[str, Any]:
    """A criterion of the user's that reads batches and knows nothing of ranks."""

    def saliency(context: PruningContext) -> dict[str, Tensor]:
        assert context.batches is not None
        scale = sum(float(inputs.abs().mean()) for inputs, _ in context.batches)
        noise = torch.Generator().manual_seed(int(1000 * scale))
        return {
            name: torch.rand(weight.shape, generator=noise)
            for name, weight in context.weights.items()
        }

    rule = FunctionCriterion("saliency", saliency, ("batches",))
    model = sparsify_fx.apply(
        small_net(), "random", criterion=rule, sparsity=0.5, batches=data(rank)
    )
    with distributed.independent():
        alone = sparsify_fx.apply(
            small_net(), "random", criterion=rule, sparsity=0.5, batches=data(rank)
        )
    return {
        "equal": same_on_all(digest(masks_of(model))),
        "alone": same_on_all(digest(masks_of(alone))),
    }


@case
def sums(rank: int, ranks: int) -> dict[str, Any]:
    """Sums of float32 numbers of very different size, in every rank's bits; counts; means of numbers."""
    generator = torch.Generator().manual_seed(rank)
    own = {
        "a": torch.randn(1001, generator=generator)
        * 10.0 ** torch.randint(-6, 6, (1001,), generator=generator),
        "transposed": torch.randn(3, 5, generator=generator).T,
        "scalar": torch.tensor(float(rank)),
        "none": torch.zeros(0, 4),
    }
    every: list[dict[str, Tensor]] = [{}] * ranks
    dist.all_gather_object(every, {name: value.clone() for name, value in own.items()})
    exact = {name: sum(part[name].double() for part in every) for name in own}
    total, count = distributed.sum_over_ranks(
        "sums", lambda: ({k: v.clone() for k, v in own.items()}, rank + 1)
    )
    rounded = all(
        torch.equal(total[name], torch.as_tensor(exact[name]).float()) for name in own
    )
    numbers = [
        distributed.mean_number(rank / 10),
        distributed.mean_number(None if rank else 0.25),
    ]
    return {
        "digest": digest(total),
        "rounded": rounded,
        "count": count,
        "numbers": numbers,
        "none": distributed.mean_number(None),
    }


@case
def different_places(rank: int, ranks: int) -> list[str]:
    """Ranks that make different calls are told where each of them is."""
    return error_of(lambda: distributed.exchange("a pruning" if rank else "a rewind"))


@case
def ignored_masks(rank: int, ranks: int) -> dict[str, Any]:
    """What DistributedDataParallel sends before a forward, and what a state dict holds."""
    model = sparsify_fx.apply(small_net(), "random", sparsity=0.5)
    wrapped = DistributedDataParallel(copy.deepcopy(model))
    outer = DistributedDataParallel(nn.Sequential(copy.deepcopy(model), nn.Identity()))
    wrapped(data(rank)[0][0])
    outer(data(rank)[0][0])
    merged = sparsify_fx.merge(copy.deepcopy(model))
    again = DistributedDataParallel(merged)
    return {
        "sent": [name for name in wrapped.named_module_buffers if "mask" in name],
        "others": len(wrapped.named_module_buffers),
        "outer": len([name for name in outer.named_module_buffers if "mask" in name]),
        "living": [n for n in wrapped.named_module_buffers if "living" in n],
        "saved": len(
            [key for key in wrapped.state_dict() if key.endswith("_program.mask")]
        ),
        "left": sorted(again.parameters_to_ignore),
        "attribute": hasattr(merged, "_ddp_params_and_buffers_to_ignore"),
    }


@case
def synchronized_norms(rank: int, ranks: int) -> dict[str, Any]:
    """Scoring a model with SyncBatchNorm waits for nobody, though ranks have different numbers of batches."""
    model = nn.SyncBatchNorm.convert_sync_batchnorm(small_net())
    with distributed.independent():
        plain = sparsify_fx.apply(
            small_net(), "snip", batches=data(rank, 1 + rank), loss_fn=F.cross_entropy
        )
        own = sparsify_fx.apply(
            copy.deepcopy(model),
            "snip",
            batches=data(rank, 1 + rank),
            loss_fn=F.cross_entropy,
        )
    sparsify_fx.apply(
        model, "snip", batches=data(rank, 1 + rank), loss_fn=F.cross_entropy
    )
    kinds = [
        type(module).__name__
        for module in model.modules()
        if "Norm" in type(module).__name__
    ]
    return {
        "as batch norm": difference(plain, own),
        "equal": same_on_all(digest(masks_of(model))),
        "kinds": sorted(set(kinds)),
        "forwards": any("forward" in module.__dict__ for module in model.modules()),
    }
