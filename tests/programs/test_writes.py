"""Writes to a computed weight raise in place of being lost; reading it is like reading any tensor."""

from __future__ import annotations

import copy
import io
import pickle
from collections.abc import Callable, Iterator

import pytest
import torch
from peft import LoraConfig, get_peft_model
from torch import Tensor, nn
from torch.func import functional_call, grad, vmap
from torch.fx.experimental.proxy_tensor import make_fx
from torch.nn import functional as F

import sparsify_fx
from sparsify_fx.errors import LayerError
from sparsify_fx.programs.computed_weight import ComputedWeight
from sparsify_fx.programs.owners import programs
from tests.conftest import batch, effective, small_net, train_step

REFUSED = r"weight of this (Linear|Conv2d) is computed by its weight program: .* would write to a temporary tensor"
METHODS = ["signin", "random", "str", "l0"]


def made(method: str = "signin") -> nn.Sequential:
    return sparsify_fx.apply(small_net(), method, sparsity=0.5)


def set_data(layer: nn.Module, value: Tensor) -> None:
    layer.weight.data = value


def set_item(layer: nn.Module) -> None:
    layer.weight.data[0] = 0.0


def add_to_data(layer: nn.Module) -> None:
    layer.weight.data += 1.0


def scale(layer: nn.Module) -> None:
    with torch.no_grad():
        layer.weight *= 2.0


def copy_in(layer: nn.Module) -> None:
    with torch.no_grad():
        layer.weight.copy_(torch.zeros_like(layer.weight))


def rows(layer: nn.Module) -> None:
    for row in layer.weight.detach():
        row.zero_()


def halves(layer: nn.Module) -> None:
    layer.weight.data.chunk(2)[1].zero_()


def renormalize(layer: nn.Module) -> None:
    torch.renorm(layer.weight.data, 2, 0, 1.0, out=layer.weight.data)


def average(layer: nn.Module) -> None:
    layer.weight.data.mul_(0.9).add_(torch.ones_like(layer.weight), alpha=0.1)


WRITES: dict[str, Callable[[nn.Module], object]] = {
    "data in place": lambda layer: layer.weight.data.add_(1.0),
    "in place": lambda layer: layer.weight.detach().mul_(2.0),
    "data": lambda layer: set_data(layer, torch.zeros_like(layer.weight)),
    "item": set_item,
    "+=": add_to_data,
    "*=": scale,
    "copy_": copy_in,
    "clipping": lambda layer: layer.weight.data.clamp_(-0.1, 0.1),
    "clipping with out=": lambda layer: torch.clamp(
        layer.weight, -0.1, 0.1, out=layer.weight.data
    ),
    "renorm": renormalize,
    "averaging": average,
    "rows": rows,
    "chunks": halves,
    "a view": lambda layer: layer.weight.data.view(-1)[3:].fill_(0.0),
    "a transposed view": lambda layer: layer.weight.data.flatten(1).T.fill_(0.0),
    "another type's view": lambda layer: layer.weight.data.view(torch.int32).fill_(0),
    "a mask": lambda layer: layer.weight.data.masked_fill_(layer.weight > 0, 0.0),
    "foreach": lambda layer: torch._foreach_mul_(
        [torch.ones(2), layer.weight.data], 2.0
    ),
    "foreach copy": lambda layer: torch._foreach_copy_(
        [layer.weight.data], [torch.zeros_like(layer.weight)]
    ),
    "functional": lambda layer: F.relu(layer.weight.data, inplace=True),
    "function": lambda layer: torch.relu_(layer.weight.data),
    "operator": lambda layer: torch.ops.aten.mul_.Tensor(
        layer.weight.data, torch.ones(())
    ),
    "vector_to_parameters": lambda layer: nn.utils.vector_to_parameters(
        torch.ones(10**4), [layer.weight]
    ),
    "gradient": lambda layer: setattr(
        layer.weight, "grad", torch.zeros_like(layer.weight)
    ),
    "xavier_uniform_": lambda layer: nn.init.xavier_uniform_(layer.weight),
    "xavier_normal_": lambda layer: nn.init.xavier_normal_(layer.weight),
    "kaiming_uniform_": lambda layer: nn.init.kaiming_uniform_(layer.weight),
    "kaiming_normal_": lambda layer: nn.init.kaiming_normal_(layer.weight.data),
    "orthogonal_": lambda layer: nn.init.orthogonal_(layer.weight),
    "trunc_normal_": lambda layer: nn.init.trunc_normal_(layer.weight, std=0.02),
    "normal_": lambda layer: nn.init.normal_(layer.weight),
    "constant_": lambda layer: nn.init.constant_(layer.weight, 1.0),
    "zeros_": lambda layer: nn.init.zeros_(layer.weight),
}


