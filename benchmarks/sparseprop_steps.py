"""Steps of SparseProp in a process of its own, whose Python has it: see `sparse_training`.

    python -m venv --system-site-packages ENVIRONMENT
    ENVIRONMENT/bin/pip install pybind11 && PATH=ENVIRONMENT/bin:$PATH ENVIRONMENT/bin/pip install \\
        --no-build-isolation sparseprop==0.1.14

It must have torch, torchvision and timm as well, and is started in this folder.
"""

from __future__ import annotations

import json
import subprocess
import sys
import time
from dataclasses import asdict
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from sparsify_fx.training_cost.setting import OPTIMIZERS, Setting

NAME = "SparseProp"


class SparsePropSteps:
    """A process that trains the model of a setting under uniform random zeros, one step at a time."""

    model: Any = None

    def __init__(self, python: str, setting: Setting, sparsity: float) -> None:
        given = json.dumps({"setting": asdict(setting), "sparsity": sparsity})
        self._process = subprocess.Popen(
            [python, "-m", "benchmarks.sparseprop_steps", given],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def step(self) -> float:
        """Processor seconds of one step."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write("step\n")
        self._process.stdin.flush()
        return float(self._process.stdout.readline())


def model_of(setting: Setting, sparsity: float, inputs: Tensor) -> nn.Module:
    """The dense model with zeros in all convolutions and linear layers, and these swapped for sparse ones."""
    from sparseprop.modules import sparsify_if_faster  # type: ignore

    model = setting.model()
    shapes: dict[nn.Module, torch.Size] = {}
    layers = [m for m in model.modules() if isinstance(m, nn.Conv2d | nn.Linear)]
    hooks = [
        layer.register_forward_pre_hook(
            lambda module, given: shapes.__setitem__(module, given[0].shape)
        )
        for layer in layers
    ]
    with torch.no_grad():
        model(inputs)
    for hook in hooks:
        hook.remove()
    generator = torch.Generator().manual_seed(setting.seed)
    for name, layer in list(model.named_modules()):
        if layer not in shapes:
            continue
        with torch.no_grad():
            draw = torch.rand(layer.weight.shape, generator=generator)
            layer.weight.mul_(draw >= sparsity)
        parent, _, own = name.rpartition(".")
        # Its own choice of dense, and of the axis that its vectors run along: it tries each layer once.
        plain = isinstance(layer, nn.Linear) or (
            layer.groups == 1
            and set(layer.dilation) == {1}
            and set(layer.stride) <= {1, 2}
        )
        made = sparsify_if_faster(layer, shapes[layer]) if plain else layer
        setattr(model.get_submodule(parent), own, made)
    return model


def main(given: str) -> None:
    torch.set_num_threads(1)
    what = json.loads(given)
    setting = Setting(**what["setting"])
    inputs, targets = setting.data()
    model = model_of(setting, what["sparsity"], inputs)
    optimizer = OPTIMIZERS[setting.optimizer](model.parameters())
    for _ in sys.stdin:
        begin = time.process_time()
        optimizer.zero_grad()
        F.cross_entropy(model(inputs), targets).backward()
        optimizer.step()
        print(time.process_time() - begin, flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
