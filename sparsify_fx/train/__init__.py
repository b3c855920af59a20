"""Training: a configuration in, a run folder with the result out."""

from sparsify_fx.train.config import (
    AugmentConfig,
    CheckpointConfig,
    LearningRateConfig,
    OptimizerConfig,
    TrainConfig,
)
from sparsify_fx.train.loop import train
from sparsify_fx.train.recipes import load_config, recipe_names
from sparsify_fx.train.result import CycleResult, Result

__all__ = [
    "AugmentConfig",
    "CheckpointConfig",
    "CycleResult",
    "LearningRateConfig",
    "OptimizerConfig",
    "Result",
    "TrainConfig",
    "load_config",
    "recipe_names",
    "train",
]