@pytest.mark.parametrize("place", ["conv", "linear"])
@pytest.mark.parametrize("write", WRITES)
def test_a_write_from_outside_is_refused(write: str, place: str) -> None:
    model = made()
    before = effective(model)
    with pytest.raises(LayerError, match=REFUSED) as caught:
        WRITES[write](model[0 if place == "conv" else 7])
    assert "sparsify_fx.merge(model)" in str(caught.value)
    assert all(
        torch.equal(weight, before[name]) for name, weight in effective(model).items()
    )


@pytest.mark.parametrize("method", METHODS)
def test_whatever_the_method(method: str) -> None:
    for layer in made(method):
        if isinstance(layer, (nn.Conv2d, nn.Linear)):
            with pytest.raises(LayerError, match=REFUSED):
                layer.weight.data.clamp_(-0.1, 0.1)


def test_a_weight_that_is_its_own_parameter_can_be_written() -> None:
    """A program without mask and factors returns the parameter itself: nothing is lost, so nothing is refused."""
    model = made("dense")
    model[7].weight.data.fill_(0.25)
    assert (effective(model)["7.weight"] == 0.25).all()


@pytest.mark.parametrize("kind", ["register_forward_pre_hook", "register_forward_hook"])
def test_a_hook_that_writes_is_outside_of_the_forward(kind: str) -> None:
    model = made()
    getattr(model[7], kind)(
        lambda module, *rest: module.weight.data.clamp_(-0.1, 0.1) and None
    )
    with pytest.raises(LayerError, match=REFUSED):
        model(batch()[0])


def test_recurrent_and_attention_weights() -> None:
    recurrent = sparsify_fx.apply(nn.LSTM(4, 5), "signin", sparsity=0.5)
    attention = sparsify_fx.apply(nn.MultiheadAttention(8, 2), "signin", sparsity=0.5)
    with pytest.raises(LayerError, match="weight_hh_l0 of this LSTM is computed"):
        nn.init.orthogonal_(recurrent.weight_hh_l0)
    with pytest.raises(
        LayerError, match="in_proj_weight of this MultiheadAttention is computed"
    ):
        nn.init.xavier_uniform_(attention.in_proj_weight)
    with pytest.raises(LayerError, match="computed by its weight program"):
        attention.out_proj.weight.data.zero_()


def test_deleting_a_computed_weight_is_refused() -> None:
    layer = made()[7]
    with pytest.raises(
        LayerError,
        match="weight of this Linear is computed by its weight program and cannot be del",
    ):
        del layer.weight
    del layer.bias
    assert not hasattr(layer, "bias")


@pytest.mark.parametrize("safe", [False, True])
@pytest.mark.parametrize("dora", [False, True])
def test_lora_is_merged_after_the_weights(dora: bool, safe: bool) -> None:
    """Without care the trained adapter would vanish."""
    torch.manual_seed(0)
    model, inputs = (
        nn.Sequential(nn.Linear(16, 24), nn.ReLU(), nn.Linear(24, 4)),
        torch.randn(4, 16),
    )
    sparsify_fx.apply(model, "signin", sparsity=0.5)
    config = LoraConfig(
        r=2,
        lora_alpha=8,
        target_modules=["0", "2"],
        init_lora_weights=False,
        use_dora=dora,
    )
    adapted = get_peft_model(model, config)
    tuned = adapted(inputs)
    with pytest.raises(LayerError, match=REFUSED):
        adapted.merge_and_unload(safe_merge=safe)
    assert torch.equal(adapted(inputs), tuned)
    sparsify_fx.merge(adapted.base_model.model)
    torch.testing.assert_close(
        adapted.merge_and_unload(safe_merge=safe)(inputs), tuned, rtol=1e-4, atol=1e-4
    )


# ---------------------------------------------------------------------- reading


