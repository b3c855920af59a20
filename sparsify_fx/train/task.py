"""What a model of a run is built for (classes, channels, pixels), from its folder alone: the data may be gone."""

from __future__ import annotations

import itertools
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

# Sides and channels that models are tried with, the most common first: the first that fits is taken.
# fmt: off
_SIDES = (28, 32, 224, 64, 96, 128, 256, 16, 8, 12, 14, 20, 24, 40, 48, 56, 80, 112, 160, 192, 299, 320, 384, 512)
# fmt: on
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
    # From what is certain to what is likely: the folder's own record, then facts of data that are always the same,
    # then the data as they are now, which may have changed, and last the shapes of the weights.
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
    # A checkpoint has no weight under its own name where a program makes it; its mask is of the same shape.
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
    sides = (config.image_size,) if config.image_size else _SIDES
    for channels, side in itertools.product(_CHANNELS, sides):
        classes = _classes(config.model, channels, side, shapes)
        if classes is None:
            continue
        spec = ModelSpec(classes, channels, side)
        own = _built(config.model, spec)
        # What the state lacks under its name, such as a weight that is factors there, is no evidence against a task.
        if own and all(shapes.get(key, shape) == shape for key, shape in own.items()):
            yield spec


def _classes(model: str, channels: int, side: int, shapes: Shapes) -> int | None:
    """The number of classes: the length of what two models for different numbers of them do not share."""
    # No model says which of its layers is the classifier; whatever changes with the number of classes is.
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
    # On the meta device, where a model of gigabytes costs nothing: a hundred tasks may have to be tried.
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
