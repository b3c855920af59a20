"""Scoring reads: models, random states and gradients stay; batches that do not fit are explained."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, TensorDataset

import sparsify_fx
from sparsify_fx.api import effective_state_dict
from sparsify_fx.criteria import CRITERIA, PruningContext
from sparsify_fx.errors import MethodError
from sparsify_fx.masks import kept_count
from sparsify_fx.plan import Inputs, require_plan
from sparsify_fx.programs.owners import programs
from sparsify_fx.scheduler.pruner import Pruner
from tests.conftest import batch, effective, small_net, train_step

# masks-of scores by the masks of another run, which must exist; test_other_runs.py tests it with one. nonzero keeps the
# zeros of weights that have some; tests/finetuning has those.
NEED_MORE = ("masks-of", "nonzero")
every_criterion = pytest.mark.parametrize(
    "criterion", [name for name in CRITERIA if name not in NEED_MORE]
)
# These follow units from layer to layer, and refuse layers whose units they do not know.
FOLLOW_UNITS = ("npb", "phew")
WITH_DATA = ["fisher", "gradient", "grasp", "snip", "woodfisher"]


def with_dropout() -> nn.Sequential:
    model = small_net()
    model.insert(6, nn.Dropout(0.5))
    model[1].eval()  # one flag differs from the others
    return model


def shuffled() -> DataLoader[tuple[Tensor, ...]]:
    """A loader that draws its order from torch's global generator."""
    return DataLoader(TensorDataset(*batch()), batch_size=8, shuffle=True)


def facts(model: nn.Module) -> dict[str, object]:
    """Everything that scoring could disturb."""
    tensors = {key: value.clone() for key, value in model.state_dict().items()}
    flags = [module.training for module in model.modules()]
    gradients = {
        name: None if p.grad is None else p.grad.clone()
        for name, p in model.named_parameters()
    }
    return {
        "tensors": tensors,
        "flags": flags,
        "grads": gradients,
        "rng": torch.get_rng_state(),
    }


def same(a: object, b: object) -> bool:
    if isinstance(a, Tensor) and isinstance(b, Tensor):
        return torch.equal(a, b)
    if isinstance(a, dict) and isinstance(b, dict):
        return list(a) == list(b) and all(same(a[key], b[key]) for key in a)
    return a == b


def masks_of(model: nn.Module) -> list[Tensor | None]:
    return [program.current_mask() for program in programs(model).values()]


@every_criterion
def test_apply_disturbs_nothing_and_is_seeded(criterion: str) -> None:
    chosen = []
    for noise in (1, 2):
        model = with_dropout()
        F.cross_entropy(model(batch()[0]), batch()[1]).backward()
        torch.manual_seed(noise)
        before = facts(model)
        sparsify_fx.apply(
            model,
            "random",
            sparsity=0.5,
            criterion=criterion,
            batches=shuffled(),
            loss_fn=F.cross_entropy,
            seed=7,
        )
        chosen.append(masks_of(model))
        after = facts(sparsify_fx.merge(model))
        for part in ("flags", "rng"):
            assert same(before[part], after[part]), part
        assert isinstance(before["tensors"], dict)
        assert isinstance(after["tensors"], dict)
        for key, value in before["tensors"].items():
            if key not in ("0.weight", "3.weight", "8.weight"):  # those are pruned
                assert torch.equal(value, after["tensors"][key]), key
    assert all(same(a, b) for a, b in zip(*chosen, strict=True)), (
        "the global random state must not matter"
    )


@every_criterion
@pytest.mark.parametrize("method", ["lrr", "lrr+signin"])
def test_scoring_within_cycles_disturbs_nothing_and_sees_the_effective_weight(
    criterion: str, method: str
) -> None:
    given = {"batches": [batch(1), batch(2)], "loss_fn": F.cross_entropy}
    model = sparsify_fx.apply(
        small_net(), method, sparsity=0.5, criterion=criterion, **given
    )
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    pruner = Pruner(model, model, [optimizer], require_plan(model), Inputs(**given))
    pruner.prune(600, draw=1)
    train_step(model, optimizer)
    weights = effective(model)
    rule = require_plan(model).axes.criterion
    before = facts(model)
    scores = dict(rule.scores(pruner._context(rule, 400, 2, pruner.masks())))
    assert same({**before, "rng": 0}, {**facts(model), "rng": 0})
    plain = sparsify_fx.merge(small_net())
    plain.load_state_dict(effective_state_dict(model))
    expected = rule.scores(_plain_context(pruner, plain, weights))
    for name, score in scores.items():
        torch.testing.assert_close(score, expected[name], rtol=1e-5, atol=1e-9)
    pruner.prune(400, draw=2)
    old = weights["7.weight"] == 0
    assert (effective(model)["7.weight"][old] == 0).all(), (
        "what was pruned stays pruned"
    )
    assert sum(int(mask.sum()) for mask in masks_of(model) if mask is not None) == 400


