"""Beside its weights nothing of a model changes: behavior, dtypes, devices, flags, copies, tracers."""

from __future__ import annotations

import copy
import pickle
from collections.abc import Callable

import pytest
import timm
import timm.layers
import torch
from torch import Tensor, nn

import sparsify_fx
from sparsify_fx.errors import SchedulerError
from sparsify_fx.parameterizations import Dense
from sparsify_fx.programs.owners import programs
from sparsify_fx.recipe import METHODS, find_method
from sparsify_fx.testing.small import net_for
from sparsify_fx.zoo import methods as _methods
from tests.conftest import batch, effective, small_net, train_step

assert _methods  # the import fills the registry
TIMM = [
    "test_vit",
    "test_resnet",
    "test_nfnet",
    "test_efficientnet",
    "test_byobnet",
    "test_convnext",
    "test_mambaout",
]


def timm_model(name: str) -> tuple[nn.Module, Tensor]:
    torch.manual_seed(0)
    rates = {} if name == "test_mambaout" else {"drop_path_rate": 0.3}
    model = timm.create_model(name, num_classes=10, drop_rate=0.2, **rates)
    return model, torch.randn(2, *timm.get_pretrained_cfg(name).input_size)


def made(method: str = "signin", sparsity: float = 0.5) -> nn.Sequential:
    return sparsify_fx.apply(small_net(), method, sparsity=sparsity)


