"""gradient, snip and grasp against ordinary autograd and against finite differences."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import Tensor, nn

from sparsify_fx.criteria import CRITERIA, GraSP
from sparsify_fx.errors import MethodError
from tests.criteria.common import batches_of, mean_loss, net_of, scores_of, weights_of

both_nets = pytest.mark.parametrize("kind", ["bn", "plain"])


def backward(model: nn.Module) -> dict[str, Tensor]:
    """The gradient by loss.backward() on a copy."""
    twin = copy.deepcopy(model)
    mean_loss(twin, batches_of()).backward()
    grads = {name: twin.get_parameter(name).grad for name in weights_of(model)}
    return {name: grad for name, grad in grads.items() if grad is not None}


@both_nets
def test_gradient_and_snip_are_those_of_backward(kind: str) -> None:
    model = net_of(kind)
    expected = backward(model)
    gradient, snip = (scores_of(CRITERIA[name], model) for name in ("gradient", "snip"))
    for name, weight in weights_of(model).items():
        torch.testing.assert_close(
            gradient[name], expected[name].abs(), rtol=1e-9, atol=1e-14
        )
        torch.testing.assert_close(
            snip[name], (weight * expected[name]).abs(), rtol=1e-9, atol=1e-14
        )


@both_nets
def test_snip_is_the_derivative_of_the_loss_by_the_mask(kind: str) -> None:
    model = net_of(kind)
    snip = scores_of(CRITERIA["snip"], model)
    for name, weight in weights_of(model).items():
        for index in (0, weight.numel() // 2, weight.numel() - 1):
            losses = []
            for c in (1 + 1e-5, 1 - 1e-5):
                twin = copy.deepcopy(model)
                twin.get_parameter(name).data.view(-1)[index] *= c
                losses.append(mean_loss(twin, batches_of()).item())
            derivative = abs(losses[0] - losses[1]) / 2e-5
            assert derivative == pytest.approx(
                snip[name].view(-1)[index].item(), rel=1e-5, abs=1e-9
            )


@both_nets
@pytest.mark.parametrize("temperature", [200.0, 1.0])
def test_grasp_is_theta_times_hessian_times_gradient(
    kind: str, temperature: float
) -> None:
    model = net_of(kind)
    twin = copy.deepcopy(model)
    parameters = {name: twin.get_parameter(name) for name in weights_of(model)}
    loss = mean_loss(twin, batches_of(), temperature)
    first = torch.autograd.grad(loss, list(parameters.values()), create_graph=True)
    inner = sum((g * g.detach()).sum() for g in first)
    assert isinstance(inner, Tensor)
    product = torch.autograd.grad(inner, list(parameters.values()))
    scores = scores_of(GraSP(temperature), model)
    for (name, weight), hg in zip(weights_of(model).items(), product, strict=True):
        torch.testing.assert_close(scores[name], weight * hg, rtol=1e-7, atol=1e-16)


def test_grasp_by_finite_differences_of_the_gradient_norm() -> None:
    """∂/∂θ of ½ gᵀg is Hg: moving θ along itself changes half the squared gradient norm by the score."""
    model = net_of("plain")

    def half_norm(name: str, index: int, factor: float) -> float:
        twin = copy.deepcopy(model)
        twin.get_parameter(name).data.view(-1)[index] *= factor
        return 0.5 * sum(float(g.square().sum()) for g in backward(twin).values())

    scores = scores_of(GraSP(temperature=1.0), model)
    for name, weight in weights_of(model).items():
        for index in (0, weight.numel() - 1):
            derivative = (
                half_norm(name, index, 1 + 1e-5) - half_norm(name, index, 1 - 1e-5)
            ) / 2e-5
            assert derivative == pytest.approx(
                scores[name].view(-1)[index].item(), rel=1e-4, abs=1e-9
            )


def test_grasp_keeps_what_the_gradient_flow_needs() -> None:
    """Pruning the lowest scores, θ ⊙ Hg < 0, raises the gradient norm to first order: those go, as in the paper."""
    model = net_of("plain")
    scores = scores_of(GraSP(temperature=1.0), model)["5.weight"].flatten()
    worst, best = int(scores.argmin()), int(scores.argmax())
    norms = []
    for index in (worst, best):
        twin = copy.deepcopy(model)
        twin.get_parameter("5.weight").data.view(-1)[index] *= 1 - 1e-3
        norms.append(sum(float(g.square().sum()) for g in backward(twin).values()))
    before = sum(float(g.square().sum()) for g in backward(model).values())
    assert norms[0] > before > norms[1]


def test_a_temperature_must_be_positive() -> None:
    with pytest.raises(MethodError, match=r"temperature=0\.0 must be > 0"):
        GraSP(temperature=0.0)
