"""Hessian, gradients, mode connectivity and dead channels against cases with known answers."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import sparsify_fx
from sparsify_fx.analysis.channels import dead_channels
from sparsify_fx.analysis.connectivity import interpolate, line_between, loss_and_error
from sparsify_fx.analysis.curvature import Operator, hessian, largest_eigenvalue, trace
from sparsify_fx.analysis.gradients import gradient_flow
from sparsify_fx.analysis.loss import MeanLoss, Weights, mean_loss
from sparsify_fx.analysis.pruning import PruneCurve, prune_curve
from sparsify_fx.errors import AnalysisError
from sparsify_fx.programs.owners import programs
from tests.conftest import batch, small_net


def quadratic(eigenvalues: list[float], seed: int = 0) -> tuple[MeanLoss, Tensor]:
    """½ xᵀAx with A = Q diag(eigenvalues) Qᵀ, and A; x is split into two tensors."""
    generator = torch.Generator().manual_seed(seed)
    q, _ = torch.linalg.qr(
        torch.randn(
            len(eigenvalues), len(eigenvalues), generator=generator, dtype=torch.float64
        )
    )
    matrix = q @ torch.tensor(eigenvalues, dtype=torch.float64).diag() @ q.T

    def loss(weights: Weights) -> Tensor:
        x = torch.cat([weights["a"].flatten(), weights["b"]])
        return x @ matrix @ x / 2

    size = len(eigenvalues) - 4
    point = {
        "a": torch.randn(2, 2, generator=generator).double(),
        "b": torch.randn(size, generator=generator).double(),
    }
    return MeanLoss(point, ((0.25, loss), (0.75, loss)), {}), matrix


def test_a_quadratic_has_the_eigenvalue_and_trace_of_its_matrix() -> None:
    values = [-40.0, 7.0, 6.5, *[0.1 * k for k in range(1, 38)]]
    loss, matrix = quadratic(values)
    operator = hessian(loss)
    vector = torch.randn(operator.size, dtype=torch.float64)
    assert torch.allclose(operator.product(vector), matrix @ vector)
    found = largest_eigenvalue(operator, iterations=40, tolerance=1e-8)
    assert found.converged
    assert abs(found.value - 7.0) < 1e-6  # the largest, not the one of largest size
    rough = largest_eigenvalue(operator, iterations=6, tolerance=1e-8)
    assert not rough.converged
    assert rough.iterations == 6
    assert min(abs(rough.value - value) for value in values) <= rough.residual
    estimate = trace(operator, probes=400, seed=1)
    assert abs(estimate.value - sum(values)) < 4 * estimate.standard_error
    # Var(zᵀAz) = 2 (|A|² − Σ a_ii²) for random signs
    exact = (
        2 * (matrix.square().sum() - matrix.diagonal().square().sum()) / 400
    ).sqrt()
    assert estimate.standard_error == pytest.approx(float(exact), rel=0.15)


@pytest.mark.sweep
def test_masked_entries_are_no_directions() -> None:
    loss, matrix = quadratic([9.0, 5.0, 3.0, 2.0, 1.0, 0.5])
    mask = {"a": torch.tensor([[1, 0], [1, 0]], dtype=torch.uint8)}
    kept = torch.tensor([0, 2, 4, 5])
    part = matrix[kept][:, kept]
    operator = hessian(MeanLoss(loss.point, loss.terms, mask))
    assert operator.size == 4
    top = largest_eigenvalue(operator, tolerance=1e-10)
    assert top.value == pytest.approx(float(torch.linalg.eigvalsh(part)[-1]))
    assert trace(operator, probes=2000).value == pytest.approx(
        float(part.trace()), rel=0.05
    )
    with pytest.raises(AnalysisError, match="fits no trainable tensor"):
        hessian(MeanLoss(loss.point, loss.terms, {"c": mask["a"]}))
    with pytest.raises(AnalysisError, match="at least 2"):
        trace(operator, probes=1)


def tiny(parameterization: str = "product") -> nn.Module:
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Flatten(), nn.Linear(192, 3), nn.Tanh(), nn.Linear(3, 4)
    ).double()
    return sparsify_fx.apply(
        model, "random", sparsity=0.8, seed=1, parameterization=parameterization
    ).eval()


def doubled(size: int = 12) -> list[tuple[Tensor, Tensor]]:
    return [
        (batch(0, size)[0].double(), batch(0, size)[1]),
        (batch(1, 5)[0].double(), batch(1, 5)[1]),
    ]


@pytest.mark.slow
def test_the_hessian_of_a_model_is_that_of_autograd_in_both_spaces() -> None:
    model, batches = tiny(), doubled()
    inputs, targets = (
        torch.cat([x for x, _ in batches]),
        torch.cat([y for _, y in batches]),
    )
    for space in ("theta", "factors"):
        plain = sparsify_fx.merge(copy.deepcopy(model)) if space == "theta" else model
        masks = (
            {n: p.current_mask() for n, p in programs(model).items()}
            if space == "theta"
            else {}
        )
        operator = hessian(mean_loss(plain, batches, F.cross_entropy, masks))  # type: ignore[arg-type]
        names = [name for name, _ in plain.named_parameters()]
        sizes = [p.numel() for p in plain.parameters()]
        shapes = [p.shape for p in plain.parameters()]

        def loss(
            flat: Tensor,
            plain: nn.Module = plain,
            names=names,
            sizes=sizes,
            shapes=shapes,
        ) -> Tensor:  # type: ignore[no-untyped-def]
            parts = [
                part.view(shape)
                for part, shape in zip(flat.split(sizes), shapes, strict=True)
            ]
            return F.cross_entropy(
                torch.func.functional_call(
                    plain, dict(zip(names, parts, strict=True)), (inputs,)
                ),
                targets,
            )

        point = torch.cat([p.detach().flatten() for p in plain.parameters()])
        full = torch.autograd.functional.hessian(loss, point)
        kept = operator.size
        living = sum(int(p.current_mask().sum()) for p in programs(model).values())  # type: ignore[union-attr]
        assert kept == living * (2 if space == "factors" else 1) + 3 + 4
        if space == "theta":  # pruned directions have curvature there; leave them out
            flags = torch.cat(
                [
                    masks[n].flatten() if n in masks else torch.ones(s)
                    for n, s in zip(names, sizes, strict=True)
                ]
            )
            full = full[flags.bool()][:, flags.bool()]
        values = torch.linalg.eigvalsh(full)
        assert largest_eigenvalue(
            operator, iterations=kept, tolerance=1e-9
        ).value == pytest.approx(float(values[-1]))
        assert trace(operator, probes=500).value == pytest.approx(
            float(full.trace()), rel=0.15
        )


def test_batch_norm_in_eval_mode_does_not_see_how_samples_are_batched() -> None:
    model = small_net().eval()
    inputs, targets = batch(0, 12)
    before = copy.deepcopy(model.state_dict())
    one = hessian(mean_loss(model, [(inputs, targets)], F.cross_entropy))
    two = hessian(
        mean_loss(
            model,
            [(inputs[:5], targets[:5]), (inputs[5:], targets[5:])],
            F.cross_entropy,
        )
    )
    vector = torch.randn(one.size)
    assert torch.allclose(one.product(vector), two.product(vector), atol=1e-5)
    assert all(
        torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items()
    )
    with pytest.raises(AnalysisError, match="at least one sample"):
        mean_loss(model, [], F.cross_entropy)


def test_the_same_seed_gives_the_same_numbers() -> None:
    operator = Operator(30, lambda v: torch.arange(30.0) * v, torch.zeros(0))
    assert largest_eigenvalue(operator, seed=3) == largest_eigenvalue(operator, seed=3)
    assert trace(hessian(quadratic([1.0] * 6)[0]), probes=3) == trace(
        hessian(quadratic([1.0] * 6)[0]), probes=3
    )


def test_gradient_norms_are_those_of_autograd_under_the_mask() -> None:
    model, batches = sparsify_fx.merge(tiny("dense")), doubled()
    masks = {
        "1.weight": (model[1].weight != 0).to(torch.uint8),
        "3.weight": torch.zeros(4, 3, dtype=torch.uint8),
    }  # type: ignore[index]
    found = gradient_flow(mean_loss(model, batches, F.cross_entropy), masks)
    inputs, targets = (
        torch.cat([x for x, _ in batches]),
        torch.cat([y for _, y in batches]),
    )
    F.cross_entropy(model(inputs), targets).backward()  # type: ignore[no-untyped-call]
    expected = float((model[1].weight.grad * masks["1.weight"]).norm())  # type: ignore[index,union-attr,operator]
    assert found["1.weight"].norm == pytest.approx(expected)
    assert found["1.weight"].rms == pytest.approx(
        expected / int(masks["1.weight"].sum()) ** 0.5
    )
    assert (found["3.weight"].norm, found["3.weight"].rms) == (0.0, 0.0)


def test_a_network_is_connected_to_itself_and_not_to_its_permutation() -> None:
    """Swapping hidden channels changes no output, but the midpoint mixes them."""
    torch.manual_seed(0)
    generator = torch.Generator().manual_seed(0)
    inputs = torch.randn(256, 8, generator=generator)
    targets = (inputs[:, 0] * inputs[:, 1] > 0).long()
    a = nn.Sequential(nn.Linear(8, 16), nn.BatchNorm1d(16), nn.ReLU(), nn.Linear(16, 2))
    optimizer = torch.optim.Adam(a.parameters(), lr=0.02)
    for _ in range(150):
        optimizer.zero_grad()
        F.cross_entropy(a(inputs), targets).backward()  # type: ignore[no-untyped-call]
        optimizer.step()
    order = torch.randperm(16, generator=generator)
    b = copy.deepcopy(a)
    with torch.no_grad():
        for tensor in (
            *b[0].parameters(),
            *b[1].parameters(),
            b[1].running_mean,
            b[1].running_var,
        ):
            tensor.copy_(tensor[order])
        b[3].weight.copy_(b[3].weight[:, order])
    assert torch.allclose(a.eval()(inputs), b.eval()(inputs), atol=1e-5)
    data = [(inputs, targets)]

    def measure(model: nn.Module) -> tuple[float, float]:
        return loss_and_error(model, data, F.cross_entropy)

    alone = line_between(a, copy.deepcopy(a), 3, data, measure)
    assert alone.error_barrier == 0.0
    assert alone.alphas == (0.0, 0.5, 1.0)
    between = line_between(a, b, 5, data, measure)
    assert between.error[0] == between.error[-1] < 0.05
    assert between.error_barrier > 0.1
    assert between.loss_barrier > 0.1
    with pytest.raises(AnalysisError, match="at least 3"):
        line_between(a, b, 2, data, measure)
    with pytest.raises(AnalysisError, match="one model"):
        interpolate(a.state_dict(), small_net().state_dict(), 0.5)


def test_a_frozen_first_layer_is_looked_at_too() -> None:
    net = small_net().eval()
    free = dead_channels(net, [batch(0, 64)], F.cross_entropy)
    net[0].requires_grad_(False)
    assert dead_channels(net, [batch(0, 64)], F.cross_entropy) == free


def test_planted_dead_channels_are_found() -> None:
    net = small_net().eval()
    inputs, targets = batch(0, 64)
    alive = dead_channels(net, [(inputs, targets)], F.cross_entropy)
    assert all(layer.dead == 0 for layer in alive.values())
    with torch.no_grad():
        net[0].weight[2] = (
            0  # no input, and a positive constant after batch norm, which ReLU lets through
        )
        net[0].weight[5] = 0
        net[1].bias[[2, 5]] = 0.1  # 1 would push a channel of net.3 below zero for good
        net[3].weight[:, 3] = 0  # groups of 4: channels 3 and 7 of net.0 have no reader
        net[4].weight[6] = (
            0  # batch norm closes channel 6 of net.3, but its bias of 0 ...
        )
        net[4].bias[6] = -1  # ... or below means that ReLU stops the gradient as well
        net[7].weight[1] = 0  # a class without weights
    found = dead_channels(
        net, [(inputs[:9], targets[:9]), (inputs[9:], targets[9:])], F.cross_entropy
    )
    assert (
        found["0"].without_weights,
        found["0"].constant,
        found["0"].unheard,
        found["0"].dead,
    ) == (2, 2, 2, 4)
    assert (found["3"].constant, found["3"].unheard, found["3"].dead) == (0, 1, 1)
    assert (
        found["7"].channels,
        found["7"].without_weights,
        found["7"].constant,
        found["7"].dead,
    ) == (4, 1, 1, 1)
    with torch.no_grad():
        net[
            3
        ].weight.zero_()  # upstream everything is unheard, downstream everything constant
    found = dead_channels(net, [(inputs, targets)], F.cross_entropy)
    assert found["3"].collapsed
    assert found["0"].collapsed
    assert found["7"].constant == 4
    assert net[0].weight.grad is None
    with pytest.raises(AnalysisError, match="at least two samples"):
        dead_channels(net, [(inputs[:1], targets[:1])], F.cross_entropy)
    with pytest.raises(AnalysisError, match="no convolution or linear"):
        dead_channels(
            nn.Sequential(nn.Flatten(), nn.BatchNorm1d(192)).eval(),
            [(inputs, targets)],
            F.cross_entropy,
        )


def test_transposed_and_unbatched_channels() -> None:
    """A transposed convolution holds its output channels second, in groups."""
    torch.manual_seed(0)
    net = nn.Sequential(
        nn.ConvTranspose2d(4, 6, 3, groups=2),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(6, 3),
    )
    with torch.no_grad():
        net[0].weight[2:, 1] = 0  # second group, its second output: channel 4
    inputs = torch.randn(5, 4, 6, 6)
    found = dead_channels(
        net.eval(), [(inputs, torch.tensor([0, 1, 2, 0, 1]))], F.cross_entropy
    )
    assert (
        found["0"].channels,
        found["0"].without_weights,
        found["0"].constant,
        found["0"].dead,
    ) == (6, 1, 1, 1)


def test_a_prune_curve_prunes_a_copy_over_all_layers_and_starts_from_the_net_itself() -> (
    None
):
    model = nn.Sequential(nn.Linear(4, 5, bias=False), nn.Linear(5, 4, bias=False))
    with torch.no_grad():
        model[0].weight.copy_(torch.arange(1.0, 21.0).view(5, 4))
        model[1].weight.copy_(-torch.arange(21.0, 41.0).view(4, 5))
        model[0].weight[0] = 0.0  # 4 of 40 weights are pruned already
    before = copy.deepcopy(model.state_dict())
    found = prune_curve(
        model,
        ("0.weight", "1.weight"),
        lambda net: sum(int(p.count_nonzero()) for p in net.parameters()) / 40,
        levels=(0.0, 0.1, 0.5, 0.9),
    )
    assert found.sparsities == pytest.approx((0.1, 0.5, 0.9))
    assert found.accuracies == pytest.approx((0.9, 0.5, 0.1))
    assert all(torch.equal(model.state_dict()[name], t) for name, t in before.items())
    with pytest.raises(AnalysisError, match="no sparsity"):
        prune_curve(model, ("0.weight",), lambda net: 1.0, levels=(1.0,))


def test_the_level_before_a_drop_is_the_last_before_the_first() -> None:
    curve = PruneCurve((0.0, 0.8, 0.9, 0.95, 0.99), (0.95, 0.945, 0.935, 0.946, 0.5))
    assert curve.before_drop(0.01) == 0.8  # 0.95 is fine again, and behind a drop
    assert curve.before_drop(0.02) == 0.95
    assert curve.chosen() == 0.95  # high sparsity: 2 % may go
    low = PruneCurve((0.0, 0.5, 0.8, 0.9), (0.95, 0.945, 0.935, 0.5))
    assert low.chosen() == 0.5
