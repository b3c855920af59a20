"""The mode of the model decides scores, so it is fixed by the criterion; zero scales; second derivatives."""

from __future__ import annotations

import copy
import functools
import hashlib
import json
from typing import Any

import pytest
import timm
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import sparsify_fx
from sparsify_fx.criteria import CRITERIA, GraSP, Snip, Synflow
from sparsify_fx.errors import LayerError, MethodError, TiesWarning
from sparsify_fx.programs.owners import programs
from sparsify_fx.recipe import axis_value, describe, find_method
from tests.conftest import batch, small_net
from tests.criteria.common import context_of, scores_of

MODED = ("snip", "grasp", "gradient")


def with_dropout() -> nn.Sequential:
    model = small_net()
    model.insert(6, nn.Dropout(0.5))
    return model


def masks(model: nn.Module, criterion: Any, **given: Any) -> dict[str, Tensor]:
    sparsify_fx.apply(
        model, "random", criterion=criterion, allocation="global", sparsity=0.5,
        **{"batches": [batch(0), batch(1)], "loss_fn": F.cross_entropy, **given},
    )  # fmt: skip
    found = {name: program.current_mask() for name, program in programs(model).items()}
    return {name: mask for name, mask in found.items() if mask is not None}


def equal(a: dict[str, Tensor], b: dict[str, Tensor]) -> bool:
    return all(torch.equal(a[name], b[name]) for name in a)


@pytest.mark.parametrize("criterion", MODED)
def test_the_mode_of_the_model_does_not_matter_and_stays(criterion: str) -> None:
    training, evaluated = with_dropout(), with_dropout().eval()
    assert equal(masks(training, criterion), masks(evaluated, criterion))
    assert all(module.training for module in training.modules())
    assert not any(module.training for module in sparsify_fx.merge(evaluated).modules())


@pytest.mark.parametrize("criterion", MODED)
def test_evaluation_is_another_mask_and_does_not_depend_on_the_model_either(
    criterion: str,
) -> None:
    chosen = {"name": criterion, "mode": "eval"}
    training, evaluated = (
        masks(net, chosen) for net in (with_dropout(), with_dropout().eval())
    )
    assert equal(training, evaluated)
    assert not equal(training, masks(with_dropout(), criterion))


def test_a_frozen_norm_in_a_model_in_training_stays_frozen() -> None:
    frozen = with_dropout()
    frozen[1].eval()
    assert not equal(masks(frozen, "snip"), masks(with_dropout(), "snip"))
    assert [module.training for module in frozen[:3]] == [True, False, True]


@pytest.mark.parametrize("method", ["snip", "grasp"])
def test_the_mode_holds_within_a_training_too(method: str) -> None:
    given: dict[str, Any] = {"batches": [batch(0)], "loss_fn": F.cross_entropy}
    found = []
    for mode in (True, False):
        model = sparsify_fx.apply(
            with_dropout(), "lrr", criterion=method, sparsity=0.2, **given
        )
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        scheduler = sparsify_fx.Scheduler(model, optimizer, epochs=1, steps_per_epoch=1)
        model.train(mode)
        scheduler.step()
        assert model.training is mode
        found.append(
            {
                name: program.effective() != 0
                for name, program in programs(model).items()
            }
        )
    assert equal(*found)


def test_modes_are_checked_and_described_only_when_they_are_others() -> None:
    for name in MODED:
        with pytest.raises(MethodError, match=f"{name}: mode='test' must be 'train'"):
            axis_value("criterion", {"name": name, "mode": "test"})
    assert describe("criterion", axis_value("criterion", "snip")) == "snip"
    assert describe("criterion", Snip()) == "snip"
    assert describe("criterion", GraSP()) == {"name": "grasp", "temperature": 200.0}
    assert describe("criterion", Synflow()) == {"name": "synflow", "rounds": 100}
    chosen = {"name": "snip", "mode": "eval"}
    assert describe("criterion", axis_value("criterion", chosen)) == chosen
    assert axis_value(
        "criterion", describe("criterion", Snip(unit_scales=True))
    ) == Snip(unit_scales=True)
    with pytest.raises(MethodError, match="did you mean 'mode'"):
        axis_value("criterion", {"name": "snip", "mod": "eval"})
    with pytest.raises(MethodError, match="'magnitude' takes no options"):
        axis_value("criterion", {"name": "magnitude", "mode": "eval"})


