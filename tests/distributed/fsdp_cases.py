"""What every rank does with models that are sharded over the ranks, beside one process with all the data."""

from __future__ import annotations

import functools
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.nn import functional as F

import sparsify_fx
from sparsify_fx import distributed
from sparsify_fx.distributed.tensor_hash import digest
from sparsify_fx.parameterizations import Dense
from sparsify_fx.programs.owners import programs
from sparsify_fx.sharding import part
from tests.distributed.cases import CASES, difference, masks_of

SHARDED = ("lrr", "signin", "gmp", "rigl")
# Every other way of choosing or moving masks, of factors, penalties and rewinds; those of `OPTIONS` with arguments.
OTHERS = (
    "acdc", "cs", "dense", "grasp", "imp-rand", "l0", "l1", "lrr+signin", "lrr-bn", "obd", "pilot", "powerprop",
    "random", "rigl+signin", "set", "snip", "spred", "synflow", "woodfisher", "wr",
)  # fmt: skip
OPTIONS: dict[str, dict[str, Any]] = {
    "n:m": {
        "method": "gmp",
        "allocation": "n:m",
        "sparsity": 2 / 9,
        "include": ["2", "5"],
    },
    "erk": {"method": "gmp", "allocation": "erk"},
    "floors": {"method": "gmp", "min_per_layer": 4, "adam": True},
    "full": {"method": "signin", "storage": "full"},
    "signs": {"method": "lrr", "rewind": {"signs": "warmup"}},
    "magnitudes": {"method": "lrr+signin", "rewind": {"magnitudes": "warmup"}},
    "root": {"method": "lrr+signin", "how": "root"},
    "copies": {"method": "wr", "how": "copies"},
    "kept": {"method": "spred", "how": "kept"},
    "channel": {
        "method": "str",
        "parameterization": {"name": "soft-threshold", "per": "channel"},
    },
}
_SIZE = 8


def net(seed: int = 0) -> nn.Module:
    """In float64, without norms: sums over a batch and over its parts differ by rounding alone. 5 rows and 3 do not
    divide by the number of ranks, and 3 ranks of 4 have rows of the last weight."""
    torch.manual_seed(seed)
    return nn.Sequential(
        nn.Conv2d(3, 8, 3, padding=1, bias=False),
        nn.ReLU(),
        nn.Conv2d(8, 6, 3, stride=2, groups=2),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(54, 5),
        nn.ReLU(),
        nn.Linear(5, 3),
    ).double()


def batches(count: int = 3) -> list[tuple[Tensor, Tensor]]:
    generator = torch.Generator().manual_seed(7)
    return [
        (
            torch.randn(_SIZE, 3, 8, 8, generator=generator, dtype=torch.float64),
            torch.randint(0, 3, (_SIZE,), generator=generator),
        )
        for _ in range(count)
    ]


def own(given: list[tuple[Tensor, Tensor]], rank: int, ranks: int) -> list[Any]:
    """The part of each batch that this rank trains on."""
    share = _SIZE // ranks
    return [
        (x[rank * share : (rank + 1) * share], y[rank * share : (rank + 1) * share])
        for x, y in given
    ]


def shard_model(model: nn.Module, how: str) -> None:
    """In units of a layer; "root": in one; "copies": shards over half of the ranks, and copies of them; "kept": whole
    from the forward to the backward.
    """
    given: dict[str, Any] = {}
    if how == "copies":
        size = dist.get_world_size()
        names = ("copies", "shards")
        given["mesh"] = init_device_mesh("cpu", (2, size // 2), mesh_dim_names=names)
    if how == "kept":
        given["reshard_after_forward"] = False
    for layer in () if how == "root" else (model[0], model[5]):  # type: ignore[index]
        fully_shard(layer, **given)
    fully_shard(model, **given)


class Run:
    """A training; sharded over the ranks, or whole in this process."""

    def __init__(
        self,
        method: str,
        rank: int,
        ranks: int,
        given: dict[str, Any],
        adam: bool = False,
        how: str = "layers",
    ) -> None:
        self.data = own(batches(), rank, ranks) if ranks > 1 else batches()
        options: dict[str, Any] = {"sparsity": 0.6, "loss_fn": F.cross_entropy}
        self.model = sparsify_fx.apply(
            net(), method, batches=self.data, **(options | given)
        )
        if ranks > 1:
            shard_model(self.model, how)
        build = torch.optim.AdamW if adam else torch.optim.SGD
        rest = {} if adam else {"momentum": 0.9}
        self.optimizer = build(
            self.model.parameters(), lr=0.05, weight_decay=1e-3, **rest
        )
        self.scheduler = sparsify_fx.Scheduler(
            self.model, self.optimizer, epochs=8, steps_per_epoch=len(self.data)
        )

    def step(self) -> None:
        inputs, labels = self.data[self.scheduler.step_count % len(self.data)]
        self.optimizer.zero_grad()
        loss = F.cross_entropy(self.model(inputs), labels)
        (loss + self.scheduler.penalty()).backward()
        self.optimizer.step()
        if self.scheduler.step_count % len(self.data) == len(self.data) - 1:
            self.scheduler.observe(accuracy=0.5)
        self.scheduler.step()


def beside(
    rank: int,
    ranks: int,
    method: str,
    adam: bool = False,
    how: str = "layers",
    **given: Any,
) -> dict[str, Any]:
    """Entries in which masks differ from those of one process, after every step; and how far the weights are."""
    run = Run(method, rank, ranks, given, adam, how)
    with distributed.independent():
        alone = Run(method, rank, 1, given, adam)
    differing, changes, before = 0, 0, digest(masks_of(run.model))
    broken = 0
    for _ in range(run.scheduler.steps):
        run.step()
        with distributed.independent():
            alone.step()
        differing += difference(run.model, alone.model)
        now = digest(masks_of(run.model))
        changes, before = changes + (now != before), now
        broken += lawless(run)
    dense, other = (
        sparsify_fx.dense_state_dict(run.model),
        sparsify_fx.dense_state_dict(alone.model),
    )
    return {
        "differing": differing,
        "changes": changes,
        "broken": broken,
        "sharded": all(type(p).__name__ == "DTensor" for p in run.model.parameters()),
        "living": any(p.places() is not None for p in programs(run.model).values()),
        "far": max(float((dense[n] - other[n]).abs().max()) for n in other),
        "keys": list(dense) == list(other),
        "steps": run.scheduler.steps,
        "nonzeros": sum(int(mask.sum()) for mask in masks_of(run.model).values()),
    }


def lawless(run: Run) -> int:
    """Pruned entries of this rank's shards that hold a weight or momentum."""
    found = 0
    for program in programs(run.model).values():
        mask = program.current_mask()
        if mask is None or program.places() is not None:
            continue
        theta = program.theta_in_place()
        dead = part(mask, theta) == 0
        found += int((part(theta, theta)[dead] != 0).sum())
        # Where pruned factors are not zero weight decay moves them, in one process too.
        plain = isinstance(program.parameterization, Dense)
        for factor in program.factor_tensors().values() if plain else ():
            for state in run.optimizer.state.get(factor, {}).values():
                if isinstance(state, Tensor) and state.shape == mask.shape:
                    found += int((state.to_local()[dead] != 0).sum())
    return found


for _method in (*SHARDED, *OTHERS):
    CASES[f"fsdp {_method}"] = functools.partial(beside, method=_method)
for _name, _given in OPTIONS.items():
    CASES[f"fsdp {_name}"] = functools.partial(beside, **_given)
