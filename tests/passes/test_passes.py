from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, fx, nn
from torch.fx.passes.infra.pass_manager import PassManager

from sparsify_fx import passes
from sparsify_fx.errors import LayerError, PassError
from sparsify_fx.parameterizations import (
    BalancedProduct,
    Parameterization,
    Plain,
    Product,
)
from sparsify_fx.passes import (
    HardConcrete,
    InsertMask,
    Lift,
    Merge,
    ModulePass,
    PowerPropagation,
    Reparameterize,
    Rescale,
    RewindBatchNorm,
    SigmoidGate,
    SoftThreshold,
    batchnorm_state,
)
from sparsify_fx.programs.owners import programs
from sparsify_fx.programs.program import dense_program
from tests.conftest import batch, effective, small_net, train_step, ulp_distance

PASSES = {
    "lift": lambda model: Lift(),
    "insert_mask": lambda model: InsertMask(),
    "insert_given_masks": lambda model: InsertMask(checkerboard(model)),
    "product": lambda model: passes.Product(beta=1.0),
    "balanced_product": lambda model: passes.BalancedProduct(),
    "soft_threshold": lambda model: SoftThreshold(),
    "sigmoid_gate": lambda model: SigmoidGate(),
    "hard_concrete": lambda model: HardConcrete(),
    "power": lambda model: PowerPropagation(alpha=2.0),
    "rescale": lambda model: Rescale(beta=2.0),
    "rewind_bn": lambda model: RewindBatchNorm(batchnorm_state(model)),
    "merge": lambda model: Merge(),
}


def checkerboard(model: nn.Module) -> dict[str, Tensor]:
    names = {n: p.theta() for n, p in programs(model).items()} or {
        f"{n}.weight": m.weight
        for n, m in model.named_modules()
        if isinstance(m, (nn.Conv2d, nn.Linear))
    }
    return {n: (torch.arange(t.numel()) % 2).reshape(t.shape) for n, t in names.items()}


def prepared(traced: bool) -> nn.Module:
    model: nn.Module = small_net()
    return fx.symbolic_trace(model) if traced else model


@pytest.mark.parametrize("traced", [False, True], ids=["module", "graph_module"])
@pytest.mark.parametrize("name", PASSES)
def test_a_second_run_changes_nothing(name: str, traced: bool) -> None:
    model = prepared(traced)
    if name in ("rescale", "merge"):
        passes.Product()(model)
    the_pass: ModulePass = PASSES[name](model)
    if name == "rewind_bn":
        train_step(model.train(), torch.optim.SGD(model.parameters(), lr=0.1))
    first = the_pass(model)
    assert first.modified
    assert first.graph_module is model
    before = {key: value.clone() for key, value in model.state_dict().items()}
    assert not the_pass(model).modified
    after = model.state_dict()
    assert list(before) == list(after)
    assert all(torch.equal(before[key], after[key]) for key in before)


@pytest.mark.parametrize("traced", [False, True], ids=["module", "graph_module"])
def test_masks_and_products_commute_and_give_m_w_mask(traced: bool) -> None:
    one, other = prepared(traced), prepared(traced)
    passes.Product()(one), InsertMask(checkerboard(one))(one)
    InsertMask(checkerboard(other))(other), passes.Product()(other)
    inputs, _ = batch()
    torch.testing.assert_close(one(inputs), other(inputs), rtol=0, atol=0)
    for program in programs(one).values():
        ops = [
            (node.op, node.target)
            for node in program.graph.nodes
            if node.op == "get_attr"
        ]
        assert [target for _, target in ops] == ["m", "w", "mask"]


def test_passes_compose_with_the_pass_manager() -> None:
    model = prepared(traced=True)
    inputs, _ = batch()
    expected = model.eval()(inputs)
    manager = PassManager(
        [Lift(), InsertMask(), passes.Product(beta=0.5), Rescale(beta=2.0), Merge()]
    )
    result = manager(model)
    assert result.modified
    torch.testing.assert_close(
        result.graph_module(inputs), expected, rtol=1e-5, atol=1e-6
    )


