from __future__ import annotations

import re

import pytest
import torch
from torch import fx, nn

import sparsify_fx
from sparsify_fx.criteria import CRITERIA, PruningContext, criterion, criterion_name
from sparsify_fx.errors import (
    LayerError,
    MethodError,
    SparsifyError,
    SparsityError,
    UnknownNameError,
)
from sparsify_fx.masks import kept_count
from sparsify_fx.parameterizations import Product
from sparsify_fx.plan import plan_of
from sparsify_fx.programs.owners import programs
from tests.conftest import batch, effective, small_net


def nonzeros(model: nn.Module) -> int:
    return sum(int((weight != 0).sum()) for weight in effective(model).values())


def test_apply_returns_the_same_object_and_keeps_the_plan(net: nn.Sequential) -> None:
    assert sparsify_fx.apply(net) is net
    plan = plan_of(net)
    assert plan is not None
    assert (plan.method, plan.sparsity, plan.seed) == ("signin", 0.9, 0)
    assert {type(p.parameterization) for p in programs(net).values()} == {Product}
    assert nonzeros(net) == kept_count(216 + 288 + 288, 0.9)


@pytest.mark.parametrize("traced", [False, True])
@pytest.mark.parametrize("allocation", ["balanced", "erk", "global", "uniform"])
@pytest.mark.parametrize("sparsity", [0.0, 0.5, 0.9, 0.99])
def test_the_budget_is_exact_for_every_allocation(
    allocation: str, sparsity: float, traced: bool
) -> None:
    model: nn.Module = fx.symbolic_trace(small_net()) if traced else small_net()
    sparsify_fx.apply(model, "random", sparsity=sparsity, allocation=allocation)
    assert nonzeros(model) == kept_count(792, sparsity)


def test_the_seed_decides_the_random_mask() -> None:
    masks = [
        effective(sparsify_fx.apply(small_net(), "random", seed=seed))["7.weight"]
        for seed in (1, 1, 2)
    ]
    assert torch.equal(masks[0], masks[1])
    assert not torch.equal(masks[0], masks[2])


def test_random_and_signin_share_mask_and_weights() -> None:
    plain, signin = (
        sparsify_fx.apply(small_net(), method, seed=3)
        for method in ("random", "signin")
    )
    for a, b in zip(effective(plain).values(), effective(signin).values(), strict=True):
        assert torch.equal(a != 0, b != 0)
        torch.testing.assert_close(a, b, rtol=3e-7, atol=0)


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        (
            {"method": "sing-in"},
            UnknownNameError,
            "unknown method 'sing-in'; did you mean 'signin'?",
        ),
        ({"method": "lrr+sing-in"}, UnknownNameError, "did you mean 'signin'?"),
        ({"method": "lrr+wr"}, MethodError, "on the axis 'rewind' lrr has"),
        ({"method": "lrr+random"}, MethodError, "pass allocation= to choose"),
        ({"sparsity": 1.0}, SparsityError, "must be a fraction in [0, 1)"),
        ({"sparsity": 90}, SparsityError, "for 90 per cent write 0.9"),
        ({"sparsity": 0.9999}, SparsityError, "keeps 0 of 792 prunable weights"),
        ({"method": "lrr", "sparsity": -0.5}, SparsityError, "must be a fraction"),
        ({"method": "dense", "sparsity": 2.0}, SparsityError, "must be a fraction"),
        ({"include": "nothing.*"}, LayerError, "unknown layer pattern"),
        (
            {"allocation": "unifrom"},
            UnknownNameError,
            "unknown allocation 'unifrom'; did you mean 'uniform'?",
        ),
        (
            {"critreion": "random"},
            UnknownNameError,
            "unknown axis 'critreion'; did you mean 'criterion'?",
        ),
        (
            {"schedule": {"name": "cycles", "kep": 0.5}},
            MethodError,
            "did you mean 'keep'?",
        ),
        (
            {"schedule": {"name": "cycles", "keep": 1.5}},
            MethodError,
            "must be a fraction in (0, 1)",
        ),
        ({"schedule": {"keep": 0.5}}, MethodError, "expected a mapping with 'name'"),
        (
            {"criterion": {"name": "magnitude", "p": 2}},
            MethodError,
            "takes no options, got ['p']",
        ),
        (
            {"parameterization": Product},
            MethodError,
            "expected a name, a mapping with options",
        ),
        (
            {"allocation": {"name": "per-layer"}},
            MethodError,
            "its options are sparsity",
        ),
        ({"rewind": {"weights": -1}}, MethodError, "must be an epoch >= 0"),
        ({"rewind": "weights"}, MethodError, "rewind"),
        ({"actions": {"name": "rescale", "every": 0}}, MethodError, "every=0"),
        ({"actions": {"name": "rescale", "until": 1.5}}, MethodError, "until=1.5"),
        (
            {"penalty": {"name": "frobenius", "strength": -1}},
            MethodError,
            "must be >= 0",
        ),
    ],
    ids=str,
)
def test_bad_input_is_explained_and_leaves_the_model_untouched(
    arguments: dict[str, object], error: type[SparsifyError], message: str
) -> None:
    model = small_net()
    before = {key: value.clone() for key, value in model.state_dict().items()}
    with pytest.raises(error, match=re.escape(message)):
        sparsify_fx.apply(model, **arguments)  # type: ignore[arg-type]
    assert [type(module) for module in model.modules()] == [
        type(module) for module in small_net().modules()
    ]
    assert all(
        torch.equal(before[key], value) for key, value in model.state_dict().items()
    )


