"""timm's own layers, and parents that read a weight and never call its owner."""

from __future__ import annotations

import copy
import pickle
from collections.abc import Callable

import pytest
import timm.layers
import torch
from timm.layers.cond_conv2d import CondConv2d
from timm.models import beit, eva, swiftformer, swin_transformer, swin_transformer_v2
from torch import Tensor, nn

import sparsify_fx
from sparsify_fx.programs.owners import original_class, programs
from tests.conftest import effective


class Routed(nn.Module):
    """Experts mixed per sample, as CondConv networks call them."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = CondConv2d(4, 6, 3, num_experts=3)
        self.routing = nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(x, self.routing(x.mean((2, 3))).sigmoid())


class Windows(nn.Module):
    """A swin attention on 4x4 windows of 16 tokens."""

    def __init__(self, attention: nn.Module) -> None:
        super().__init__()
        self.attention = attention

    def forward(self, x: Tensor) -> Tensor:
        return self.attention(x)


IMAGE, TOKENS = (2, 4, 8, 8), (2, 16, 8)
# name: the module, the shape of its inputs, and what would go wrong if only calls of the owner were rewritten.
LAYERS: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...], set[str]]] = {
    # Standardized from the stored weight: the mean and variance must be those of the masked one.
    "StdConv2d": (lambda: timm.layers.StdConv2d(4, 6, 3), IMAGE, {"weight"}),
    "StdConv2dSame": (lambda: timm.layers.StdConv2dSame(4, 6, 3), IMAGE, {"weight"}),
    "ScaledStdConv2d": (
        lambda: timm.layers.ScaledStdConv2d(4, 6, 3),
        IMAGE,
        {"weight"},
    ),
    "ScaledStdConv2dSame": (
        lambda: timm.layers.ScaledStdConv2dSame(4, 6, 3),
        IMAGE,
        {"weight"},
    ),
    # Subclasses with a forward of their own.
    "Conv2dSame": (
        lambda: timm.layers.Conv2dSame(4, 6, 3, stride=2),
        IMAGE,
        {"weight"},
    ),
    "MixedConv2d": (
        lambda: timm.layers.MixedConv2d(4, 6, [3, 5]),
        IMAGE,
        {"0.weight", "1.weight"},
    ),
    "Linear": (lambda: timm.layers.Linear(8, 4), TOKENS, {"weight"}),
    # No convolution by class, its weight has two dimensions, and every sample has another mixture.
    "CondConv2d": (Routed, IMAGE, {"conv.weight", "routing.weight"}),
    # The parent calls F.linear with `qkv.weight`; `qkv` itself is never called, so a hook on it would never run.
    "beit": (
        lambda: beit.Attention(8, 2, qkv_bias=True),
        TOKENS,
        {"qkv.weight", "proj.weight"},
    ),
    "beit with positions": (
        lambda: beit.Attention(8, 2, qkv_bias=True, window_size=(3, 5)),
        TOKENS,
        {"qkv.weight", "proj.weight"},
    ),
    "eva, dinov3": (
        lambda: eva.EvaAttention(
            8, 2, qkv_bias=True, num_prefix_tokens=0, scale_norm=False
        ),
        TOKENS,
        {"qkv.weight", "proj.weight"},
    ),
    "swin": (
        lambda: Windows(swin_transformer.WindowAttention(8, 2, window_size=4)),
        TOKENS,
        {"attention.qkv.weight", "attention.proj.weight"},
    ),
    "swin v2": (
        lambda: Windows(swin_transformer_v2.WindowAttention(8, (4, 4), 2)),
        TOKENS,
        {
            "attention.qkv.weight",
            "attention.proj.weight",
            "attention.cpb_mlp.0.weight",
            "attention.cpb_mlp.2.weight",
        },
    ),
}


def build(name: str) -> tuple[nn.Module, Tensor]:
    torch.manual_seed(0)
    make, shape, _ = LAYERS[name]
    return make(), torch.randn(shape)


@pytest.mark.parametrize("name", LAYERS)
def test_the_output_is_that_of_the_effective_weight(name: str) -> None:
    model, inputs = build(name)
    classes = [type(module) for module in model.modules()]
    expected = model(inputs)
    sparsify_fx.apply(model, "signin", sparsity=0.0)
    assert set(programs(model)) == LAYERS[name][2]
    assert [
        original_class(m) for m in model.modules() if not hasattr(m, "graph")
    ] == classes
    torch.testing.assert_close(model(inputs), expected, rtol=1e-5, atol=1e-5)
    for key, program in programs(model).items():
        theta = program.theta()
        program.write(
            theta * torch.linspace(0.5, 2.0, theta.numel()).reshape(theta.shape)
        )
        changed = model(inputs)
        assert not torch.allclose(changed, expected, rtol=1e-4, atol=1e-6), (
            f"{key} is not what the forward reads"
        )
        program.write(theta)


@pytest.mark.parametrize("storage", ["full", "living"])
@pytest.mark.parametrize("name", LAYERS)
def test_it_equals_the_merged_model_and_trains_its_living_weights_only(
    name: str, storage: str
) -> None:
    model, inputs = build(name)
    keys, classes = (
        list(model.state_dict()),
        [type(module) for module in model.modules()],
    )
    sparsify_fx.apply(model, "signin", sparsity=0.5, storage=storage)
    model(inputs).square().sum().backward()
    for key, program in programs(model).items():
        mask = program.current_mask()
        assert mask is not None
        for factor in program.factor_tensors().values():
            assert factor.grad is not None, key
            gradient = program.restored(factor.grad)
            assert gradient.isfinite().all()
            assert (gradient[mask == 0] == 0).all()
            assert (gradient[mask == 1] != 0).any()
    torch.optim.SGD(model.parameters(), lr=0.01).step()
    expected, weights = model(inputs), effective(model)
    for twin in (copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
        torch.testing.assert_close(twin(inputs), expected, rtol=0, atol=0)
    sparsify_fx.merge(model)
    assert [type(module) for module in model.modules()] == classes
    assert list(model.state_dict()) == keys
    assert all(
        torch.equal(model.get_parameter(key), weight) for key, weight in weights.items()
    )
    torch.testing.assert_close(model(inputs), expected, rtol=1e-5, atol=1e-6)


@pytest.mark.filterwarnings(
    "ignore::sparsify_fx.errors.UnfinishedWarning"
)  # masks of its own
def test_raw_matrices_are_pruned_on_request() -> None:
    """swiftformer's `w_g` belongs to no layer; it is left alone unless it is named."""
    torch.manual_seed(0)
    model, inputs = (
        swiftformer.EfficientAdditiveAttention(8, 8),
        torch.randn(2, 8, 4, 4),
    )
    expected = model(inputs)
    layers = {"to_query.weight", "to_key.weight", "proj.weight", "final.weight"}
    assert (
        set(programs(sparsify_fx.apply(copy.deepcopy(model), "random", sparsity=0.5)))
        == layers
    )
    sparsify_fx.apply(model, "signin", sparsity=0.0, include=["*.weight", "w_g"])
    assert set(programs(model)) == layers | {"w_g"}
    torch.testing.assert_close(model(inputs), expected, rtol=1e-5, atol=1e-5)
    program = programs(model)["w_g"]
    program.set_mask(torch.arange(8).reshape(program.theta().shape) % 2)
    model(inputs).square().sum().backward()
    gradient = program.restored(program.w.grad)
    assert (gradient[program.current_mask() == 0] == 0).all()
    assert (gradient != 0).any()
    sparsify_fx.merge(model)
    assert int((model.w_g != 0).sum()) == 4


def test_standardized_weights_fill_their_zeros_again() -> None:
    """What docs/any_model.md says: the stored weight is sparse, the one that timm convolves with is not."""
    layer = sparsify_fx.apply(timm.layers.StdConv2d(4, 6, 3), "random", sparsity=0.5)
    used = []
    layer.register_forward_hook(lambda module, args, output: used.append(output))
    impulse = torch.zeros(1, 4, 5, 5)
    impulse[0, 0, 2, 2] = 1
    layer(impulse)
    assert int((layer.weight[:, 0] == 0).sum()) > 0
    assert int((used[0][:, :, 1:4, 1:4] == 0).sum()) == 0
