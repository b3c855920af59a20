"""What a model of a run is built for (classes, channels, pixels), from its folder alone: the data may be gone."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor

from sparsify_fx.checkpoints.run_files import mask_key
from sparsify_fx.errors import CheckpointError, SparsifyError
from sparsify_fx.train.config import TrainConfig
from sparsify_fx.train.run_folder import RunFolder
from sparsify_fx.zoo.data import DATASETS, Source
from sparsify_fx.zoo.models import ModelSpec, build_model

_SIDES = (
    28,
    32,
    224,
    64,
    96,
    128,
    256,
    16,
    8,
    12,
    14,
    20,
    24,
    40,
    48,
    56,
    80,
    112,
    160,
    192,
    299,
    320,
    384,
    512,
)
_CHANNELS = (3, 1, 2, 4)
_KEYS = ("num_classes", "in_channels", "image_size")

Shapes = Mapping[str, tuple[int, ...]]


def as_plain(data: Source) -> dict[str, int]:
    """What the folder of a run keeps of its data, beside their digest."""
    return {key: int(getattr(data, key)) for key in _KEYS}


def task_of(
    folder: RunFolder,
    config: TrainConfig,
    state: Mapping[str, Any],
    data: Source | None,
) -> ModelSpec:
    """Classes, channels and pixels of a run: as its folder says, as its kind of data has them, or by data or weights.

    Args:
        state: the weights of the run, merged, or as a checkpoint holds them.
        data: its data, if they are there.

    Raises CheckpointError when nothing tells, which only folders of sparsify_fx 0.1 do not.
    """
    kept = folder.data() or {}
    if all(type(kept.get(key)) is int and kept[key] > 0 for key in _KEYS):
        return ModelSpec(*(kept[key] for key in _KEYS))
    name = config.data.partition(":")[0]
    if name in DATASETS and (known := DATASETS[name].task) is not None:
        classes, channels, side = known
        return ModelSpec(classes, channels, config.image_size or side)
    if data is not None:
        return ModelSpec(**as_plain(data))
    found = next(_fitting(config, _shapes(state)), None)
    if found is None:
        raise CheckpointError(
            f"{folder.path} does not say for which images its model is, as runs of sparsify_fx 0.1, and its weights do "
            f"not tell either: bring its data back ({config.data})"
        )
    return found


def _shapes(state: Mapping[str, Any]) -> dict[str, tuple[int, ...]]:
    """The shapes of the plain weights; where a program computes one, that of its mask."""
    inner = "_program.mask"
    shapes = {
        key: tuple(value.shape)
        for key, value in state.items()
        if isinstance(value, Tensor)
    }
    named = {
        key.removesuffix(inner): shape
        for key, shape in shapes.items()
        if key.endswith(inner)
    }
    return {
        key: shape for key, shape in shapes.items() if not key.endswith(mask_key(""))
    } | named


def _fitting(config: TrainConfig, shapes: Shapes) -> Iterator[ModelSpec]:
    """The tasks for which the configured model has weights of these shapes."""
    for channels in _CHANNELS:
        for side in (config.image_size,) if config.image_size else _SIDES:
            classes = _classes(config.model, channels, side, shapes)
            if classes is not None:
                spec = ModelSpec(classes, channels, side)
                own = _built(config.model, spec)
                if own and all(
                    shapes.get(key, shape) == shape for key, shape in own.items()
                ):
                    yield spec


def _classes(model: str, channels: int, side: int, shapes: Shapes) -> int | None:
    """The number of classes: the length of what two models for different numbers of them do not share."""
    one, other = (_built(model, ModelSpec(count, channels, side)) for count in (5, 7))
    for key, shape in one.items():
        differing = [
            axis
            for axis, (a, b) in enumerate(zip(shape, other[key], strict=True))
            if a != b
        ]
        if differing and key in shapes and len(shapes[key]) == len(shape):
            return shapes[key][differing[0]]
    return None


def _built(model: str, spec: ModelSpec) -> dict[str, tuple[int, ...]]:
    """The shapes of a model's weights, which get no values; none where it cannot be built."""
    try:
        with torch.device("meta"):
            made = build_model(
                model,
                num_classes=spec.num_classes,
                in_channels=spec.in_channels,
                image_size=spec.image_size,
            )
    except (SparsifyError, RuntimeError, ValueError):
        return {}
    return {key: tuple(value.shape) for key, value in made.state_dict().items()}
