"""synflow against its formula, its conservation law, and the layer collapse that it is there to avoid."""

from __future__ import annotations

import warnings

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import sparsify_fx
from sparsify_fx.allocations import Allocation, Balanced, Global, NofM, PerLayer
from sparsify_fx.criteria import Synflow
from sparsify_fx.criteria.choosing import choose_masks
from sparsify_fx.errors import CollapseWarning, MethodError
from sparsify_fx.masks import kept_count
from sparsify_fx.programs.owners import programs
from sparsify_fx.zoo.models import build_model
from sparsify_fx.zoo.models.resnet_cifar import BasicBlock
from tests.conftest import batch, small_net
from tests.criteria.common import context_of, net_of, scores_of, weights_of


def bias_free(width: int = 8) -> nn.Sequential:
    torch.manual_seed(2)
    return nn.Sequential(
        nn.Conv2d(3, width, 3, bias=False),
        nn.BatchNorm2d(width),
        nn.ReLU(),
        nn.Conv2d(width, 4, 3, stride=2, bias=False),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(16, 5, bias=False),
        nn.ReLU(),
        nn.Linear(5, 3, bias=False),
    )


def test_scores_of_linear_layers_are_the_paths_through_each_weight() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Linear(3, 4, bias=False), nn.ReLU(), nn.Linear(4, 2, bias=False)
    )
    scores = scores_of(Synflow(rounds=1), model, batches=[(torch.zeros(5, 3), None)])
    a, b = model[0].weight.detach().abs(), model[2].weight.detach().abs()
    torch.testing.assert_close(scores["0.weight"], b.sum(0)[:, None] * a)
    torch.testing.assert_close(scores["2.weight"], b * a.sum(1)[None, :])


def test_the_total_score_of_every_layer_is_the_same() -> None:
    scores = scores_of(Synflow(rounds=1), bias_free())
    totals = torch.stack([score.double().sum() for score in scores.values()])
    torch.testing.assert_close(totals, totals[:1].expand(4), rtol=1e-5, atol=0)


def test_trained_batch_norm_passes_the_flow_on() -> None:
    model = bias_free()
    norm = model[1]
    assert isinstance(norm, nn.BatchNorm2d)
    assert norm.running_mean is not None
    norm.running_mean.fill_(1e6)
    norm.weight.data.neg_()
    totals = [
        score.double().sum().item()
        for score in scores_of(Synflow(rounds=1), model).values()
    ]
    assert totals == pytest.approx([totals[0]] * 4, rel=1e-5)
    assert norm.running_mean[0] == 1e6


def test_images_and_labels_play_no_part() -> None:
    model = net_of("bn").float()
    images = [[(batch(seed)[0], None)] for seed in (1, 2)]
    a, b = (scores_of(Synflow(rounds=3), model, batches=batches) for batches in images)
    assert all(torch.equal(a[name], b[name]) for name in a)


def test_a_flow_that_overflows_in_float32_is_computed_in_float64() -> None:
    torch.manual_seed(0)
    deep = nn.Sequential(*(nn.Linear(64, 64, bias=False) for _ in range(60)))
    with torch.no_grad():
        for parameter in deep.parameters():
            parameter.mul_(10)
    ones = torch.ones(1, 64)
    absolute = ones
    for parameter in deep.parameters():
        absolute = absolute @ parameter.detach().abs().T
    assert torch.isinf(absolute).any(), "the test needs an overflow"
    scores = scores_of(Synflow(rounds=2), deep, batches=[(ones, None)])
    assert all(score.dtype == torch.float64 for score in scores.values())
    assert all(not torch.isnan(score).any() for score in scores.values())
    totals = [score.clamp(min=0).sum().item() for score in scores.values()]
    assert totals == pytest.approx([totals[0]] * 60, rel=1e-9)


def test_a_flow_beyond_float64_is_refused() -> None:
    deep = nn.Sequential(*(nn.Linear(4, 4, bias=False) for _ in range(12)))
    with torch.no_grad():
        for parameter in deep.parameters():
            parameter.fill_(1e30)
    with pytest.raises(MethodError, match="overflows even in float64"):
        scores_of(Synflow(rounds=1), deep, batches=[(torch.ones(1, 4), None)])


