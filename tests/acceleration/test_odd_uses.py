"""Uses that are rare: each computes what the same model does without kernels, or fails as that does."""

from __future__ import annotations

import copy
import pickle
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.autograd.forward_ad as fa
from torch import Tensor, fx, nn

import sparsify_fx
from sparsify_fx.errors import LayerError, MethodError
from sparsify_fx.programs.owners import programs
from sparsify_fx.programs.products import CHOICE


class Twice(nn.Conv2d):
    """Its forward is torch's own; what that calls is not."""

    def _conv_forward(self, input: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:  # fmt: skip
        return super()._conv_forward(input, 2 * weight, bias)


class Folds(nn.Module):
    """Fails where images lie side by side."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm = nn.Conv2d(3, 16, 3, padding=1), nn.BatchNorm2d(16)

    def forward(self, x: Tensor) -> Tensor:
        made = self.norm(self.conv(x))
        return made.view(made.shape[0] * made.shape[1], *made.shape[2:])


def strided() -> nn.Module:
    # Without a bias, whose gradient before a norm is nothing but rounding.
    model = nn.Sequential(nn.Conv2d(3, 16, 3, bias=False), nn.BatchNorm2d(16))
    model[1].weight = nn.Parameter((torch.arange(32.0) / 32).view(16, 2)[:, 0])
    return model


MODELS: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...]]] = {
    "own _conv_forward": (lambda: nn.Sequential(Twice(3, 16, 3), nn.Conv2d(16, 8, 1)), (16, 3, 8, 8)),
    "strided norm": (strided, (8, 3, 8, 8)),
    "one dimension": (lambda: nn.Conv1d(8, 16, 3, stride=2, padding=1, dilation=2), (8, 8, 13)),
    "depthwise in one dimension": (lambda: nn.Conv1d(8, 8, 5, groups=8), (16, 8, 9)),
}  # fmt: skip


def net() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(3, 16, 3), nn.BatchNorm2d(16))


def accelerated(model: nn.Module) -> nn.Module:
    return sparsify_fx.apply(model, "random", sparsity=0.5, kernels="always")


@pytest.mark.parametrize("name", MODELS)
def test_outputs_and_gradients_are_the_same(name: str) -> None:
    make, shape = MODELS[name]
    seen, inputs = [], torch.randn(shape)
    for kernels in ("dense", "always"):
        torch.manual_seed(1)
        model = sparsify_fx.apply(
            make(), "signin", sparsity=0.5, storage="living", kernels=kernels
        )
        leaf = inputs.clone().requires_grad_()
        made = model(leaf)
        seen.append(
            [
                made,
                *torch.autograd.grad(made.square().sum(), [leaf, *model.parameters()]),
            ]
        )
    torch.testing.assert_close(*seen, rtol=1e-4, atol=1e-3)


@pytest.mark.parametrize(
    "model",
    [
        lambda: nn.Sequential(nn.Conv2d(3, 16, 3), nn.BatchNorm2d(8)),
        lambda: nn.Sequential(nn.Conv2d(3, 16, 3), nn.BatchNorm2d(8, track_running_stats=False)),
        lambda: nn.Sequential(nn.Conv2d(3, 16, 3).requires_grad_(False), nn.BatchNorm2d(1).eval()),
    ],
    ids=["statistics", "weights", "one channel"],
)  # fmt: skip
def test_a_norm_of_other_channels_fails_as_torch_says(
    model: Callable[[], nn.Module],
) -> None:
    with pytest.raises(RuntimeError, match="should contain 16 elements not"):
        accelerated(model())(torch.randn(8, 3, 8, 8))


def test_a_bias_of_another_precision_fails_as_torch_says() -> None:
    model = nn.Conv2d(3, 16, 3)
    model.bias = nn.Parameter(model.bias.double())  # type: ignore[union-attr]
    with pytest.raises(RuntimeError, match="should be the same"):
        accelerated(model)(torch.randn(8, 3, 8, 8))


@pytest.mark.parametrize(
    "copied",
    [copy.copy, copy.deepcopy, lambda norm: pickle.loads(pickle.dumps(norm))],
    ids=["copy", "deepcopy", "pickle"],
)
def test_a_copied_norm_computes_with_its_own_weight(
    copied: Callable[[nn.Module], nn.Module],
) -> None:
    conv, norm = accelerated(net())  # type: ignore[misc]
    twin = copied(norm)
    twin._parameters = dict(twin._parameters)
    twin.weight = nn.Parameter(torch.full((16,), 3.0))
    made = conv(torch.randn(8, 3, 8, 8))
    torch.testing.assert_close(twin(made), 3 * norm(made))
    assert repr(twin) == repr(nn.BatchNorm2d(16))


def test_a_forward_that_somebody_set_stays() -> None:
    model = accelerated(net())
    old = model[1].forward  # type: ignore[index]
    model[1].forward = lambda x: 2 * old(x)  # type: ignore[index]
    inputs = torch.randn(16, 3, 8, 8)
    wanted = model(inputs)
    torch.testing.assert_close(
        sparsify_fx.decelerate(model)(inputs), wanted, rtol=1e-4, atol=1e-4
    )
    merged = sparsify_fx.merge(accelerated(net()))
    assert type(merged[1]) is nn.BatchNorm2d  # type: ignore[index]


def test_norms_are_leaves_for_tracers() -> None:
    traced = fx.symbolic_trace(accelerated(net())[1:])  # type: ignore[index]
    assert [node.op for node in traced.graph.nodes][1] == "call_module"


@pytest.mark.parametrize("method", ["signin", "random", "lrr"])
def test_a_model_that_fails_with_images_side_by_side_is_as_it_was(method: str) -> None:
    model = Folds()
    before = copy.deepcopy(model.state_dict())
    inputs = torch.randn(16, 3, 8, 8)
    with pytest.raises(RuntimeError, match="view"):
        sparsify_fx.apply(
            model, method, sparsity=0.5, kernels="always", example_inputs=inputs
        )
    assert not programs(model)
    assert [type(each) for each in model.children()] == [nn.Conv2d, nn.BatchNorm2d]
    after = model.state_dict()
    assert list(after) == list(before)
    assert all(torch.equal(after[key], value) for key, value in before.items())
    model(inputs)


def test_accelerate_takes_itself_back() -> None:
    model = sparsify_fx.apply(net(), "random", storage="living")
    with pytest.raises(RuntimeError, match="channels"):
        sparsify_fx.accelerate(model, torch.randn(8, 4, 8, 8))
    assert CHOICE not in model[0].__dict__  # type: ignore[index]
    assert type(model[1]) is nn.BatchNorm2d  # type: ignore[index]


@pytest.mark.filterwarnings("ignore:`torch.jit.script` is deprecated:FutureWarning")
def test_forward_derivatives() -> None:
    model, inputs = accelerated(nn.Linear(8, 8)), torch.randn(8, 8)
    with fa.dual_level():
        made = fa.unpack_dual(model(fa.make_dual(inputs, inputs)))
    torch.testing.assert_close(made.tangent, made.primal - model.bias)


@pytest.mark.filterwarnings("ignore:There is a performance drop:UserWarning")
def test_many_gradients_at_once() -> None:
    layers = (*net(), nn.Flatten(), nn.Linear(16 * 9, 8))  # type: ignore[misc]
    model, inputs = accelerated(nn.Sequential(*layers)), torch.randn(8, 3, 5, 5)
    jacobian: Any = torch.autograd.functional.jacobian
    torch.testing.assert_close(
        jacobian(model, inputs, vectorize=True), jacobian(model, inputs)
    )


@pytest.mark.parametrize("kernels", [True, None, 3])
def test_no_names(kernels: Any) -> None:
    model = nn.Linear(4, 4)
    with pytest.raises(MethodError, match="unknown kernels"):
        sparsify_fx.apply(model, "random", kernels=kernels)
    with pytest.raises(LayerError, match="unknown kernels"):
        sparsify_fx.accelerate(model, kernels=kernels)