def test_scores_are_the_same_inside_no_grad() -> None:
    model = small_net().double()
    for name in MODED:
        with torch.no_grad():
            inside = scores_of(axis_value("criterion", name), model)
        assert equal(inside, scores_of(axis_value("criterion", name), model))


# ---------------------------------------------------------------- zero scales


class Branch(nn.Module):
    """x + scale · conv(act(conv(x))): the branch is hidden while its scale is zero."""

    def __init__(self, kind: str) -> None:
        super().__init__()
        self.first, self.second, self.act = (
            nn.Conv2d(4, 4, 3, padding=1),
            nn.Conv2d(4, 4, 3, padding=1),
            nn.ReLU(),
        )
        self.norm: nn.Module = {
            "group": lambda: nn.GroupNorm(2, 4),
            "instance": lambda: nn.InstanceNorm2d(4, affine=True),
        }.get(kind, lambda: nn.BatchNorm2d(4))()
        if kind == "gain":
            self.skipinit_gain = nn.Parameter(torch.zeros(()))
        elif kind == "layer scale":
            self.gamma = nn.Parameter(torch.zeros(4, 1, 1))
        else:
            nn.init.zeros_(self.norm.weight)  # type: ignore[arg-type]
        self.position = nn.Parameter(
            torch.zeros(1, 4, 8, 8)
        )  # zero as well, and no scale

    def forward(self, x: Tensor) -> Tensor:
        branch = self.norm(self.second(self.act(self.first(x + self.position))))
        for name in ("skipinit_gain", "gamma"):
            branch = branch * getattr(self, name, 1.0)
        return x + branch


def residual(kind: str) -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, 4, 3, padding=1),
        Branch(kind),
        nn.ReLU(),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(4, 4),
    )


@pytest.mark.parametrize("kind", ["batch", "group", "instance", "gain", "layer scale"])
@pytest.mark.parametrize(
    "criterion", [Snip, GraSP, functools.partial(Synflow, rounds=1)]
)
def test_unit_scales_give_scores_to_branches_that_start_at_zero(
    criterion: Any, kind: str
) -> None:
    model, given = residual(kind), {"batches": [batch(0)]}
    before = copy.deepcopy(model.state_dict())
    hidden, seen = (
        scores_of(criterion(unit_scales=unit), model, **given) for unit in (False, True)
    )
    assert not hidden["1.first.weight"].any()
    assert all(score.any() for score in seen.values())
    assert all(
        torch.equal(value, model.state_dict()[key]) for key, value in before.items()
    )
    ones = copy.deepcopy(model)
    for name, parameter in ones.named_parameters():
        if name.endswith(("norm.weight", "gain", "gamma")):
            nn.init.ones_(parameter)
    expected = scores_of(criterion(), ones, **given)
    for name, score in seen.items():
        torch.testing.assert_close(score, expected[name], rtol=1e-5, atol=1e-7)


@pytest.mark.cross_section("snip")
@pytest.mark.slow
@pytest.mark.filterwarnings(
    "ignore::sparsify_fx.errors.TiesWarning"
)  # images of 32 pixels meet 3x3 kernels at one place
@pytest.mark.filterwarnings(
    "ignore::sparsify_fx.errors.CollapseWarning"
)  # the layers that the test is about
@pytest.mark.parametrize("criterion", ["snip", "synflow"])
def test_a_timm_resnet_keeps_weights_in_every_layer(criterion: str) -> None:
    torch.manual_seed(0)
    net = timm.create_model("resnet10t", num_classes=4)
    given: dict[str, Any] = {
        "batches": [(torch.randn(8, 3, 32, 32), torch.arange(8) % 4)]
    }
    options = {"rounds": 5} if criterion == "synflow" else {}
    with pytest.warns(TiesWarning, match=f"{criterion} cannot tell weights apart"):
        plain = masks(copy.deepcopy(net), {"name": criterion, **options}, **given)
    unit = masks(net, {"name": criterion, "unit_scales": True, **options}, **given)
    assert any(not mask.any() for mask in plain.values())
    assert all(mask.any() for mask in unit.values())


# ---------------------------------------------------------------- second derivatives


def net_with(act: nn.Module) -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, 4, 3), act, nn.Flatten(), nn.Linear(144, 4)
    ).double()


