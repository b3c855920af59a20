"""Small nets of one coupling each, and channels made unread."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from sparsify_fx.coupling.classes import Ids
from sparsify_fx.coupling.groups import Coupling


class Residual(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3, padding=1)
        self.norm = nn.BatchNorm2d(8)
        self.inner = nn.Conv2d(8, 6, 3, padding=1)
        self.outer = nn.Conv2d(6, 8, 3, padding=1)
        self.head = nn.Linear(8 * 16, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = functional.relu(self.norm(self.stem(x)))
        x = x + self.outer(functional.relu(self.inner(x)))
        return self.head(functional.max_pool2d(x, 2).flatten(1))


class Concatenation(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Conv2d(3, 4, 3), nn.Conv2d(3, 6, 3)
        self.head = nn.Conv2d(10, 5, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(torch.cat([self.a(x), self.b(x)], 1)).mean((2, 3))


class Depthwise(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.expand = nn.Conv2d(3, 8, 1)
        self.depth = nn.Conv2d(8, 8, 3, groups=8, padding=1)
        self.grouped = nn.Conv2d(8, 12, 3, groups=4)
        self.norm = nn.GroupNorm(4, 12)
        self.head = nn.Conv2d(12, 5, 1)

    def forward(self, x: Tensor) -> Tensor:
        x = functional.relu6(self.depth(self.expand(x)))
        return self.head(self.norm(self.grouped(x))).amax((2, 3))


class Attention(nn.Module):
    """Heads by a joint projection, with the size of the heads written in the module."""

    def __init__(self) -> None:
        super().__init__()
        self.heads, self.width = 4, 6
        self.qkv = nn.Linear(10, 3 * 24)
        self.out = nn.Linear(24, 10)
        self.norm = nn.LayerNorm(10)

    def forward(self, x: Tensor) -> Tensor:
        b, n, _ = x.shape
        y = self.qkv(self.norm(x)).view(b, n, 3, self.heads, self.width)
        q, k, v = y.permute(2, 0, 3, 1, 4).unbind(0)
        weights = (q @ k.transpose(-2, -1) / self.width**0.5).softmax(-1)
        return x + self.out((weights @ v).transpose(1, 2).reshape(b, n, -1))


class Gated(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.gate, self.up = nn.Linear(6, 9), nn.Linear(6, 9)
        self.both, self.down = nn.Linear(6, 14), nn.Linear(9, 6)
        self.last = nn.Linear(7, 6)

    def forward(self, x: Tensor) -> Tensor:
        y = self.down(functional.silu(self.gate(x)) * self.up(x))
        a, b = self.both(x).chunk(2, dim=-1)
        return y + self.last(a * b.sigmoid())


class Tied(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first, self.middle = nn.Linear(5, 7), nn.Linear(7, 7)
        self.again, self.last = nn.Linear(7, 7), nn.Linear(7, 3)
        self.again.weight = self.middle.weight

    def forward(self, x: Tensor) -> Tensor:
        x = functional.relu(self.middle(functional.relu(self.first(x))))
        return self.last(functional.relu(self.again(x)))


class Unknown(nn.Module):
    """Sorting along the channels is understood by no rule."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(5, 7), nn.Linear(7, 6)
        self.last = nn.Linear(6, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.last(functional.relu(self.second(self.first(x).sort(-1).values)))


class Scaled(nn.Module):
    """A scale by channel that is reshaped before it is used, as layer scales are."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.last = nn.Conv2d(3, 8, 1), nn.Conv2d(8, 5, 1)
        self.scale = nn.Parameter(torch.rand(8) + 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.last(self.first(x) * self.scale.reshape(1, -1, 1, 1))


class Helped(nn.Module):
    """A second head that only training uses."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.last = nn.Linear(5, 8), nn.Linear(8, 3)
        self.helper = nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = functional.relu(self.first(x))
        return self.last(x) + self.helper(x) if self.training else self.last(x)


class Normed(nn.Module):
    """Queries and keys are normalized in each head, and the products are written with letters."""

    def __init__(self) -> None:
        super().__init__()
        self.heads, self.width = 4, 6
        self.q, self.k, self.v = (nn.Linear(10, 24) for _ in range(3))
        self.norm = nn.LayerNorm(6)
        self.out = nn.Linear(24, 10)

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = (
            layer(x).unflatten(-1, (self.heads, self.width))
            for layer in (self.q, self.k, self.v)
        )
        q, k = self.norm(q), functional.normalize(k, dim=-1)
        weights = torch.einsum("bnhd,bmhd->bhnm", q, k).softmax(-1)
        return self.out(torch.einsum("bhnm,bmhd->bnhd", weights, v).flatten(2))


class Padded(nn.Module):
    """A shortcut that is padded to more channels, and a layer that is cut into pieces of sizes in a list."""

    def __init__(self) -> None:
        super().__init__()
        self.more, self.sizes = 4, [6, 6, 4]
        self.stem, self.wide = nn.Conv2d(3, 8, 1), nn.Conv2d(8, 12, 3, padding=1)
        self.cut, self.last = nn.Conv2d(12, 16, 1), nn.Conv2d(16, 5, 1)

    def forward(self, x: Tensor) -> Tensor:
        x = functional.relu(self.stem(x))
        x = functional.pad(x, (0, 0, 0, 0, 0, self.more)) + self.wide(x)
        a, b, c = torch.split(self.cut(x), self.sizes, 1)
        return self.last(torch.cat([a.sigmoid(), b * 2, c.relu()], 1)).mean((2, 3))


class Tokens(nn.Module):
    """A layer over tokens within channels that are gated."""

    def __init__(self) -> None:
        super().__init__()
        self.both, self.down = nn.Linear(6, 16), nn.Linear(8, 6)
        self.mix = nn.Linear(7, 7)

    def forward(self, x: Tensor) -> Tensor:
        a, b = self.both(x).chunk(2, dim=-1)
        return self.down(a * self.mix(b.transpose(1, 2)).transpose(1, 2))


class Parts(nn.Module):
    """A model whose middle cannot be traced; the parts before and behind it can."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Linear(5, 9), nn.ReLU(), nn.Linear(9, 7))
        self.head = nn.Sequential(nn.Linear(7, 8), nn.ReLU(), nn.Linear(8, 3))

    def forward(self, x: Tensor) -> Tensor:
        x = self.body(x)
        return self.head(x * (2 if float(x.detach().sum()) > 0 else 3))


class Untraceable(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first, self.last = nn.Linear(5, 7), nn.Linear(7, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.last(self.first(x) * (2 if float(x.sum()) > 0 else 3))


IMAGE, ROWS = torch.Size((2, 3, 8, 8)), torch.Size((2, 5))
NETS: dict[str, tuple[Callable[[], nn.Module], torch.Size]] = {
    "residual": (Residual, IMAGE),
    "concatenation": (Concatenation, IMAGE),
    "depthwise": (Depthwise, IMAGE),
    "attention": (Attention, torch.Size((2, 7, 10))),
    "gated": (Gated, torch.Size((2, 6))),
    "tied": (Tied, ROWS),
    "scaled": (Scaled, IMAGE),
    "unknown": (Unknown, ROWS),
    "normed": (Normed, torch.Size((2, 7, 10))),
    "padded": (Padded, IMAGE),
    "tokens": (Tokens, torch.Size((2, 7, 6))),
    "parts": (Parts, ROWS),
}


def made(name: str) -> tuple[nn.Module, Tensor]:
    """A net in eval mode with norms that are not trivial, and inputs."""
    torch.manual_seed(0)
    build, shape = NETS[name]
    net: Any = build().eval()
    for module in net.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.weight, 0.5, 2)
            nn.init.normal_(module.bias)
            nn.init.uniform_(module.running_mean)
    return net, torch.randn(shape)


def some(coupling: Coupling) -> Ids:
    """About half of the classes of every family, at least one and never all."""
    chosen = [family[: max(1, family.size // 2)] for family in coupling.families()]
    return np.concatenate(chosen)


@torch.no_grad()
def unread(net: nn.Module, coupling: Coupling, classes: Ids) -> None:
    """Zero all weights that read these classes."""
    weights = dict(net.named_parameters(remove_duplicate=False))
    for reading in coupling.readings:
        weight = weights[reading.weight]
        columns = torch.from_numpy(np.isin(reading.inputs, classes))
        (weight.transpose(0, 1) if reading.transposed else weight)[:, columns] = 0
