"""Code of a user, which the tests name by import path."""

from __future__ import annotations

import random

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.data import Dataset

from sparsify_fx.zoo.data import Data, Request, load_data


def net(num_classes: int, image_size: int, in_channels: int = 1) -> nn.Module:
    """Two layers."""
    pixels = in_channels * image_size**2
    return nn.Sequential(
        nn.Flatten(), nn.Linear(pixels, 16), nn.ReLU(), nn.Linear(16, num_classes)
    )


def no_net(num_classes: int) -> int:
    """No model."""
    return num_classes


class Sluggish(torch.optim.SGD):
    """SGD by another name."""


class Noisy(Dataset[tuple[Tensor, int]]):
    """Gray images whose label is their brightness, with noise from all three generators."""

    def __init__(self, count: int) -> None:
        self.targets = [index % 4 for index in range(count)]

    def __len__(self) -> int:
        return len(self.targets)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        noise = torch.rand(1, 8, 8) + random.random() + float(np.random.rand())
        return self.targets[index] + 0.1 * noise, self.targets[index]


def noisy() -> tuple[Noisy, Noisy]:
    """80 images to train on, 20 to test on."""
    return Noisy(80), Noisy(20)


def digits(request: Request) -> Data:
    """Data of the package, as the request wants them."""
    return load_data("mnist5k", image_size=request.image_size)


def nothing() -> None:
    """No data."""
