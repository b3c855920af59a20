"""How `imp-lenet5` starts, trains and prunes: our way, and that of the code that [Zhang 2021] names for Fig. 7.

Of the code, github.com/rahulvigneswaran/Lottery-Ticket-Hypothesis-in-Pytorch, everything here was read in its main.py
and archs/mnist/LeNet5.py at commit 34a8c96 (2021-11-11), nothing is from memory. The paper says "percentage of weights
to be pruned after each cycle is 20 %, and other parameters are set as default values".
"""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass, replace

import torch
from torch import nn

from sparsify_fx.initializations import xavier_normal
from sparsify_fx.programs.owners import programs
from sparsify_fx.zoo.models import build_model

# The code freezes a weight's gradient where the weight is below this. It means pruned ones, but leaves out the absolute
# value, so that negative weights are frozen too; weight decay alone then moves them, and Adam makes that whole steps.
LEAST = 1e-6


@dataclass(frozen=True)
class Protocol:
    """How a net is started, trained and pruned.

    net: "lenet5" of the zoo, or "conv2"; layerwise: each layer loses a fifth of its weights, or the smallest of all
    layers go; decay: Adam's L2 in the gradient; normal: weights by Xavier's normal and biases from N(0, 1), or
    PyTorch's own; first_rate: of the first cycle; epochs: of each cycle, or None for `Size.steps` steps; best: the
    accuracy is the best of those at the start of each epoch, or that of the end; positive_only: weights below `LEAST`
    get no gradient but that of the decay.
    """

    name: str
    net: str = "lenet5"
    layerwise: bool = False
    decay: float = 0.0
    normal: bool = False
    rate: float = 1.2e-3
    first_rate: float = 1.2e-3
    epochs: int | None = None
    best: bool = False
    positive_only: bool = False


OURS = Protocol("ours")
CODE = Protocol(
    "the code",
    net="conv2",
    layerwise=True,
    decay=1e-4,
    normal=True,
    first_rate=1e-3,
    epochs=100,
    best=True,
    positive_only=True,
)
MENDED = replace(CODE, name="the code, all gradients", positive_only=False)


def build_net(protocol: Protocol) -> nn.Module:
    """The net for digits of 28x28 pixels, with its first weights from torch's global generator."""
    model: nn.Module
    if protocol.net == "conv2":
        model = conv2()
    else:
        model = build_model(protocol.net, num_classes=10, in_channels=1, image_size=28)
    if protocol.normal:
        xavier_normal(model, torch.default_generator)
        for name, bias in model.named_parameters():
            if name.endswith("bias"):
                nn.init.normal_(bias)
    return model


def conv2() -> nn.Sequential:
    """What the code calls LeNet5: Conv-2 of [Frankle 2019], 3.3 million weights and 74 times the zoo's LeNet-5."""
    layers = OrderedDict[str, nn.Module](
        conv1=nn.Conv2d(1, 64, 3, padding=1),
        relu1=nn.ReLU(),
        conv2=nn.Conv2d(64, 64, 3, padding=1),
        relu2=nn.ReLU(),
        pool=nn.MaxPool2d(2),
        flatten=nn.Flatten(),
        fc1=nn.Linear(64 * 14 * 14, 256),
        relu3=nn.ReLU(),
        fc2=nn.Linear(256, 256),
        relu4=nn.ReLU(),
        fc3=nn.Linear(256, 10),
    )
    return nn.Sequential(layers)


def freeze_small(model: nn.Module) -> None:
    """Take the gradients of all weights below `LEAST`, negative ones among them, as the code does."""
    for program in programs(model).values():
        for weight in program.factor_tensors().values():
            if weight.grad is not None:
                weight.grad.masked_fill_(weight.detach() < LEAST, 0.0)
