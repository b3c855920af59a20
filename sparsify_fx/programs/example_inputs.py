"""Inputs on which a model can be run once: those that are known, or guesses from its first layer."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

Example = tuple[tuple[Any, ...], dict[str, Any]]  # positional and keyword arguments

# The usual sizes first, since the first one that the model takes is used; fixed-size nets take one of them.
_IMAGES = (224, 32, 64, 28, 96, 128, 256, 299, 384)
_SIGNALS = (1024, 16000, 128, 32)
_CLIPS = (32, 16, 64)
_WORDS = 16


def examples(
    model: nn.Module, batches: Iterable[Any] | None = None
) -> Iterator[Example]:
    """Arguments to try, the most promising ones first: of one sample, then of the whole batch, then guesses.

    Args:
        batches: (inputs, targets) pairs, inputs being a tensor, a tuple of arguments or a mapping of named ones. Only a
            list or tuple is looked at: reading a loader would move its random numbers, and may cost much.
    """
    if isinstance(batches, Sequence) and len(batches) > 0:
        pair = batches[0]
        whole = _arguments(
            pair[0] if isinstance(pair, (tuple, list)) and pair else pair
        )
        # One sample is enough to find a path, and cheaper; some models take only whole batches.
        yield _first_sample(whole)
        yield whole
    yield from _declared(model)
    yield from _guessed(model)


def _arguments(inputs: Any) -> Example:
    if isinstance(inputs, Mapping):
        return (), dict(inputs)
    return (tuple(inputs) if isinstance(inputs, (tuple, list)) else (inputs,)), {}


def _first_sample(example: Example) -> Example:
    def cut(value: Any) -> Any:
        return value[:1] if isinstance(value, Tensor) and value.dim() > 0 else value

    # Scalars have no batch axis, and other objects are options of the model.
    return tuple(cut(value) for value in example[0]), {
        name: cut(value) for name, value in example[1].items()
    }


def _declared(model: nn.Module) -> Iterator[Example]:
    """What timm, transformers and Lightning write into their models."""
    for name in ("pretrained_cfg", "default_cfg"):
        size = (getattr(model, name, None) or {}).get("input_size")
        if size is not None:
            yield (torch.ones(1, *size, device="cpu"),), {}
    for name in ("dummy_inputs", "example_input_array"):
        inputs = getattr(model, name, None)
        if inputs is not None:
            yield _arguments(inputs)


def _guessed(model: nn.Module) -> Iterator[Example]:
    """Shapes that the first layer of a known kind could take."""
    for module in model.modules():
        for kind, shapes in _SHAPES.items():
            if isinstance(module, kind):
                for shape in shapes(module):
                    # Index 0 is in every vocabulary.
                    words = isinstance(module, (nn.Embedding, nn.EmbeddingBag))
                    yield (
                        (
                            (
                                torch.zeros(shape, dtype=torch.int64, device="cpu")
                                if words
                                else torch.ones(shape, device="cpu")
                            ),
                        ),
                        {},
                    )
                return


def _conv(module: Any) -> list[tuple[int, ...]]:
    """Signals, images or clips, the channels of which the layer knows."""
    dims = len(module.kernel_size)
    sizes = {1: _SIGNALS, 2: _IMAGES, 3: _CLIPS}[dims]
    return [(1, module.in_channels, *(size,) * dims) for size in sizes]


def _features(count: int) -> list[tuple[int, ...]]:
    return [(1, count), (1, _WORDS, count)]


_SHAPES: dict[type[nn.Module], Callable[[Any], list[tuple[int, ...]]]] = {
    nn.modules.conv._ConvNd: _conv,
    nn.Linear: lambda module: _features(module.in_features),
    nn.RNNBase: lambda module: [(1, _WORDS, module.input_size)],
    nn.RNNCellBase: lambda module: [(1, module.input_size)],
    nn.MultiheadAttention: lambda module: [(1, _WORDS, module.embed_dim)],
    nn.Embedding: lambda module: [(1, _WORDS), (_WORDS,)],
    nn.EmbeddingBag: lambda module: [(1, _WORDS)],
}
