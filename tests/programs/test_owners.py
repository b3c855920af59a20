from __future__ import annotations

import copy
import io
import pickle
from pathlib import Path

import pytest
import torch
from torch import fx, nn
from torch.func import functional_call, grad, vmap

import sparsify_fx
from sparsify_fx.errors import LayerError
from sparsify_fx.passes import Merge
from sparsify_fx.programs.owners import original_class, programs
from tests.conftest import batch, effective, small_net, train_step
from tests.fresh import run_fresh


class Scaled(nn.Linear):
    """A subclass with a forward and state of its own."""

    def __init__(self) -> None:
        super().__init__(6, 3)
        self.scale = 2.0

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        return super().forward(inputs) * self.scale + self.weight.sum()


class Tied(nn.Module):
    """Two linear layers that share one weight, and one layer that is used twice."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.c = nn.Linear(4, 4), nn.Linear(4, 4), nn.Linear(4, 4)
        self.b.weight = self.a.weight
        self.again = self.c

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        return self.again(self.c(self.b(self.a(inputs))))


@pytest.mark.parametrize(
    ("layer", "shape"),
    [
        (nn.Conv1d(2, 4, 3), (1, 2, 9)),
        (nn.Conv2d(2, 4, 3, padding_mode="circular", padding=1), (1, 2, 5, 5)),
        (nn.Conv3d(2, 4, 3), (1, 2, 4, 4, 4)),
        (nn.ConvTranspose1d(2, 4, 3), (1, 2, 5)),
        (nn.ConvTranspose2d(2, 4, 3, stride=2), (1, 2, 4, 4)),
        (nn.ConvTranspose3d(2, 4, 3), (1, 2, 3, 3, 3)),
        (nn.Linear(6, 3), (2, 6)),
        (Scaled(), (2, 6)),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, nn.Module) else "",
)
def test_every_supported_layer_computes_as_before(
    layer: nn.Module, shape: tuple[int, ...]
) -> None:
    model = nn.Sequential(layer)
    inputs, kind = torch.randn(shape), type(layer)
    expected = model(inputs)
    sparsify_fx.apply(model, "signin", sparsity=0.0)
    assert isinstance(layer, kind)
    assert type(layer).__name__ == kind.__name__
    assert original_class(layer) is kind
    torch.testing.assert_close(model(inputs), expected, rtol=1e-5, atol=1e-6)
    sparsify_fx.merge(model)
    assert type(layer) is kind


def test_attributes_hooks_and_repr_survive(net: nn.Sequential) -> None:
    calls = []
    net[0].register_forward_hook(
        lambda module, args, output: calls.append(type(module).__name__)
    )
    net[0].note = "kept"
    sparsify_fx.apply(net, "signin")
    net(batch()[0])
    assert calls == ["Conv2d"]
    assert net[0].note == "kept"
    assert net[0].kernel_size == (3, 3)
    assert "Conv2d" in repr(net)
    assert net[0].weight.shape == (8, 3, 3, 3)


@pytest.mark.filterwarnings("ignore::sparsify_fx.errors.UnfinishedWarning")
def test_copies_and_pickles_are_independent_and_equal(net: nn.Sequential) -> None:
    sparsify_fx.apply(net, "lrr+signin", sparsity=0.5)
    inputs, _ = batch()
    expected = net.eval()(inputs)
    stream = io.BytesIO()
    torch.save(net, stream)
    stream.seek(0)
    for twin in (
        copy.deepcopy(net),
        pickle.loads(pickle.dumps(net)),
        torch.load(stream, weights_only=False),
    ):
        assert torch.equal(twin(inputs), expected)
        assert [p.facts for p in programs(twin).values()] == [
            p.facts for p in programs(net).values()
        ]
        train_step(twin.train(), torch.optim.SGD(twin.parameters(), lr=1.0))
        assert torch.equal(net(inputs), expected)
        Merge()(twin)
        assert type(twin[0]) is nn.Conv2d


@pytest.mark.slow
def test_a_pickle_opens_in_a_fresh_process(net: nn.Sequential, tmp_path: Path) -> None:
    sparsify_fx.apply(net, "signin", sparsity=0.5)
    torch.save(net.eval(), tmp_path / "model.pt")
    torch.save(net(batch()[0]), tmp_path / "out.pt")
    torch.save(batch()[0], tmp_path / "in.pt")
    code = (
        "import torch; load = lambda n: torch.load(n, weights_only=False); m = load('model.pt');"
        "assert torch.equal(m(load('in.pt')), load('out.pt')); print(type(m[0]).__name__)"
    )
    done = run_fresh(code, folder=tmp_path)
    assert done.stdout.strip() == "Conv2d", done.stderr


def test_tied_and_shared_layers_keep_one_weight() -> None:
    model = Tied()
    keys = list(model.state_dict())
    inputs = torch.randn(2, 4)
    expected = model(inputs)
    sparsify_fx.apply(model, "signin", sparsity=0.0)
    assert list(programs(model)) == ["a.weight", "c.weight"]
    torch.testing.assert_close(model(inputs), expected)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    model(inputs).sum().backward()
    optimizer.step()
    assert torch.equal(model.a.weight, model.b.weight)
    assert list(sparsify_fx.dense_state_dict(model)) == keys
    sparsify_fx.merge(model)
    assert model.a.weight is model.b.weight
    assert list(model.state_dict()) == keys


@pytest.mark.parametrize("storage", ["full", "living"])
def test_trace_functional_call_grad_and_vmap(net: nn.Sequential, storage: str) -> None:
    sparsify_fx.apply(net.eval(), "signin", sparsity=0.5, storage=storage)
    inputs, _ = batch()
    expected = net(inputs)
    assert torch.equal(fx.symbolic_trace(net)(inputs), expected)
    parameters = {
        name: parameter.detach() for name, parameter in net.named_parameters()
    }
    assert torch.equal(functional_call(net, parameters, (inputs,)), expected)

    def loss(values: dict[str, torch.Tensor], one: torch.Tensor) -> torch.Tensor:
        return functional_call(net, values, (one.unsqueeze(0),)).square().sum()

    each = vmap(grad(loss), in_dims=(None, 0))(parameters, inputs)
    program = programs(net)["0.weight"]
    mask = program.current_mask()
    assert mask is not None
    per_sample = each["0.weight_program.w"]
    assert per_sample.shape == (16, *program.w.shape)
    per_sample = torch.stack([program.restored(one) for one in per_sample])
    assert per_sample.shape == (16, 8, 3, 3, 3)
    assert (per_sample[:, mask == 0] == 0).all()
    assert (per_sample[:, mask == 1] != 0).any()


def test_device_and_dtype_moves_reach_the_program(net: nn.Sequential) -> None:
    sparsify_fx.apply(net, "signin")
    net.to(torch.float64)
    assert effective(net)["0.weight"].dtype == torch.float64
    assert programs(net)["0.weight"].current_mask().dtype == torch.uint8
    assert net.to("meta")[0].weight.device.type == "meta"


def test_channels_last_and_requires_grad_are_kept(net: nn.Sequential) -> None:
    net.to(memory_format=torch.channels_last)
    net[0].weight.requires_grad_(False)
    sparsify_fx.apply(net, "signin", sparsity=0.5)
    program = programs(net)["0.weight"]
    assert not program.m.requires_grad
    assert net[0].weight.is_contiguous(memory_format=torch.channels_last)
    sparsify_fx.merge(net)
    assert not net[0].weight.requires_grad
    assert net[3].weight.requires_grad
    assert net[0].weight.is_contiguous(memory_format=torch.channels_last)


def test_assigning_a_computed_weight_is_refused(net: nn.Sequential) -> None:
    sparsify_fx.apply(net, "signin")
    with pytest.raises(LayerError, match="computed by its weight program"):
        net[0].weight = nn.Parameter(torch.zeros(8, 3, 3, 3))
    with pytest.raises(TypeError, match="cannot assign"):
        net[0].weight = torch.zeros(8, 3, 3, 3)
    net[0].bias = nn.Parameter(torch.zeros(8))
    assert torch.equal(net[0].bias, torch.zeros(8))


def test_a_dense_checkpoint_of_another_shape_names_the_layer(
    net: nn.Sequential,
) -> None:
    sparsify_fx.apply(net, "signin")
    state = small_net().state_dict()
    state["7.weight"] = torch.zeros(5, 72)
    with pytest.raises(RuntimeError, match=r"7\.weight_program"):
        net.load_state_dict(state)