def test_reading_is_like_reading_any_tensor() -> None:
    model = made()
    layer, expected = model[7], effective(model)["7.weight"]
    weight = layer.weight
    assert isinstance(weight, Tensor)
    assert type(weight) == Tensor  # noqa: E721 - as libraries ask
    assert not isinstance(weight, nn.Parameter)
    assert torch.equal(weight, expected)
    assert int((weight != 0).sum()) == int((expected != 0).sum())
    assert repr(weight.detach()) == repr(expected)
    assert (weight.detach().numpy() == expected.numpy()).all()
    assert weight.tolist() == expected.tolist()
    assert [row.tolist() for row in weight] == expected.tolist()
    for result in (
        weight + 1,
        weight.clone(),
        weight.abs(),
        F.linear(torch.ones(2, 72), weight),
        torch.cat([weight]),
    ):
        assert type(result) is Tensor
    copied = weight.detach().clone()
    copied.mul_(2.0)
    average = torch.zeros_like(expected)
    average.lerp_(weight.detach(), 0.5)
    average.mul_(0.5).add_(weight.data)
    torch.mul(average, weight.detach(), out=average)
    with torch.no_grad():
        nn.Linear(72, 4).weight.copy_(weight)
    torch.testing.assert_close(average, expected * 1.25 * expected)


def test_copies_files_and_parameters_are_plain() -> None:
    weight, stream = made()[7].weight, io.BytesIO()
    torch.save(weight.detach(), stream)
    stream.seek(0)
    for twin in (
        torch.load(stream),
        pickle.loads(pickle.dumps(weight.detach())),
        copy.deepcopy(weight.detach()),
    ):
        assert type(twin) is Tensor
        assert torch.equal(twin.fill_(1.0), torch.ones(4, 72))
    with pytest.raises(
        RuntimeError, match="Only Tensors created explicitly by the user"
    ):
        copy.deepcopy(weight)
    for parameter in (
        nn.Parameter(weight),
        nn.Parameter(weight.detach(), requires_grad=False),
    ):
        assert type(parameter) is nn.Parameter
        assert parameter.is_leaf
        parameter.data.fill_(1.0)
    buffer = nn.Buffer(weight.detach())
    assert type(buffer) is Tensor
    buffer.zero_()
    plain = nn.Linear(72, 4)
    plain.weight.data = weight.data.clone()
    assert type(plain.weight.data) is Tensor


def test_gradients_flow_through_a_read() -> None:
    model = made()
    layer = model[7]
    F.linear(torch.ones(2, 72), layer.weight).square().sum().backward()
    by_hand = layer.weight_program.m.grad.clone()
    model.zero_grad()
    F.linear(torch.ones(2, 72), layer.weight_program()).square().sum().backward()
    assert torch.equal(layer.weight_program.m.grad, by_hand)
    assert by_hand.any()
    weight = layer.weight
    (gradient,) = torch.autograd.grad(weight.square().sum(), weight)
    assert type(gradient) is Tensor
    assert torch.equal(gradient, 2 * weight.detach())
    weight.register_hook(lambda gradient: None)
    layer.weight.grad = None


