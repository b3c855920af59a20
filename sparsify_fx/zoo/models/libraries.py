"""The models of torchvision and timm by name, always without pretrained weights."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, get_type_hints

from torch import nn

from sparsify_fx.errors import ConfigError
from sparsify_fx.registry import Registry
from sparsify_fx.zoo.models.spec import ModelSpec

# Both libraries are imported on use: together they take more than a second, and the zoo's own models do without.


@dataclass(frozen=True)
class Library:
    """Where further models come from.

    Attributes:
        names: lists the names of its classification models.
        holds: whether it knows a name (timm also takes names with a tag of weights, `resnet50.a1_in1k`).
        build: the model of a name that it holds.
    """

    names: Callable[[], list[str]]
    holds: Callable[[str], bool]
    build: Callable[[str, ModelSpec], nn.Module]


LIBRARIES = Registry[Library]("model library")


def build_from(library: str, name: str, spec: ModelSpec) -> nn.Module:
    """A model of a library that holds its name; ConfigError when it cannot be built for this spec."""
    # Constructors of the libraries check their arguments with asserts, conversions or not at all.
    try:
        return LIBRARIES[library].build(name, spec)
    except ConfigError:
        raise
    except (AssertionError, TypeError, ValueError, RuntimeError) as error:
        raise ConfigError(
            f"{library} cannot build {name} for {spec}: {error}; choose another model or image_size"
        ) from error


def _torchvision_names() -> list[str]:
    from torchvision import models

    # The module argument leaves out detection, segmentation, video and quantized models.
    names: list[str] = models.list_models(module=models)
    return names


def _torchvision_model(name: str, spec: ModelSpec) -> nn.Module:
    from torchvision import models

    # Its builders have no argument for that; a first layer put in afterwards would be a model of our own.
    if spec.in_channels != 3:
        raise ConfigError(
            f"torchvision:{name} takes images of 3 channels, these have {spec.in_channels}; "
            "use a timm model (timm:NAME) or one of the zoo's own"
        )
    builder = models.get_model_builder(name)
    model: nn.Module = builder(
        weights=None,
        num_classes=spec.num_classes,
        **_torchvision_options(builder, spec),
    )
    return model


def _torchvision_options(
    builder: Callable[..., nn.Module], spec: ModelSpec
) -> dict[str, Any]:
    """Fixed image sizes of transformers; one output instead of three, and no warning, for the two Inceptions."""
    from torchvision import models

    # By the class that a builder says it returns: the names of its variants grow with every version.
    options: dict[type, dict[str, Any]] = {
        models.VisionTransformer: {"image_size": spec.image_size},
        models.MaxVit: {"input_size": (spec.image_size, spec.image_size)},
        models.GoogLeNet: {"aux_logits": False, "init_weights": True},
        models.Inception3: {"aux_logits": False, "init_weights": True},
    }
    return options.get(get_type_hints(builder)["return"], {})


def _timm_names() -> list[str]:
    import timm

    return timm.list_models()


def _timm_holds(name: str) -> bool:
    import timm

    return timm.is_model(name)


def _timm_model(name: str, spec: ModelSpec) -> nn.Module:
    import timm

    # From timm's own table: nothing is downloaded for it.
    pretrained_cfg = timm.get_pretrained_cfg(name)
    # Convolutional models take any size and have no such argument; timm marks the others.
    fixed = pretrained_cfg is not None and pretrained_cfg.fixed_input_size
    size: dict[str, Any] = {"img_size": spec.image_size} if fixed else {}
    return timm.create_model(
        name,
        pretrained=False,
        num_classes=spec.num_classes,
        in_chans=spec.in_channels,
        **size,
    )


LIBRARIES.add(
    "torchvision",
    Library(
        _torchvision_names,
        lambda name: name in _torchvision_names(),
        _torchvision_model,
    ),
)
LIBRARIES.add("timm", Library(_timm_names, _timm_holds, _timm_model))
