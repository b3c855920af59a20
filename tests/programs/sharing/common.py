"""Models that read a weight several times, and how often they compute it."""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor, nn

import sparsify_fx
from sparsify_fx.programs.owners import programs


class Twice(nn.Module):
    """One layer called twice, as detection heads, RAFT and coat do it."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(6, 6)

    def forward(self, x: Tensor) -> Tensor:
        return self.layer(self.layer(x).relu())


class Encoder(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.rnn = nn.LSTM(6, 6, batch_first=True)

    def forward(self, x: Tensor) -> Tensor:
        return self.rnn(x)[0]


def made(model: nn.Module, method: str = "signin", storage: str = "auto") -> nn.Module:
    return sparsify_fx.apply(model, method, sparsity=0.5, storage=storage)


def evaluations(model: nn.Module, run: Callable[[], object]) -> dict[str, int]:
    """How often each program of `model` ran during `run()`."""
    counts = dict.fromkeys(programs(model), 0)

    def count(name: str) -> Callable[..., None]:
        def hook(*_: object) -> None:
            counts[name] += 1

        return hook

    handles = [
        program.register_forward_hook(count(name))
        for name, program in programs(model).items()
    ]
    run()
    for handle in handles:
        handle.remove()
    return counts


def gradients(model: nn.Module) -> dict[str, Tensor]:
    return {
        name: p.grad.clone()
        for name, p in model.named_parameters()
        if p.grad is not None
    }
