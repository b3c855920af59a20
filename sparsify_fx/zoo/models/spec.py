"""What every model of the zoo is built from, and the table of the zoo's own models."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from torch import nn

from sparsify_fx.errors import ConfigError
from sparsify_fx.registry import Registry


@dataclass(frozen=True)
class ModelSpec:
    """The task that a model is built for; ConfigError for a number below 1.

    Attributes:
        num_classes: length of the output.
        in_channels: channels of the images.
        image_size: height and width of the images in pixels.

    >>> ModelSpec(num_classes=10, in_channels=1, image_size=28).image_size
    28
    """

    num_classes: int
    in_channels: int = 3
    image_size: int = 32

    def __post_init__(self) -> None:
        for field in ("num_classes", "in_channels", "image_size"):
            value = getattr(self, field)
            # Python counts True as 1, and a model of True classes would be built.
            if isinstance(value, bool) or not isinstance(value, int) or value < 1:
                raise ConfigError(
                    f"{field}={value!r} of a model must be a whole number >= 1"
                )

    def require_size(self, model: str, least: int) -> None:
        """ConfigError when the images are smaller than `least` pixels a side, the least that `model` takes."""
        if self.image_size < least:
            raise ConfigError(
                f"{model} needs images of at least {least}x{least} pixels, got {self.image_size}x{self.image_size}; "
                "give a larger image_size or choose another model"
            )


ModelBuilder = Callable[[ModelSpec], nn.Module]

MODELS = Registry[ModelBuilder]("model")
"""The zoo's own models: name -> function from a ModelSpec to a model on the CPU."""
