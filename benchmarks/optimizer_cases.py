"""Optimizers of several libraries, each built as its users would, over a small model."""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

Build = Callable[[nn.Module], list[Any]]
RATE = 1e-2
# Optimizers that need more than parameters and a rate: what to add.
_MORE: dict[str, dict[str, Any]] = {
    "pytorch_optimizer.ranger21": {"num_iterations": 1000},
    "pytorch_optimizer.bsam": {"num_data": 1000},
    "torch.SGD": {"momentum": 0.9},
    "torch.Adagrad": {"initial_accumulator_value": 0.1},
    "pytorch_optimizer.sgd": {"momentum": 0.9},
}
_WITH_MODEL = ("adammini", "lomo", "adalomo")  # take the model, not its parameters
_MATRICES_ONLY = (
    "torch.Muon",
    "pytorch_optimizer.spectralsphere",
    "pytorch_optimizer.lorarite",
)
_MUONS = (
    "adago",
    "adamuon",
    "distributedmuon",
    "muon",
    "muonclip",
    "normuon",
)  # of pytorch_optimizer: groups say which
_CLOSURES = ("lbfgs", "alig", "closure", "bsam")
_GRAPHS = ("adahessian", "sophiah")


@dataclass(frozen=True)
class Case:
    """One optimizer.

    Attributes:
        name: "timm.adamw".
        build: model -> its optimizers (several where one takes matrices only).
        closure: `step` takes a function that computes the loss.
        graph: gradients keep their graph, for second derivatives.
    """

    name: str
    build: Build
    closure: bool = False
    graph: bool = False


def cases(libraries: tuple[str, ...]) -> Iterator[Case]:
    """Every optimizer of these libraries, in their order."""
    for library in libraries:
        for name, build in LIBRARIES[library]():
            full = f"{library}.{name}"
            kind = name.lower()
            yield Case(
                full,
                build,
                any(k in kind for k in _CLOSURES),
                any(k in kind for k in _GRAPHS),
            )


def trained(model: nn.Module) -> list[nn.Parameter]:
    """The trainable parameters."""
    return [parameter for parameter in model.parameters() if parameter.requires_grad]


def _torch() -> Iterator[tuple[str, Build]]:
    for name, cls in vars(torch.optim).items():
        if (
            isinstance(cls, type)
            and issubclass(cls, torch.optim.Optimizer)
            and cls is not torch.optim.Optimizer
        ):
            yield name, _plain(f"torch.{name}", cls)


def _timm() -> Iterator[tuple[str, Build]]:
    import timm.optim

    for name in timm.optim.list_optimizers():
        yield (
            name,
            lambda model, name=name: [
                timm.optim.create_optimizer_v2(trained(model), opt=name, lr=RATE)
            ],
        )
    yield (
        "lookahead_adamw",
        lambda model: [
            timm.optim.create_optimizer_v2(
                trained(model), opt="lookahead_adamw", lr=RATE
            )
        ],
    )


def _schedulefree() -> Iterator[tuple[str, Build]]:
    import schedulefree

    for name, cls in vars(schedulefree).items():
        if not isinstance(cls, type):
            continue
        if "Wrapper" in name:
            yield (
                name,
                lambda model, cls=cls: [cls(torch.optim.SGD(trained(model), lr=RATE))],
            )
        else:
            yield name, _plain(f"schedulefree.{name}", cls)


def _pytorch_optimizer() -> Iterator[tuple[str, Build]]:
    import pytorch_optimizer

    for name in pytorch_optimizer.get_supported_optimizers():
        cls = pytorch_optimizer.load_optimizer(name)
        if name in _WITH_MODEL:
            yield name, lambda model, cls=cls: [cls(model, lr=RATE)]
        elif name in _MUONS:
            yield name, lambda model, cls=cls: [cls(_muon_groups(model), lr=RATE)]
        else:
            yield name, _plain(f"pytorch_optimizer.{name}", cls)
    for wrapper in ("Lookahead", "TRAC", "OrthoGrad"):
        cls = getattr(pytorch_optimizer, wrapper)
        yield (
            wrapper.lower(),
            lambda model, cls=cls: [cls(torch.optim.AdamW(trained(model), lr=RATE))],
        )


def _torchao() -> Iterator[tuple[str, Build]]:
    import torchao.optim

    for name in (
        "Adam8bit",
        "AdamW8bit",
        "Adam4bit",
        "AdamW4bit",
        "AdamFp8",
        "AdamWFp8",
    ):
        yield name, _plain(f"torchao.{name}", getattr(torchao.optim, name))


def _transformers() -> Iterator[tuple[str, Build]]:
    from transformers.optimization import Adafactor

    yield "Adafactor", lambda model: [Adafactor(trained(model))]
    yield (
        "Adafactor_fixed_rate",
        lambda model: [
            Adafactor(
                trained(model), lr=RATE, scale_parameter=False, relative_step=False
            )
        ],
    )


LIBRARIES: dict[str, Callable[[], Iterator[tuple[str, Build]]]] = {
    "torch": _torch,
    "timm": _timm,
    "schedulefree": _schedulefree,
    "pytorch_optimizer": _pytorch_optimizer,
    "torchao": _torchao,
    "transformers": _transformers,
}


def _plain(name: str, cls: Any) -> Build:
    """The class over all parameters; over the matrices, with AdamW for the others, where it takes these alone."""
    options = dict(_MORE.get(name, {}))
    if "lr" in inspect.signature(cls).parameters:
        options["lr"] = RATE

    def build(model: nn.Module) -> list[Any]:
        if name not in _MATRICES_ONLY:
            return [cls(trained(model), **options)]
        others = [parameter for parameter in trained(model) if parameter.dim() != 2]
        return [
            cls([p for p in trained(model) if p.dim() == 2], **options),
            torch.optim.AdamW(others, lr=RATE),
        ]

    return build


def _muon_groups(model: nn.Module) -> list[dict[str, Any]]:
    matrices = [parameter for parameter in trained(model) if parameter.dim() == 2]
    others = [parameter for parameter in trained(model) if parameter.dim() != 2]
    return [
        {"params": matrices, "use_muon": True},
        {"params": others, "use_muon": False},
    ]


def net() -> nn.Sequential:
    """Two hidden layers; one weight has 4096 entries, from which on quantised optimizers quantise."""
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Linear(16, 64),
        nn.ReLU(),
        nn.Linear(64, 64),
        nn.LayerNorm(64),
        nn.ReLU(),
        nn.Linear(64, 4),
    )


def batch(step: int) -> tuple[torch.Tensor, torch.Tensor]:
    """The inputs [32, 16] and labels [32] of a step."""
    generator = torch.Generator().manual_seed(100 + step)
    inputs = torch.randn(32, 16, generator=generator)
    return inputs, (inputs[:, :4] * math.pi).argmax(1)