def rounds_of(allocation: Allocation, kept: int, rounds: int) -> list[dict[str, int]]:
    """Living weights of each layer that every round of scoring saw."""
    seen: list[dict[str, int]] = []
    model = bias_free()

    def watch(module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        seen.append(
            {
                name: int((p != 0).sum())
                for name, p in module.named_parameters()
                if p.ndim > 1
            }
        )

    model.register_forward_pre_hook(watch)
    context = context_of(model, allocation=allocation, kept=kept)
    masks = choose_masks(Synflow(rounds=rounds), context)
    seen.append({name: int(mask.sum()) for name, mask in masks.items()})
    return seen


def test_the_density_falls_exponentially_to_the_budget() -> None:
    counts = [
        sum(round_.values()) for round_ in rounds_of(Global(), kept=30, rounds=10)
    ]
    total = 216 + 288 + 80 + 15
    assert counts == [round(total * (30 / total) ** (k / 10)) for k in range(11)]


def test_other_allocations_fall_layer_by_layer() -> None:
    seen = rounds_of(Balanced(), kept=40, rounds=5)
    assert [round_["0.weight"] for round_ in seen] == [
        round(216 ** (1 - k / 5) * 10 ** (k / 5)) for k in range(6)
    ]
    shares = (
        ("0.weight", 0.9),
        ("3.weight", 0.9),
        ("6.weight", 0.5),
        ("8.weight", 0.0),
    )
    kept = 22 + 29 + 40 + 15
    final = rounds_of(PerLayer(shares), kept, rounds=4)[-1]
    assert final == pytest.approx(
        {"0.weight": 22, "3.weight": 29, "6.weight": 40, "8.weight": 15}, abs=1
    )


def test_a_pattern_takes_one_round() -> None:
    model = nn.Sequential(
        nn.Linear(8, 8, bias=False), nn.ReLU(), nn.Linear(8, 4, bias=False)
    )
    context = context_of(
        model, batches=[(torch.ones(1, 8), None)], allocation=NofM(), kept=48
    )
    masks = choose_masks(Synflow(), context)
    assert all((mask.reshape(-1, 4).sum(1) == 2).all() for mask in masks.values())


def resnet20(shortcuts: bool) -> nn.Module:
    """The zoo's ResNet-20, or the plain chain of its layers."""
    torch.manual_seed(0)
    model = build_model("resnet20", num_classes=10)
    for module in model.modules():
        if isinstance(module, BasicBlock) and not shortcuts:
            module.shortcut = lambda x: torch.zeros(())  # type: ignore[method-assign]
    return model


def pruned(criterion: str, model: nn.Module, sparsity: float) -> tuple[int, bool]:
    """Layers without a weight, and whether a path leads from the image to the logits."""
    generator = torch.Generator().manual_seed(0)
    batches = [(torch.randn(16, 3, 32, 32, generator=generator), torch.arange(16) % 10)]
    given = {
        "batches": batches,
        "loss_fn": F.cross_entropy,
        "allocation": "global",
        "sparsity": sparsity,
    }
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", CollapseWarning)
        sparsify_fx.apply(model, "random", criterion=criterion, **given)
    masks = [program.current_mask() for program in programs(model).values()]
    left = [int(mask.sum()) for mask in masks if mask is not None]
    assert sum(left) == kept_count(
        sum(mask.numel() for mask in masks if mask is not None), sparsity
    )
    sparsify_fx.merge(model).eval()
    for parameter in model.parameters():
        parameter.data.abs_()
    image = torch.ones(1, 3, 32, 32, requires_grad=True)
    model(image).sum().backward()
    assert image.grad is not None
    return left.count(0), bool(image.grad.any())


@pytest.mark.slow
def test_it_never_collapses_a_layer_of_a_chain_where_magnitude_and_snip_do() -> None:
    """The theorem is about layers that every path crosses: here all 20 layers of ResNet-20, at 99.9 %."""
    assert pruned("synflow", resnet20(shortcuts=False), 0.999) == (0, True)
    for criterion in ("magnitude", "snip"):
        empty, connected = pruned(criterion, resnet20(shortcuts=False), 0.999)
        assert empty > 0, criterion
        assert not connected, criterion


@pytest.mark.filterwarnings(
    "ignore::sparsify_fx.errors.CollapseWarning"
)  # what the test is about
@pytest.mark.parametrize(
    ("bias", "empty"), [(False, []), (True, ["0.weight", "2.weight"])]
)
def test_biases_feed_layers_behind_them_so_that_others_may_be_emptied(
    bias: bool, empty: list[str]
) -> None:
    """Half a law: without biases no layer is emptied; with them the docstring promises nothing."""
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Linear(8, 8, bias=bias),
        nn.ReLU(),
        nn.Linear(8, 8, bias=bias),
        nn.ReLU(),
        nn.Linear(8, 4, bias=bias),
    )
    with torch.no_grad():
        for layer in (model[0], model[2]):
            layer.weight.mul_(1e-3)
    sparsify_fx.apply(
        model, "synflow", sparsity=0.8, batches=[(torch.ones(1, 8), None)]
    )
    assert [
        name
        for name, program in programs(model).items()
        if not program.current_mask().any()
    ] == empty  # type: ignore[union-attr]


@pytest.mark.sweep
@pytest.mark.slow
def test_with_shortcuts_it_keeps_a_path_and_more_layers_than_magnitude_and_snip() -> (
    None
):
    """At 99 % no layer is empty; at 99.9 % (270 weights) blocks that a shortcut bypasses may be, but paths remain."""
    assert pruned("synflow", resnet20(shortcuts=True), 0.99) == (0, True)
    empty, connected = pruned("synflow", resnet20(shortcuts=True), 0.999)
    assert connected
    for criterion in ("magnitude", "snip"):
        assert pruned(criterion, resnet20(shortcuts=True), 0.99)[0] > 0, criterion
        assert pruned(criterion, resnet20(shortcuts=True), 0.999)[0] > empty, criterion


def test_bad_rounds_and_inputs_are_explained() -> None:
    with pytest.raises(
        MethodError, match="rounds=0 must be a whole number >= 1; the paper uses 100"
    ):
        Synflow(rounds=0)
    with pytest.raises(MethodError, match=r"inputs of dtype torch\.int64"):
        scores_of(
            Synflow(),
            small_net(),
            batches=[(torch.ones(1, 3, dtype=torch.int64), None)],
        )
    recurrent = nn.Sequential(nn.Linear(4, 4), nn.LSTM(4, 4))
    with pytest.raises(MethodError, match="returns one tensor, this one returns tuple"):
        scores_of(Synflow(), recurrent, batches=[(torch.ones(1, 2, 4), None)])


def test_weights_of_the_context_count_not_those_of_the_model() -> None:
    model = bias_free()
    doubled = {name: 2 * weight for name, weight in weights_of(model).items()}
    plain, twice = (
        scores_of(Synflow(rounds=1), model),
        scores_of(Synflow(rounds=1), model, weights=doubled),
    )
    torch.testing.assert_close(twice["8.weight"], 16 * plain["8.weight"])