@pytest.mark.cross_section(
    "test_vit", "test_resnet", "test_efficientnet", "test_convnext"
)
@pytest.mark.parametrize("name", TIMM)
def test_timm_models_behave_as_before(name: str) -> None:
    """Dropout and stochastic depth included: the rewritten model draws the same random numbers."""
    original, inputs = timm_model(name)
    model = sparsify_fx.apply(copy.deepcopy(original), "signin", sparsity=0.0)
    assert isinstance(model, type(original))
    for training in (True, False):
        results = []
        for each in (original.train(training), model.train(training)):
            torch.manual_seed(1)
            results.append(each(inputs))
        torch.testing.assert_close(results[1], results[0], rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(
        model.forward_features(inputs),
        original.forward_features(inputs),
        rtol=1e-4,
        atol=1e-4,
    )
    assert model.default_cfg == original.default_cfg
    assert model.num_features == original.num_features
    assert (
        type(model.get_classifier()).__name__
        == type(original.get_classifier()).__name__
    )
    if hasattr(original, "no_weight_decay"):
        assert model.no_weight_decay() == original.no_weight_decay()
    before = len(programs(model))
    model.reset_classifier(3)
    assert model(inputs).shape == (2, 3)
    assert len(programs(model)) == before - 1, (
        "a new head is a plain one, until the next apply"
    )
    assert type(model.get_classifier()) is nn.Linear


def test_auxiliary_heads_and_dropout_are_as_before() -> None:
    class Heads(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.body, self.main, self.aux = (
                nn.Linear(6, 6),
                nn.Linear(6, 2),
                nn.Linear(6, 2),
            )
            self.drop = nn.Dropout(0.5)

        def forward(self, x: Tensor) -> tuple[Tensor, ...]:
            x = self.drop(self.body(x))
            return (self.main(x), self.aux(x)) if self.training else (self.main(x),)

    original, inputs = Heads(), torch.randn(4, 6)
    model = sparsify_fx.apply(copy.deepcopy(original), "signin", sparsity=0.0)
    for training, count in ((True, 2), (False, 1)):
        results = []
        for each in (original.train(training), model.train(training)):
            torch.manual_seed(0)
            results.append(each(inputs))
        assert len(results[1]) == count
        torch.testing.assert_close(results[1], results[0])


def test_hooks_of_every_kind_stay_and_can_be_removed() -> None:
    calls: list[str] = []
    model, (inputs, _) = small_net(), batch()
    handles = [
        model[0].register_forward_pre_hook(lambda module, args: calls.append("before")),
        model[0].register_forward_hook(
            lambda module, args, output: calls.append("after")
        ),
        model[0].register_full_backward_hook(
            lambda module, given, received: calls.append("backward")
        ),
        model[0].register_state_dict_post_hook(
            lambda module, state, prefix, metadata: calls.append("state")
        ),
    ]
    sparsify_fx.apply(model, "signin")
    model(inputs.clone().requires_grad_()).sum().backward()
    model.state_dict()
    assert calls == ["before", "after", "backward", "state"]
    for handle in handles:
        handle.remove()
    sparsify_fx.merge(model)
    model(inputs)
    assert len(calls) == 4


@pytest.mark.parametrize("method", ["signin", "random", "str", "powerprop"])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
@pytest.mark.parametrize("moved", ["before", "after"])
def test_dtypes(method: str, dtype: torch.dtype, moved: str) -> None:
    """A mask or a factor of another dtype would lift the whole forward to it."""
    plain = small_net().to(dtype)
    inputs, labels = batch()[0].to(dtype), batch()[1]
    expected = plain(inputs)
    if moved == "before":
        model = sparsify_fx.apply(copy.deepcopy(plain), method, sparsity=0.0)
    else:
        model = sparsify_fx.apply(small_net(), method, sparsity=0.0).to(dtype)
    outputs = model(inputs)
    assert outputs.dtype == dtype
    for name, program in programs(model).items():
        assert program().dtype == dtype, name
        assert all(parameter.dtype == dtype for parameter in program.parameters())
        assert (
            program.current_mask() is None
            or program.current_mask().dtype == torch.uint8
        )
    spacing = max(
        torch.finfo(t).eps
        for t in (dtype, torch.float32 if moved == "after" else dtype)
    )
    torch.testing.assert_close(outputs, expected, rtol=64 * spacing, atol=64 * spacing)
    nn.functional.cross_entropy(outputs.float(), labels).backward()
    assert all(p.grad is not None and p.grad.dtype == dtype for p in model.parameters())
    sparsify_fx.merge(model)
    assert {parameter.dtype for parameter in model.parameters()} == {dtype}


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
def test_pruning_in_other_dtypes_is_exact(dtype: torch.dtype) -> None:
    model = sparsify_fx.apply(
        small_net().to(dtype), "magnitude", sparsity=0.5, schedule="at-init"
    )
    counted = sum(int((weight != 0).sum()) for weight in effective(model).values())
    assert counted == sum(p.theta().numel() for p in programs(model).values()) // 2


def test_channels_last_after_apply_and_back() -> None:
    model, inputs = made().eval(), batch()[0]
    expected = model(inputs)
    model.to(memory_format=torch.channels_last)
    assert model[0].weight.is_contiguous(memory_format=torch.channels_last)
    outputs = model(inputs.to(memory_format=torch.channels_last))
    torch.testing.assert_close(outputs, expected, rtol=1e-4, atol=1e-5)
    sparsify_fx.merge(model)
    assert model[0].weight.is_contiguous(memory_format=torch.channels_last)


@pytest.mark.parametrize("storage", ["full", "living"])
def test_frozen_weights_stay_frozen_and_can_be_unfrozen(storage: str) -> None:
    """Without care a frozen layer would train again, or be missed in an optimizer that was right to leave it out."""
    model = small_net()
    model[0].requires_grad_(False)
    sparsify_fx.apply(model, "signin", sparsity=0.5, storage=storage)
    frozen, free = programs(model)["0.weight"], programs(model)["7.weight"]
    assert not any(parameter.requires_grad for parameter in frozen.parameters())
    assert all(parameter.requires_grad for parameter in free.parameters())
    before = frozen.theta().clone()
    optimizer = torch.optim.SGD(
        (p for p in model.parameters() if p.requires_grad), lr=0.1
    )
    sparsify_fx.Scheduler(model, optimizer, epochs=1, steps_per_epoch=1)
    train_step(model, optimizer)
    assert torch.equal(frozen.theta(), before)

    model[0].requires_grad_(True)
    with pytest.raises(SchedulerError, match=r"build it after sparsify_fx\.apply"):
        sparsify_fx.Scheduler(model, optimizer, epochs=1, steps_per_epoch=1)
    train_step(model, torch.optim.SGD(model.parameters(), lr=0.1))
    assert not torch.equal(frozen.theta(), before)
    gradient = frozen.restored(frozen.m.grad)
    assert (gradient[frozen.current_mask() == 0] == 0).all()
    assert (gradient != 0).any()
    with pytest.raises(
        RuntimeError, match="can only change requires_grad flags of leaf"
    ):
        model[0].weight.requires_grad_(False)


def test_the_order_of_parameters_is_that_of_the_weights() -> None:
    original = small_net()
    model = sparsify_fx.apply(copy.deepcopy(original), "signin")

    def weight(name: str) -> str:
        return name.split("_program")[0]

    order = list(dict.fromkeys(weight(name) for name, _ in model.named_parameters()))
    matrices = [
        name for name, parameter in original.named_parameters() if parameter.ndim > 1
    ]
    assert [name for name in order if name in matrices] == matrices
    layers = list(dict.fromkeys(name.split(".")[0] for name in order))
    assert layers == list(
        dict.fromkeys(name.split(".")[0] for name, _ in original.named_parameters())
    )


def prepared(method: str, **axes: object) -> Callable[[nn.Module], nn.Module]:
    def loss(outputs: Tensor, targets: Tensor) -> Tensor:
        return nn.functional.cross_entropy(outputs, targets)

    return lambda model: sparsify_fx.apply(
        model, method, sparsity=0.5, batches=[batch()], loss_fn=loss, **axes
    )


@pytest.mark.parametrize("method", METHODS)
def test_an_optimizer_from_before_apply_trains_on_or_is_refused(method: str) -> None:
    """Never would it train parameters that are gone."""
    model = net_for(find_method(method).resolved().criterion, 0.5)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    prepared(method)(model)
    if find_method(method).resolved().parameterization == Dense():
        sparsify_fx.Scheduler(
            model, optimizer, epochs=30, steps_per_epoch=3, batches=[batch()]
        )
        before = effective(model)
        train_step(model, optimizer)
        assert all(
            not torch.equal(weight, before[name])
            for name, weight in effective(model).items()
        )
    else:
        with pytest.raises(
            SchedulerError, match=r"build it after sparsify_fx\.apply\(model\)"
        ):
            sparsify_fx.Scheduler(
                model, optimizer, epochs=30, steps_per_epoch=3, batches=[batch()]
            )


def replicated(network: nn.Module) -> nn.Module:
    """What torch.nn.parallel.replicate does for each device, without the devices."""
    modules = list(network.modules())
    copies = {id(module): module._replicate_for_data_parallel() for module in modules}
    for module in modules:
        replica = copies[id(module)]
        for name, child in module._modules.items():
            replica._modules[name] = None if child is None else copies[id(child)]
        for name, parameter in module._parameters.items():
            if parameter is None:
                replica._parameters[name] = None
            else:
                setattr(replica, name, parameter.clone())
        for name, buffer in module._buffers.items():
            setattr(replica, name, buffer.clone())
    return copies[id(network)]


@pytest.mark.parametrize("method", ["signin", "imp", "str"])
def test_replicas_of_data_parallel_compute_and_lead_gradients_back(method: str) -> None:
    """Without care a replica would refuse the tensors that it gets in place of parameters."""
    model, (inputs, _) = (
        sparsify_fx.apply(small_net(), method, sparsity=0.5).eval(),
        batch(),
    )
    replica = replicated(model)
    assert torch.equal(replica(inputs), model(inputs))
    replica(inputs).square().sum().backward()
    assert all(parameter.grad is not None for parameter in model.parameters())


def test_a_copy_in_the_middle_of_training_goes_its_own_way() -> None:
    model = made("lrr+signin")
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    train_step(model, optimizer)
    twins = [copy.deepcopy(model), pickle.loads(pickle.dumps(model))]
    expected = effective(model)
    for twin in twins:
        assert [name for name, _ in twin.named_parameters()] == [
            name for name, _ in model.named_parameters()
        ]
        programs(twin)["0.weight"].set_mask(torch.zeros(8, 3, 3, 3))
        assert not effective(twin)["0.weight"].any()
    assert all(
        torch.equal(weight, expected[name]) for name, weight in effective(model).items()
    )
