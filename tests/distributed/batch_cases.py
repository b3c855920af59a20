"""What every rank does with its part of a batch: norms over all parts, running statistics, sums by the tree."""

from __future__ import annotations

import copy
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from sparsify_fx import distributed
from sparsify_fx.distributed.batch_norm import RunningStatistics, synchronize
from sparsify_fx.distributed.tensor_hash import digest
from sparsify_fx.distributed.trees import (
    PartialSums,
    block_length,
    sum_by_tree,
    tree_sum,
)
from tests.distributed.cases import case, error_of, same_on_all

PIECES, EACH = 8, 3
NORMS = (
    nn.BatchNorm1d(4),
    nn.BatchNorm2d(4, momentum=None),
    nn.BatchNorm3d(4, affine=False),
    nn.BatchNorm2d(4, track_running_stats=False),
)


def images(norm: nn.Module, part: int) -> Tensor:
    """The micro-batch number `part`, far from zero so that differences of squares would lose digits."""
    generator = torch.Generator().manual_seed(part)
    more = {"BatchNorm1d": (), "BatchNorm2d": (5, 2), "BatchNorm3d": (2, 3, 2)}
    shape = (EACH, 4, *more[type(norm).__name__])
    return 100 + part + torch.randn(shape, generator=generator, dtype=torch.float64)


def gap(one: dict[str, Tensor], other: dict[str, Tensor]) -> float:
    assert one.keys() == other.keys()
    return max(float((one[k].double() - other[k].double()).abs().max()) for k in one)


def passed(norm: nn.Module, parts: range, plain: nn.Module) -> dict[str, Tensor]:
    """Outputs of these parts, gradients and buffers after one forward and backward.

    The loss weighs entries differently, or the gradients in the inputs of a norm would be zero.
    """
    x = torch.cat([images(plain, part) for part in parts])
    x.requires_grad_()
    y = norm(x)
    weights = torch.linspace(1, 2, y.numel() // len(parts), dtype=torch.float64)
    terms = [
        (1 + part) * (weights.view_as(chunk) * chunk.sin()).sum()
        for part, chunk in zip(parts, torch.split(y, EACH), strict=True)
    ]
    sum(terms, start=torch.zeros((), dtype=torch.float64)).backward()
    assert x.grad is not None
    gradients = {f"grad {name}": p.grad for name, p in norm.named_parameters()}
    return {
        "x": x.grad,
        "y": y.detach(),
        **{k: v for k, v in gradients.items() if v is not None},
        **{f"buffer {name}": b for name, b in norm.named_buffers()},
    }


@case
def norms_over_all_parts(rank: int, ranks: int) -> dict[str, Any]:
    """Against one process that has the whole batch; sums of the gradients of scales over the ranks are the whole's."""
    found = {}
    each = PIECES // ranks
    own = range(rank * each, (rank + 1) * each)
    for number, plain in enumerate(NORMS):
        alone, shared = (copy.deepcopy(plain).double() for _ in range(2))
        model = nn.Sequential(shared)
        synchronize(model)
        expected = passed(alone, range(PIECES), plain)
        seen = passed(model[0], own, plain)
        for key in ("x", "y"):
            expected[key] = expected[key][own.start * EACH : own.stop * EACH]
        for key in seen:
            if key.startswith("grad"):
                dist.all_reduce(seen[key])
        found[f"{number} {type(plain).__name__}"] = gap(seen, expected)
    return found


class Activated(nn.BatchNorm2d):
    """A batch norm that does more than normalize."""

    def forward(self, input: Tensor) -> Tensor:
        return super().forward(input).relu()


@case
def norms_with_code_of_their_own(rank: int, ranks: int) -> dict[str, Any]:
    model = nn.Sequential(nn.BatchNorm2d(3), Activated(3))
    told = error_of(lambda: synchronize(model))
    return {"told": told, "kinds": [type(module).__name__ for module in model]}


@case
def running_statistics(rank: int, ranks: int) -> dict[str, Any]:
    """Of micro-batches that are spread over the ranks, against one process that has them all, to the bit."""
    found = {}
    for number, plain in enumerate(NORMS):
        models = [nn.Sequential(copy.deepcopy(plain).double()) for _ in range(2)]
        frozen = copy.deepcopy(plain).double().eval()
        each = PIECES // ranks
        for model, own in zip(
            models,
            (range(rank * each, (rank + 1) * each), range(PIECES)),
            strict=True,
        ):
            alone = len(own) == PIECES
            model.append(copy.deepcopy(frozen))
            with distributed.use_group(None if alone else dist.group.WORLD):
                running = RunningStatistics.of(model)
                for _ in range(2):
                    with running.following():
                        for part in own:
                            model(images(plain, part))
                            running.note()
        states = [model.state_dict() for model in models]
        kept = {k: v for k, v in states[0].items() if k.startswith("1.")}
        found[str(number)] = {
            "bits": all(torch.equal(states[0][k], states[1][k]) for k in states[1]),
            "equal": same_on_all(digest(states[0])),
            "moved": bool(states[0].get("0.running_mean", torch.ones(1)).abs().min()),
            "frozen": all(
                torch.equal(kept[f"1.{k}"], v) for k, v in frozen.state_dict().items()
            ),
        }
    return found


@case
def sums_by_tree(rank: int, ranks: int) -> dict[str, Any]:
    """Of 8 and 24 gradients on these ranks, against the same sums on one process, to the bit."""
    found = {}
    for pieces in (8, 24):
        generator = torch.Generator().manual_seed(pieces)
        gradients = [
            torch.randn(1001, generator=generator) * 10 ** (i % 7 - 3)
            for i in range(pieces)
        ]
        sums = []
        for own in (
            range(rank * pieces // ranks, (rank + 1) * pieces // ranks),
            range(pieces),
        ):
            parameter = nn.Parameter(torch.zeros(1001))
            partial = PartialSums([parameter])
            block = block_length(len(own))
            for done, number in enumerate(own, start=1):
                term = gradients[number]
                held = parameter.grad
                parameter.grad = term.clone() if held is None else held + term
                if done % block == 0 and done < len(own):
                    partial.keep()
            partial.finish()
            assert parameter.grad is not None
            if len(own) < pieces:
                sum_by_tree(dist.group.WORLD, parameter.grad)  # type: ignore[arg-type]
            sums.append(parameter.grad)
        found[str(pieces)] = {
            "bits": torch.equal(*sums) and torch.equal(sums[1], tree_sum(gradients)),
            "other": torch.equal(sums[0], sum(gradients, start=torch.zeros(1001))),
        }
    return found