def _plain_context(
    pruner: Pruner, plain: nn.Module, weights: dict[str, Tensor]
) -> PruningContext:
    rule = pruner.plan.axes.criterion
    context = pruner._context(rule, 400, 2, pruner.masks())
    return dataclasses.replace(
        context, model=plain if rule.needs else None, weights=weights
    )


class Sequence(nn.Module):
    """Attention, then an LSTM: layers whose fused kernels have no second derivative and no vmap."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.attention = nn.MultiheadAttention(8, 2, batch_first=True)
        self.lstm = nn.LSTM(8, 8, batch_first=True)
        self.head = nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        attended = self.attention(x, x, x, need_weights=False)[0]
        output: Tensor = self.head(self.lstm(attended)[0][:, -1])
        return output


@every_criterion
def test_attention_and_recurrent_models_are_scored(criterion: str) -> None:
    enabled = torch.backends.mkldnn.enabled
    inputs = torch.randn(6, 5, 8, generator=torch.Generator().manual_seed(0))
    given = {
        "batches": [(inputs, torch.arange(6) % 3)],
        "loss_fn": F.cross_entropy,
        "allocation": "global",
    }
    if criterion in FOLLOW_UNITS:
        with pytest.raises(MethodError, match=rf"^{criterion} .*exclude="):
            sparsify_fx.apply(Sequence(), "random", criterion=criterion, **given)
        return
    model = sparsify_fx.apply(
        Sequence(), "random", criterion=criterion, sparsity=0.5, **given
    )
    total = sum(program.theta().numel() for program in programs(model).values())
    assert sum(
        int((weight != 0).sum()) for weight in effective(model).values()
    ) == kept_count(total, 0.5)
    assert torch.backends.mkldnn.enabled == enabled


@pytest.mark.parametrize("criterion", WITH_DATA)
def test_missing_inputs_are_named_before_anything_happens(criterion: str) -> None:
    with pytest.raises(MethodError, match=f"^{criterion} needs batches= and loss_fn=$"):
        sparsify_fx.apply(small_net(), "random", criterion=criterion)
    with pytest.raises(MethodError, match=f"^{criterion} needs loss_fn=$"):
        sparsify_fx.apply(small_net(), "lrr", criterion=criterion, batches=[batch()])
    with pytest.raises(MethodError, match=r"^synflow needs batches=$"):
        sparsify_fx.apply(small_net(), "random", criterion="synflow")


def spent() -> Iterator[tuple[Tensor, Tensor]]:
    iterator = iter([batch()])
    next(iterator)
    return iterator


@pytest.mark.parametrize("criterion", [*WITH_DATA, "synflow"])
@pytest.mark.parametrize(
    ("batches", "message"),
    [
        ([], "batches= is empty"),
        (spent(), "not a spent iterator"),
        (
            [((batch()[0], batch()[0]), batch()[1])],
            r"one tensor, got \(tuple, Tensor\); wrap a model",
        ),
        ([batch()[0]], "one tensor, got Tensor"),
        ([(batch()[0],)], r"got \(Tensor\)"),
        ([{"image": batch()[0]}], "got dict"),
    ],
)
def test_batches_that_do_not_fit_are_explained(
    criterion: str, batches: object, message: str
) -> None:
    model = small_net()
    with pytest.raises(MethodError, match=message):
        sparsify_fx.apply(
            model,
            "random",
            criterion=criterion,
            batches=batches,
            loss_fn=F.cross_entropy,
        )  # type: ignore[arg-type]
    assert not programs(model)