@pytest.mark.parametrize("traced", [False, True], ids=["module", "graph_module"])
def test_merge_restores_classes_keys_and_bits(traced: bool) -> None:
    model = prepared(traced)
    classes = {name: type(module) for name, module in model.named_modules()}
    before = {key: value.clone() for key, value in model.state_dict().items()}
    InsertMask()(model)
    assert isinstance(model.get_submodule("0"), nn.Conv2d)
    Merge()(model)
    assert {name: type(module) for name, module in model.named_modules()} == classes
    assert list(model.state_dict()) == list(before)
    assert all(
        torch.equal(before[key], value) for key, value in model.state_dict().items()
    )


def test_merge_writes_positive_zeros(net: nn.Sequential) -> None:
    InsertMask(checkerboard(net))(net)
    with torch.no_grad():
        programs(net)["0.weight"].dense.fill_(-1.0)  # −1 · 0 = −0.0 in the forward
    assert torch.signbit(effective(net)["0.weight"]).all()
    Merge()(net)
    weight = net[0].weight.detach()
    assert not torch.signbit(weight[weight == 0]).any()


@given(
    st.lists(st.tuples(*[st.floats(-100, 100, width=32)] * 2), min_size=1, max_size=20),
    st.sampled_from([0.25, 1.0, 3.0]),
)
def test_rescale_keeps_theta_and_restores_balance(
    pairs: list[tuple[float, float]], beta: float
) -> None:
    layer = nn.Linear(len(pairs), 1, bias=False)
    passes.Product(beta)(layer)
    program = programs(layer)["weight"]
    with torch.no_grad():
        program.m.copy_(torch.tensor([[m for m, _ in pairs]]))
        program.w.copy_(torch.tensor([[w for _, w in pairs]]))
    theta = program.theta().clone()
    Rescale()(layer)
    normal = theta.abs() > 1e-30  # below, θ itself has lost bits as a denormal
    assert (ulp_distance(program.theta(), theta)[normal] <= 2).all()
    m, w = program.m.detach().double(), program.w.detach().double()
    assert ((m * m - w * w - beta).abs() <= 1e-6 * (m * m + w * w)).all()
    assert not Rescale()(layer).modified


def test_rescale_never_resurrects_a_pruned_weight(net: nn.Sequential) -> None:
    passes.Product()(net)
    masks = checkerboard(net)
    InsertMask(masks)(net)
    optimizer = torch.optim.SGD(
        net.parameters(), lr=0.5, momentum=0.9, weight_decay=0.1
    )
    for step in range(5):
        train_step(net, optimizer, step)
    assert Rescale()(net).modified
    for name, weight in effective(net).items():
        assert (weight[masks[name] == 0] == 0).all()
        assert (programs(net)[name].w[masks[name] == 0] == 0).all()


def test_regrown_weights_start_at_zero_and_can_learn(net: nn.Sequential) -> None:
    passes.Product()(net)
    masks = checkerboard(net)
    InsertMask(masks)(net)
    optimizer = torch.optim.SGD(net.parameters(), lr=0.5, weight_decay=0.1)
    train_step(net, optimizer)
    InsertMask({name: torch.ones_like(mask) for name, mask in masks.items()})(net)
    for name, weight in effective(net).items():
        assert (weight[masks[name] == 0] == 0).all()
    train_step(net, optimizer)
    assert any(
        (weight[masks[name] == 0] != 0).any() for name, weight in effective(net).items()
    )


def test_rewind_batchnorm_goes_by_type_and_leaves_the_rest(net: nn.Sequential) -> None:
    state = batchnorm_state(net)
    assert set(state) == {
        f"{i}.{n}"
        for i in (1, 4)
        for n in (
            "weight",
            "bias",
            "running_mean",
            "running_var",
            "num_batches_tracked",
        )
    }
    initial = copy.deepcopy(net.state_dict())
    train_step(net, torch.optim.SGD(net.parameters(), lr=0.1))
    trained = copy.deepcopy(net.state_dict())
    RewindBatchNorm(state)(net)
    for key, value in net.state_dict().items():
        assert torch.equal(value, (initial if key in state else trained)[key])


