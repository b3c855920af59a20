"""The zoo's own models against published sizes, the compilers, and the lookup in torchvision and timm."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import nn

from sparsify_fx.errors import ConfigError, UnknownNameError
from sparsify_fx.zoo.models import MODELS, ModelSpec, build_model
from sparsify_fx.zoo.models.resnet_cifar import BasicBlock

pytestmark = pytest.mark.slow

MNIST = ModelSpec(num_classes=10, in_channels=1, image_size=28)
CIFAR = ModelSpec(num_classes=10, in_channels=3, image_size=32)
OWN = {
    "lenet5": (MNIST, 44_426),
    "lenet300": (MNIST, 266_610),
    "lenet5-bn": (MNIST, 80_378),
    "resnet20": (CIFAR, 269_722),
    "resnet18-cifar": (CIFAR, 11_173_962),
    "resnet50-cifar": (CIFAR, 23_520_842),
    "vgg16_bn-cifar": (CIFAR, 14_724_042),
}


def own(name: str) -> tuple[nn.Module, torch.Tensor]:
    """A seeded model and two inputs for it."""
    torch.manual_seed(0)
    spec = OWN[name][0]
    return MODELS[name](spec).eval(), torch.randn(
        2, spec.in_channels, spec.image_size, spec.image_size
    )


def test_every_own_model_is_listed_here() -> None:
    assert set(OWN) == set(MODELS)


@pytest.mark.parametrize("name", OWN)
def test_own_model_shape_size_trace_and_compile(name: str) -> None:
    model, x = own(name)
    assert sum(p.numel() for p in model.parameters()) == OWN[name][1]
    with torch.no_grad():
        y = model(x)
        assert y.shape == (2, 10)
        assert torch.equal(torch.fx.symbolic_trace(model)(x), y)
        torch._dynamo.reset()
        assert torch.equal(torch.compile(model, backend="eager", fullgraph=True)(x), y)


@pytest.mark.parametrize("name", ["lenet5-bn", "resnet20"])
def test_own_model_exports_to_onnx(name: str, tmp_path: Path) -> None:
    import onnxruntime

    model, x = own(name)
    torch.onnx.export(
        model,
        (x,),
        tmp_path / "model.onnx",
        dynamo=True,
        verbose=False,
        external_data=False,
    )
    session = onnxruntime.InferenceSession(tmp_path / "model.onnx")
    (y,) = session.run(None, {session.get_inputs()[0].name: x.numpy()})
    torch.testing.assert_close(
        torch.from_numpy(y), model(x).detach(), rtol=1e-4, atol=1e-5
    )


@pytest.mark.parametrize(
    ("name", "least"),
    [("lenet5", 16), ("lenet5-bn", 16), ("resnet20", 4), ("vgg16_bn-cifar", 32)],
)
def test_smallest_images(name: str, least: int) -> None:
    model = build_model(name, num_classes=3, in_channels=2, image_size=least).eval()
    assert model(torch.zeros(1, 2, least, least)).shape == (1, 3)
    with pytest.raises(
        ConfigError,
        match=rf"{name} needs images of at least {least}x{least} pixels, got",
    ):
        build_model(name, num_classes=3, in_channels=2, image_size=least - 1)


def test_lenet5_on_colour_has_the_known_size() -> None:
    model = build_model("lenet5", num_classes=10)
    assert sum(p.numel() for p in model.parameters()) == 62_006


def test_shortcut_keeps_the_input_in_the_middle_channels() -> None:
    x = torch.randn(1, 16, 8, 8)
    shortcut = BasicBlock(16, 32, 2).shortcut(x)
    assert torch.equal(shortcut[:, 8:24], x[:, :, ::2, ::2])
    assert not shortcut[:, :8].any()
    assert not shortcut[:, 24:].any()


def test_small_stem_keeps_the_resolution() -> None:
    model, x = own("resnet18-cifar")
    assert model.get_submodule("conv1")(x).shape == (2, 64, 32, 32)
    assert isinstance(model.get_submodule("maxpool"), nn.Identity)


@pytest.mark.parametrize(
    ("name", "module", "channels"),
    [
        ("torchvision:resnet18", "torchvision", 3),
        ("resnet18", "torchvision", 3),
        ("torchvision:vit_b_32", "torchvision", 3),
        ("timm:resnet18", "timm", 1),
        ("resnet18.a1_in1k", "timm", 1),
        ("vit_tiny_patch16_224", "timm", 1),
    ],
)
def test_library_models(name: str, module: str, channels: int) -> None:
    model = build_model(name, num_classes=7, in_channels=channels, image_size=64).eval()
    assert type(model).__module__.startswith(module)
    with torch.no_grad():
        assert model(torch.zeros(1, channels, 64, 64)).shape == (1, 7)


def test_googlenet_returns_one_output_in_training() -> None:
    model = build_model("googlenet", num_classes=5, image_size=64)
    assert model(torch.zeros(2, 3, 64, 64)).shape == (2, 5)


@pytest.mark.parametrize(
    ("name", "hint"),
    [
        ("lenet-5", "'lenet5'"),
        ("resnet20-cifar", "'resnet50-cifar'"),
        ("resnext50_32x4", "'resnext50_32x4d'"),
        ("vit_tiny_patch16_22", "'vit_tiny_patch16_224'"),
        ("timm:resnet-18", "'resnet18'"),
        ("jax:resnet18", "unknown model library 'jax'"),
    ],
)
def test_unknown_names_suggest(name: str, hint: str) -> None:
    with pytest.raises(UnknownNameError) as caught:
        build_model(name, num_classes=10)
    assert hint in str(caught.value)
    assert len(str(caught.value)) < 400


def test_torchvision_takes_three_channels_only() -> None:
    with pytest.raises(
        ConfigError,
        match="torchvision:resnet18 takes images of 3 channels, these have 1; use a timm",
    ):
        build_model("torchvision:resnet18", num_classes=10, in_channels=1)


def test_a_library_model_that_does_not_fit_the_images() -> None:
    with pytest.raises(
        ConfigError, match=r"torchvision cannot build vit_b_32 for .*image_size=33"
    ):
        build_model("torchvision:vit_b_32", num_classes=10, image_size=33)


@pytest.mark.parametrize("field", ["num_classes", "in_channels", "image_size"])
def test_spec_needs_positive_numbers(field: str) -> None:
    with pytest.raises(ConfigError, match=f"{field}=0"):
        ModelSpec(**{"num_classes": 10, field: 0})