def test_a_forward_sees_the_plain_tensor() -> None:
    seen: list[type] = []

    class Looking(nn.Linear):
        def forward(self, inputs: Tensor) -> Tensor:
            seen.append(type(self.weight))
            return super().forward(inputs)

    class Parent(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = Looking(4, 4)

        def helper(self, inputs: Tensor) -> Tensor:
            seen.append(type(self.inner.weight))
            return F.linear(inputs, self.inner.weight)

        def forward(self, inputs: Tensor) -> Tensor:
            return self.helper(self.inner(inputs))

    model, inputs = (
        sparsify_fx.apply(Parent(), "signin", sparsity=0.5),
        torch.randn(2, 4),
    )
    seen.clear()  # apply may have run a plain copy, to see whether a path is left
    model(inputs)
    model.inner.register_forward_hook(lambda *rest: None)
    model(inputs)
    torch.utils.checkpoint.checkpoint(
        model, inputs, use_reentrant=False
    ).sum().backward()
    assert set(seen) == {Tensor}
    seen.clear()
    assert torch.equal(model.forward(inputs), model(inputs)), (
        "called directly, a forward computes the same"
    )
    assert ComputedWeight in map(type, [model.inner.weight])


@pytest.mark.cross_section("False-compile(model)", "True-model.compile()")
@pytest.mark.slow
@pytest.mark.filterwarnings(
    "ignore:The .grad attribute of a Tensor that is not a leaf"
)  # torch's own look at it
@pytest.mark.parametrize(
    "method", [False, True], ids=["compile(model)", "model.compile()"]
)
@pytest.mark.parametrize("hooked", [False, True])
def test_what_a_compiler_leaves_to_python_is_still_within_the_forward(
    hooked: bool, method: bool
) -> None:
    seen: list[type] = []

    @torch.compiler.disable
    def by_hand(layer: nn.Module, inputs: Tensor) -> Tensor:
        seen.append(type(layer.weight))
        return F.linear(inputs, layer.weight)

    class Broken(nn.Linear):
        def forward(self, inputs: Tensor) -> Tensor:
            return by_hand(self, super().forward(inputs)) + self.weight.sum()

    model, inputs = nn.Sequential(Broken(4, 4), Broken(4, 4)), torch.randn(2, 4)
    sparsify_fx.apply(model, "signin", sparsity=0.5)
    if hooked:
        model[0].register_forward_hook(lambda *rest: None)
    seen.clear()  # apply may have run a plain copy, to see whether a path is left
    expected = model(inputs)
    if method:
        model.compile(backend="eager")
    compiled = model if method else torch.compile(model, backend="eager")
    torch.testing.assert_close(compiled(inputs), expected)
    assert set(seen) == {Tensor}


def through_modes(model: nn.Sequential, inputs: Tensor) -> Iterator[Tensor]:
    layer = model[7]

    def outside(inputs: Tensor) -> Tensor:
        return F.linear(inputs, layer.weight)

    yield torch.compile(outside, backend="aot_eager", fullgraph=True)(inputs)
    yield torch.compile(F.linear, backend="aot_eager", fullgraph=True)(
        inputs, layer.weight
    )
    yield make_fx(outside)(inputs)(inputs)
    yield vmap(lambda row: F.linear(row, layer.weight))(inputs)
    yield vmap(lambda row: F.linear(inputs, row[None])[:, 0])(layer.weight).T
    yield functional_call(
        nn.Linear(72, 4, bias=False), {"weight": layer.weight}, (inputs,)
    )
    with torch.inference_mode():
        yield outside(inputs)
    with torch.no_grad():
        yield outside(inputs)
    with sparsify_fx.shared_weights():
        assert layer.weight is layer.weight
        yield outside(inputs)


def test_gradients_of_transforms() -> None:
    weight, inputs = made()[7].weight, torch.randn(2, 72)
    gradient = grad(lambda weight: F.linear(inputs, weight).sum())(weight.detach())
    torch.testing.assert_close(gradient, inputs.sum(0).expand(4, 72))


@pytest.mark.filterwarnings(
    "ignore:The .grad attribute of a Tensor:UserWarning"
)  # torch.compile, of any non-leaf input
def test_reads_under_compilers_tracers_transforms_and_modes() -> None:
    model, inputs = made(), torch.randn(2, 72)
    expected = F.linear(inputs, effective(model)["7.weight"])
    for outputs in through_modes(model, inputs):
        torch.testing.assert_close(outputs, expected)


def test_within_a_span_writes_are_refused_as_well() -> None:
    """They would change what the next reads see, and nothing else."""
    model = made()
    with sparsify_fx.shared_weights():
        before = model[7].weight.clone()
        with pytest.raises(LayerError, match=REFUSED):
            model[7].weight.data.zero_()
        assert torch.equal(model[7].weight, before)


def test_what_writes_to_factors_and_plain_layers_goes_on() -> None:
    model = made()
    train_step(model, torch.optim.SGD(model.parameters(), lr=0.1))
    vector = nn.utils.parameters_to_vector(model.parameters())
    nn.utils.vector_to_parameters(vector * 0.5, model.parameters())
    assert torch.equal(nn.utils.parameters_to_vector(model.parameters()), vector * 0.5)
    nn.init.ones_(model[1].weight)
    model[1].weight.data.mul_(2.0)
    for parameter in model.parameters():
        parameter.data.clamp_(-0.5, 0.5)
    assert all(program.m.abs().max() <= 0.5 for program in programs(model).values())
