"""What sharing brings: evaluations and time of a forward, and of a forward with backward; docs/any_model.md quotes it.

    python benchmarks/shared_cost.py                  # about 4 minutes on one core
    python benchmarks/shared_cost.py --models coat_tiny gpt2

Three columns: every read of a weight is computed (sharing switched off), each layer's own forward shares (what happens
by itself), and the whole forward shares (`with sparsify_fx.shared_weights()`). Times are processor times of one thread,
the least of several repeats.
"""

from __future__ import annotations

import argparse
import contextlib
import time
from collections.abc import Callable, Iterator
from typing import Any

import timm
import torch
import torchvision
from torch import Tensor, nn

import sparsify_fx
from sparsify_fx.programs import sharing
from sparsify_fx.programs.owners import programs


class Pyramid(nn.Module):
    """RetinaNet's backbone and heads without its losses: the heads run on five levels."""

    def __init__(self) -> None:
        super().__init__()
        self.net = torchvision.models.detection.retinanet_resnet50_fpn(
            weights=None, weights_backbone=None
        )

    def forward(self, x: Tensor) -> Any:
        return self.net.head(list(self.net.backbone(x).values()))


class Language(nn.Module):
    """Two layers of GPT-2, whose embedding of 50257 words is the last layer too."""

    def __init__(self) -> None:
        super().__init__()
        import transformers

        self.net = transformers.GPT2LMHeadModel(
            transformers.GPT2Config(n_layer=2, n_embd=256, n_head=4)
        )

    def forward(self, x: Tensor) -> Any:
        return self.net(x).logits


def image(size: int, count: int = 1) -> tuple[Tensor, ...]:
    return tuple(torch.randn(2, 3, size, size) for _ in range(count))


MODELS: dict[str, tuple[Callable[[], nn.Module], Callable[[], tuple[Tensor, ...]]]] = {
    "nf_regnet_b0": (lambda: timm.create_model("nf_regnet_b0"), lambda: image(192)),
    "resnetv2_50x1_bit": (
        lambda: timm.create_model("resnetv2_50x1_bit"),
        lambda: image(224),
    ),
    "sequencer2d_s": (lambda: timm.create_model("sequencer2d_s"), lambda: image(224)),
    "lstm": (
        lambda: nn.Sequential(nn.LSTM(256, 256, num_layers=2)),
        lambda: (torch.randn(16, 2, 256),),
    ),
    "coat_tiny": (lambda: timm.create_model("coat_tiny"), lambda: image(224)),
    "raft_small": (torchvision.models.optical_flow.raft_small, lambda: image(128, 2)),
    "retinanet": (Pyramid, lambda: image(256)),
    "gpt2": (Language, lambda: (torch.randint(0, 1000, (2, 32)),)),
}


def total(outputs: Any) -> Tensor:
    """The mean square of everything that a model returned."""
    if isinstance(outputs, Tensor):
        return outputs.float().square().mean()
    parts = outputs.values() if isinstance(outputs, dict) else outputs
    return torch.stack([total(part) for part in parts]).sum()


@contextlib.contextmanager
def mode(name: str) -> Iterator[None]:
    """One of the three columns."""
    usual = sharing._shareable
    if name == "off":
        sharing._shareable = lambda: False
    try:
        with (
            sharing.shared_weights()
            if name == "whole forward"
            else contextlib.nullcontext()
        ):
            yield
    finally:
        sharing._shareable = usual


def once(
    model: nn.Module, inputs: tuple[Tensor, ...], name: str, training: bool
) -> float:
    start = time.process_time()
    with torch.set_grad_enabled(training):
        with mode(name):
            outputs = model(*inputs)
        if training:
            total(outputs).backward()
            model.zero_grad()
    return time.process_time() - start


def evaluations(model: nn.Module, inputs: tuple[Tensor, ...], name: str) -> int:
    ran: list[None] = []
    handles = [
        p.register_forward_hook(lambda *_: ran.append(None))
        for p in programs(model).values()
    ]
    with torch.no_grad(), mode(name):
        model(*inputs)
    for handle in handles:
        handle.remove()
    return len(ran)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--models", nargs="+", choices=MODELS, default=list(MODELS))
    parser.add_argument("--repeats", type=int, default=4)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    names = ("off", "one layer", "whole forward")
    print(
        "| model | weights | evaluations | forward, ms | forward and backward, ms |\n|---|---|---|---|---|"
    )
    for key in arguments.models:
        make, inputs = MODELS[key][0], MODELS[key][1]()
        model = sparsify_fx.apply(make(), "signin", sparsity=0.0).train()
        counts = [evaluations(model, inputs, name) for name in names]
        cells = []
        for training in (False, True):
            times: dict[str, list[float]] = {name: [] for name in names}
            for _ in range(
                arguments.repeats + 1
            ):  # in turns, so that a slow spell of the machine hits all three
                for name in names:
                    times[name].append(once(model, inputs, name, training))
            cells.append(
                " / ".join(f"{1000 * min(times[name][1:]):.0f}" for name in names)
            )
        print(
            f"| {key} | {len(programs(model))} | {' / '.join(map(str, counts))} | {cells[0]} | {cells[1]} |",
            flush=True,
        )


if __name__ == "__main__":
    main()
