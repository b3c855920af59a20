from __future__ import annotations

import math
import warnings

import pytest
import timm
import torch
from torch import nn
from torch.nn import functional as F

import sparsify_fx
from sparsify_fx.allocations import ALLOCATIONS
from sparsify_fx.criteria import CRITERIA, FunctionCriterion, PruningContext
from sparsify_fx.criteria.choosing import choose_masks
from sparsify_fx.criteria.ties import Ties, find_ties
from sparsify_fx.errors import TiesWarning
from sparsify_fx.masks import top_masks


def chosen(
    scores: dict[str, torch.Tensor], kept: int, allocation: str = "global"
) -> dict[str, torch.Tensor]:
    weights = {name: torch.ones_like(score) for name, score in scores.items()}
    context = PruningContext(
        weights, torch.Generator(), kept, ALLOCATIONS[allocation]()
    )
    return choose_masks(FunctionCriterion("planted", lambda _: dict(scores)), context)


def planted() -> dict[str, torch.Tensor]:
    """A layer that the criterion ranks, and three of which it knows nothing."""
    generator = torch.Generator().manual_seed(0)
    ranked = torch.rand(40, 10, generator=generator) + 1
    return {
        "ranked": ranked,
        "a": torch.zeros(20, 10),
        "b": torch.zeros(30, 10),
        "c": torch.zeros(10, 10),
    }


def test_layers_that_position_fills_divides_and_empties_are_named() -> None:
    scores = planted()
    with pytest.warns(TiesWarning) as seen:
        masks = chosen(scores, 750)
    assert [int(mask.sum()) for mask in masks.values()] == [400, 200, 150, 0]
    told = str(seen[0].message)
    assert told.startswith(
        "planted cannot tell weights apart: 600 of 1000 weights tie at the threshold, score 0: the first 350 stay, "
        "250 go; 1 layer is emptied: c; 1 layer is kept whole: a; 1 layer is divided by position: b; "
    )
    assert "zero_init_last=False" in told
    assert "unit_scales=True" in told
    assert seen[0].filename == __file__
    with pytest.warns(
        TiesWarning,
        match="tie at the thresholds of their layers: .* 3 layers are divided by position: a",
    ):
        chosen(scores, 500, "uniform")


def test_ties_that_decide_nothing_are_no_matter() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        scores = planted()
        chosen(scores, 390)  # the threshold lies among the ranked
        chosen(scores, 400)  # and all ties go
        chosen(scores, 1000)
        few = {
            name: torch.where(
                torch.arange(score.numel()).view_as(score) < 30, 0.5, score
            )
            for name, score in scores.items()
        }
        chosen({"ranked": few["ranked"]}, 385)  # 15 of 30 ties of 400: not many
        chosen(
            {"path": torch.ones(3), "other": torch.ones(3)}, 3
        )  # a few weights on single paths
        chosen({"whole": torch.ones(1, 9), "numbers": torch.arange(400)}, 200)


def test_rounded_scores_are_counted_exactly() -> None:
    generator = torch.Generator().manual_seed(3)
    scores = {
        str(i): torch.rand(size, 50, generator=generator).mul(9).round()
        for i, size in enumerate((400, 3, 90))
    }
    flat = torch.cat([score.flatten() for score in scores.values()])
    for kept in (5000, 17000, 24000):
        masks = top_masks(scores, kept)
        threshold = float(flat.sort(descending=True).values[kept - 1])
        found = find_ties(
            scores,
            masks,
            {name: torch.ones_like(score) for name, score in scores.items()},
        )
        above = int((flat > threshold).sum())
        assert (found.kept, found.score, found.weights) == (
            kept - above,
            threshold,
            len(flat),
        )
        assert found.dropped == int((flat == threshold).sum()) - found.kept
        assert not found.level


def test_pruned_weights_and_zero_weights_do_not_count() -> None:
    scores = {"a": torch.zeros(300), "b": torch.full((300,), -math.inf)}
    masks = {
        "a": (torch.arange(300) < 100).to(torch.uint8),
        "b": torch.zeros(300, dtype=torch.uint8),
    }
    weights = {"a": torch.ones(300), "b": torch.ones(300)}
    assert find_ties(scores, masks, weights) == Ties(100, 200, 300, ("a",), (), (), 0.0)
    assert not find_ties(scores, masks, {"a": torch.zeros(300), "b": torch.ones(300)})


@pytest.mark.cross_section("snip-global", "grasp-erk")
@pytest.mark.slow
@pytest.mark.filterwarnings(
    "ignore::sparsify_fx.errors.CollapseWarning"
)  # what the ties lead to
@pytest.mark.parametrize("allocation", ["global", "erk"])
@pytest.mark.parametrize("method", ["snip", "grasp", "synflow"])
def test_nets_with_zero_scales_are_noticed_and_the_remedy_helps(
    method: str, allocation: str
) -> None:
    data = [
        (
            torch.randn(4, 3, 32, 32, generator=torch.Generator().manual_seed(0)),
            torch.arange(4),
        )
    ]
    given = {
        "sparsity": 0.8,
        "allocation": allocation,
        "batches": data,
        "loss_fn": F.cross_entropy,
    }
    if method == "synflow":
        given["criterion"] = {"name": "synflow", "rounds": 3}

    def net(zero: bool) -> nn.Module:
        torch.manual_seed(0)
        return timm.create_model("resnet10t", num_classes=4, zero_init_last=zero)

    with pytest.warns(
        TiesWarning,
        match=rf"^{method} cannot tell weights apart: .*(, score 0|layers): the first",
    ):
        sparsify_fx.apply(net(True), method, **given)
    with warnings.catch_warnings():
        warnings.simplefilter("error", TiesWarning)
        sparsify_fx.apply(net(False), method, **given)


@pytest.mark.parametrize("criterion", ["magnitude", "random"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_usual_scores_of_any_precision_do_not_warn(
    criterion: str, dtype: torch.dtype
) -> None:
    generator = torch.Generator().manual_seed(0)
    weights = {
        str(n): torch.randn(n, 64, generator=generator).to(dtype)
        for n in (3, 500, 2000)
    }
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for kept in (50, 15_000, 80_000):
            for allocation in ("global", "balanced"):
                context = PruningContext(
                    weights,
                    torch.Generator().manual_seed(1),
                    kept,
                    ALLOCATIONS[allocation](),
                )
                choose_masks(CRITERIA[criterion], context)