class FunctionalHardSigmoid(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x * F.hardsigmoid(x)


class Formula(nn.Module):
    """The same by operations that torch can differentiate twice."""

    def __init__(self, times: bool) -> None:
        super().__init__()
        self.times = times

    def forward(self, x: Tensor) -> Tensor:
        gate = torch.clamp(x + 3, 0, 6) / 6
        return x * gate if self.times else gate


@pytest.mark.parametrize(
    ("act", "times"),
    [
        (nn.Hardsigmoid(), False),
        (nn.Hardsigmoid(inplace=True), False),
        (nn.Hardswish(), True),
        (FunctionalHardSigmoid(), True),
    ],
)
def test_grasp_goes_through_hard_activations(act: nn.Module, times: bool) -> None:
    found = scores_of(GraSP(1.0), net_with(act))
    expected = scores_of(GraSP(1.0), net_with(Formula(times)))
    for name, score in found.items():
        assert score.any()
        torch.testing.assert_close(score, expected[name], rtol=1e-6, atol=1e-10)


def test_grasp_scores_mobilenet_v3() -> None:
    torch.manual_seed(0)
    net = timm.create_model("mobilenetv3_small_050", num_classes=4)
    scores = scores_of(
        GraSP(), net, batches=[(torch.randn(4, 3, 32, 32), torch.arange(4))]
    )
    assert all(torch.isfinite(score).all() for score in scores.values())
    assert sum(int(score.any()) for score in scores.values()) == len(scores)


class Once(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        ctx.save_for_backward(x)
        return x.sin()

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        (x,) = ctx.saved_tensors
        return gradient * x.cos()


class OnceAct(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        result: Tensor = Once.apply(x)
        return result


class Opaque(torch.autograd.Function):
    """A kernel of somebody's, whose backward pass autograd does not see."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        ctx.save_for_backward(x)
        return x.sin()

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        (x,) = ctx.saved_tensors
        return (gradient * x.cos()).detach()


class OpaqueAct(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        result: Tensor = Opaque.apply(x)
        return result


class Unimplemented(nn.Module):
    """A loss within the model that torch itself cannot differentiate twice."""

    def forward(self, x: Tensor) -> Tensor:
        logits = x.flatten(2).permute(2, 0, 1).log_softmax(2)
        count, size = logits.shape[:2]
        loss = F.ctc_loss(
            logits,
            torch.ones(size, 1, dtype=torch.long),
            (count,) * size,
            (1,) * size,
            reduction="none",
        )
        return x * loss.view(-1, 1, 1, 1)


@pytest.mark.parametrize("act", [OnceAct(), OpaqueAct(), Unimplemented()])
def test_a_module_without_a_second_derivative_is_named(act: nn.Module) -> None:
    model = net_with(act)
    with pytest.raises(
        LayerError,
        match=rf"^grasp needs second derivatives, and 1 \({type(act).__name__}\) has none",
    ):
        scores_of(GraSP(), model)
    for name in ("snip", "gradient"):
        assert all(score.any() for score in scores_of(CRITERIA[name], model).values())


class OnceLoss(nn.Module):
    def forward(self, outputs: Tensor, targets: Tensor) -> Tensor:
        return F.cross_entropy(Once.apply(outputs), targets)


def test_a_loss_without_a_second_derivative_is_named() -> None:
    with pytest.raises(LayerError, match="and the loss function has none"):
        scores_of(GraSP(), net_with(nn.Tanh()), loss_fn=OnceLoss())


def test_checkpointing_and_custom_functions_are_scored() -> None:
    from torch.utils.checkpoint import checkpoint

    class Checkpointed(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = net_with(nn.Tanh())

        def forward(self, x: Tensor) -> Tensor:
            result: Tensor = checkpoint(self.inner, x, use_reentrant=False)
            return result

    plain = scores_of(CRITERIA["snip"], net_with(nn.Tanh()))
    for name, score in scores_of(CRITERIA["snip"], Checkpointed()).items():
        torch.testing.assert_close(score, plain[name.removeprefix("inner.")])
    assert context_of(net_with(OnceAct())).kept > 0


# Of the axes as they were described before criteria had modes: the hash that names a finished run must not change.
DESCRIPTIONS = {
    "snip": "200aa56921",
    "grasp": "96edee0d12",
    "synflow": "832e247ec0",
    "rigl": "3423e5c17c",
    "obd": "9d950ff7db",
    "woodfisher": "8c01b08efd",
}


@pytest.mark.parametrize("method", list(DESCRIPTIONS))
def test_the_descriptions_of_earlier_runs_stay(method: str) -> None:
    text = json.dumps(find_method(method).resolved().to_dict(), sort_keys=True)
    assert (
        hashlib.blake2b(text.encode(), digest_size=5).hexdigest()
        == DESCRIPTIONS[method]
    )