def test_errors_name_the_pass_the_tensor_and_the_passes_before(
    net: nn.Sequential,
) -> None:
    plain = copy.deepcopy(net.state_dict())
    with pytest.raises(
        PassError, match="Rescale: Sequential has no weight programs; run Lift"
    ):
        Rescale()(net)
    with pytest.raises(PassError, match=r"missing or unknown: \['0.weight'\]"):
        InsertMask({k: v for k, v in checkerboard(net).items() if k != "0.weight"})(net)
    with pytest.raises(
        PassError,
        match=r"InsertMask: 7.weight: expected a mask of shape \(4, 72\), got \(3,\)",
    ):
        InsertMask({**checkerboard(net), "7.weight": torch.ones(3)})(net)
    with pytest.raises(PassError, match="a mask of zeros and ones"):
        InsertMask({**checkerboard(net), "7.weight": torch.full((4, 72), 2)})(net)
    assert not programs(net), "a failed pass must leave the model plain"
    assert list(net.state_dict()) == list(plain)
    InsertMask()(net)
    with pytest.raises(
        PassError,
        match=r"Rescale: 0.weight: expected a product .* passes before it: Lift, InsertMask",
    ):
        Rescale()(net)
    passes.Product(1.0)(net)
    with pytest.raises(
        PassError, match=r"Product\(beta=2\.0\): 0.weight: expected a dense program"
    ):
        passes.Product(2.0)(net)
    with pytest.raises(PassError, match="no batch norm"):
        RewindBatchNorm({})(nn.Linear(2, 2))
    with pytest.raises(PassError, match="differing"):
        RewindBatchNorm({})(net)
    with pytest.raises(PassError, match="no owner"):
        Merge()(dense_program(nn.Parameter(torch.ones(2))))
    with pytest.raises(LayerError, match="no prunable weight"):
        Lift()(nn.ReLU())


@dataclass(frozen=True)
class Shares(Plain):
    """θ = a + b, balanced where a = b."""

    factors: ClassVar[tuple[str, ...]] = ("a", "b")

    def value(self, tensors: Mapping[str, Any]) -> Any:
        return tensors["a"] + tensors["b"]

    def split(self, theta: torch.Tensor, others: Any = None) -> dict[str, torch.Tensor]:
        return {"a": theta / 2, "b": theta / 2}

    def unbalanced(self, tensors: Mapping[str, torch.Tensor]) -> torch.Tensor:
        return tensors["a"] != tensors["b"]


@pytest.mark.parametrize("how", [Shares(), BalancedProduct(), Product(beta=0.5)])
def test_rescale_works_for_every_parameterization_with_a_balance(
    how: Parameterization,
) -> None:
    layer = Reparameterize(how)(nn.Linear(3, 3)).graph_module
    program, theta = layer.weight_program, layer.weight.detach().clone()
    with torch.no_grad():
        first, second = program.factor_tensors().values()
        first[0], second[0] = (
            (first[0] + 1, second[0] - 1)
            if how == Shares()
            else (first[0] * 2, second[0] / 2)
        )
    rest = [factor[1:].detach().clone() for factor in program.factor_tensors().values()]
    assert Rescale()(layer).modified
    assert not how.unbalanced(program.tensors()).any()
    assert all(
        torch.equal(f[1:], r)
        for f, r in zip(program.factor_tensors().values(), rest, strict=True)
    )
    torch.testing.assert_close(layer.weight, theta, rtol=1e-6, atol=1e-7)
    assert not Rescale()(layer).modified


def test_a_beta_is_for_parameterizations_that_have_one() -> None:
    layer = Reparameterize(Shares())(nn.Linear(3, 3)).graph_module
    with pytest.raises(
        PassError,
        match=r"weight: expected a parameterization with an option beta, found Shares",
    ):
        Rescale(beta=2.0)(layer)
