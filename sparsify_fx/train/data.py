"""The data of a configuration."""

from __future__ import annotations

from pathlib import Path

import torch

from sparsify_fx.errors import ConfigError
from sparsify_fx.train.config import TrainConfig
from sparsify_fx.zoo.data import Data, load_data
from sparsify_fx.zoo.data.validation import with_validation


def open_data(config: TrainConfig, *, download: bool = True) -> Data:
    """The data set of a resolved configuration, on its device; ConfigError when its augmentation does not fit."""
    place, root = torch.device(config.device), Path(config.data_root)
    data = load_data(
        config.data,
        root=root,
        device=place,
        image_size=config.image_size,
        download=download,
        workers=config.workers,
        prefetch=config.prefetch,
        decode=config.decode,
    )
    if config.augment.crop_padding > data.image_size:
        raise ConfigError(
            f"augment.crop_padding={config.augment.crop_padding} is more than an image, which has {data.image_size} "
            "pixels a side; 4 is usual for 32"
        )
    if config.validation is None:
        return data
    return with_validation(data, config.validation, config.seed)