def test_an_axis_given_by_the_caller_settles_a_conflict(net: nn.Sequential) -> None:
    sparsify_fx.apply(net, "lrr+random", allocation="balanced")
    plan = plan_of(net)
    assert plan is not None
    assert criterion_name(plan.axes.criterion) == "random"
    assert plan.to_dict()["axes"]["allocation"] == "balanced"
    assert plan.to_dict()["axes"]["schedule"] == {"name": "cycles", "keep": 0.8}


@pytest.mark.filterwarnings("ignore::sparsify_fx.errors.CollapseWarning")
def test_a_criterion_with_data_gets_it_or_says_what_is_missing(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(CRITERIA, "_entries", dict(CRITERIA._entries))

    @criterion("loss-size", needs=("model", "batches", "loss_fn"))
    def loss_size(context: PruningContext) -> dict[str, torch.Tensor]:
        assert context.model is not None
        assert context.batches is not None
        assert context.loss_fn is not None
        (inputs, targets) = next(iter(context.batches))
        loss = context.loss_fn(context.model(inputs), targets)
        return {
            name: weight.abs() * loss.detach()
            for name, weight in context.weights.items()
        }

    with pytest.raises(MethodError, match="loss-size needs batches= and loss_fn="):
        sparsify_fx.apply(small_net(), "random", criterion="loss-size")
    model = small_net()
    sparsify_fx.apply(
        model,
        "random",
        criterion="loss-size",
        batches=[batch()],
        loss_fn=nn.functional.cross_entropy,
        allocation="global",
    )
    assert nonzeros(model) == kept_count(792, 0.9)
    with pytest.raises(MethodError, match="can need model, batches, loss_fn"):
        criterion("odd", needs=("weather",))


def test_scores_that_diverged_prune_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(CRITERIA, "_entries", dict(CRITERIA._entries))

    @criterion("diverged")
    def diverged(context: PruningContext) -> dict[str, torch.Tensor]:
        return {
            name: torch.full_like(weight, torch.nan)
            for name, weight in context.weights.items()
        }

    model = small_net()
    with pytest.raises(SparsityError, match=r"diverged gave NaN for 0\.weight"):
        sparsify_fx.apply(model, "random", criterion="diverged")
    assert not programs(model)


def test_merge_of_a_plain_model_changes_nothing(net: nn.Sequential) -> None:
    before = dict(net.named_parameters())
    assert sparsify_fx.merge(net) is net
    assert all(net.get_parameter(name) is value for name, value in before.items())


def test_dense_state_dict_leaves_the_model_rewritten(net: nn.Sequential) -> None:
    sparsify_fx.apply(net, "signin", sparsity=0.5)
    merged = sparsify_fx.dense_state_dict(net)
    assert programs(net)
    fresh = small_net(seed=9)
    fresh.load_state_dict(merged)
    inputs, _ = batch()
    assert torch.equal(fresh.eval()(inputs), net.eval()(inputs))


def test_n_of_m_is_exact_or_says_what_it_can_do() -> None:
    model = nn.Sequential(nn.Linear(8, 8), nn.Linear(8, 4))
    sparsify_fx.apply(
        model, "random", criterion="magnitude", allocation="n:m", sparsity=0.5
    )
    assert all(
        (weight.reshape(-1, 4) != 0).sum(1).eq(2).all()
        for weight in effective(model).values()
    )
    allocation = {"name": "n:m", "n": 3, "m": 4}
    with pytest.raises(SparsityError, match=r"ask for sparsity=0\.25"):
        sparsify_fx.apply(
            nn.Linear(8, 8), "random", allocation=allocation, sparsity=0.5
        )
    with pytest.raises(
        SparsityError, match=r"ask for sparsity=0\.25"
    ):  # before training, not after the first cycle
        sparsify_fx.apply(nn.Linear(8, 8), "lrr", allocation=allocation, sparsity=0.5)
