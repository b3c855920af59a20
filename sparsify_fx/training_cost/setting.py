"""What is trained, and how: the work, its batch, the optimizer, the device."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from sparsify_fx.errors import ConfigError, unknown
from sparsify_fx.zoo.models import MODELS, build_model

_CLASSES = 10
_WIDTHS = (1024, 2048, 2048, _CLASSES)
_Parameters = Iterable[nn.Parameter]
# Small rates: data and targets are noise, and the weights shall stay as large as they are in a training.
OPTIMIZERS: dict[str, Callable[[_Parameters], Optimizer]] = {
    "sgd-momentum": lambda given: torch.optim.SGD(given, lr=1e-3, momentum=0.9),
    "adamw": lambda given: torch.optim.AdamW(given, lr=1e-4),
}


@dataclass(frozen=True)
class Setting:
    """One training, the same for all that are compared in it.

    Attributes:
        work: "mlp" (1024-2048-2048-10), or a model of the zoo, torchvision or timm by name.
        batch: rows of a batch, at least 2.
        optimizer: a key of `OPTIMIZERS`.
        compile: whether the model goes through `torch.compile`.
        seed: of weights, data and masks.
        device: "cpu", "cuda", "cuda:1", ...
        image_size: side of the images; None: 32 for the zoo's models and 224 for others.

    Raises ConfigError and UnknownNameError for what cannot be.

    >>> Setting("resnet20").size
    32
    """

    work: str = "mlp"
    batch: int = 64
    optimizer: str = "sgd-momentum"
    compile: bool = False
    seed: int = 0
    device: str = "cpu"
    image_size: int | None = None

    def __post_init__(self) -> None:
        if self.optimizer not in OPTIMIZERS:
            raise unknown("optimizer", self.optimizer, OPTIMIZERS)
        # Batch norm refuses a batch of one value for each channel, as some models have at their end.
        if self.batch < 2:
            raise ConfigError(f"batch={self.batch} must be at least 2")
        try:
            torch.empty(1, device=self.device)
        except (RuntimeError, AssertionError) as error:
            reason = str(error).splitlines()[0]
            raise ConfigError(
                f"device={self.device!r} cannot be used here ({reason}); give cpu, or cuda on a machine that has it"
            ) from error

    @property
    def size(self) -> int:
        """The side of the images in pixels."""
        return self.image_size or (32 if self.work in MODELS else 224)

    def model(self) -> nn.Module:
        """A new dense model in training mode, on the device; always with the same weights."""
        torch.manual_seed(self.seed)
        if self.work != "mlp":
            model = build_model(self.work, num_classes=_CLASSES, image_size=self.size)
            return model.to(self.device).train()
        layers: list[nn.Module] = []
        for width, following in itertools.pairwise(_WIDTHS):
            layers += [nn.Linear(width, following), nn.ReLU()]
        return nn.Sequential(*layers[:-1]).to(self.device).train()

    def data(self, batch: int | None = None) -> tuple[Tensor, Tensor]:
        """Noise as inputs, and classes; of another number of rows, if one is given."""
        rows = batch or self.batch
        generator = torch.Generator().manual_seed(self.seed + 1)
        one = (_WIDTHS[0],) if self.work == "mlp" else (3, self.size, self.size)
        inputs = torch.randn(rows, *one, generator=generator)
        targets = torch.randint(0, _CLASSES, (rows,), generator=generator)
        return inputs.to(self.device), targets.to(self.device)

    def to_dict(self) -> dict[str, Any]:
        """The same as plain values, for JSON."""
        return asdict(self)
