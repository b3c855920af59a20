"""A model that is trained for a comparison, and the step that is measured."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch._dynamo.utils import counters
from torch.nn import functional as F

from sparsify_fx.training_cost.setting import OPTIMIZERS, Setting


@dataclass(frozen=True)
class Case:
    """One of those that are compared: its name, and how its model is made, with the same result each time."""

    name: str
    build: Callable[[], nn.Module]


class Trainee:
    """The model of a case with its optimizer and a batch.

    Attributes:
        graphs: how many graphs torch.compile has made in its steps.

    >>> setting = Setting("lenet300", batch=2)
    >>> Trainee(Case("dense", setting.model), setting).step()
    """

    def __init__(self, case: Case, setting: Setting) -> None:
        self.name, self.setting, self.graphs = case.name, setting, 0
        self.model = case.build()
        self.optimizer = OPTIMIZERS[setting.optimizer](self.model.parameters())
        self.inputs, self.targets = setting.data()
        # Around the same module: what is compiled shares weights, masks and programs with it.
        self._forward = torch.compile(self.model) if setting.compile else self.model

    def step(self) -> None:
        """Forget the gradients, forward, backward, optimizer; on a GPU until it is done."""
        before = counters["stats"]["unique_graphs"]
        self.optimizer.zero_grad()
        self.loss().backward()  # type: ignore[no-untyped-call]
        self.optimizer.step()
        if self.inputs.is_cuda:
            torch.cuda.synchronize(self.inputs.device)
        self.graphs += int(counters["stats"]["unique_graphs"] - before)

    def loss(self) -> Tensor:
        """Cross-entropy; the penalty of a method, one more sum over the weights, is no part of it."""
        return F.cross_entropy(self._forward(self.inputs), self.targets)
