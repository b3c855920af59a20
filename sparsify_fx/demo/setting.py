"""What the demo trains: one net, four methods, the same epochs for each."""

from __future__ import annotations

from typing import Any

from sparsify_fx.recipe import find_method
from sparsify_fx.schedules import Cycles
from sparsify_fx.train import load_config
from sparsify_fx.train.config import TrainConfig

RECIPE = "mnist5k-lenet5-bn"
METHODS = ("dense", "random", "signin", "lrr+signin")
# At 0.9 these four end within two points of each other on these digits, and no demo could tell them apart; at 0.98 they
# are up to seven apart, by the table of docs/results/methods_mnist5k.md, whose setting this is.
SPARSITY = 0.98
EPOCHS = 20
"""Of one training, over all its cycles."""
# A cycle for each half of the weights: with fifths, as `lrr` has it by itself, there would be epochs for half of them.
KEEP = 0.5
_SETTING: dict[str, Any] = {
    "model": "lenet300",
    "init": "kaiming_normal",
    "batch_size": 256,
    "checkpoint_every": 1000,
    "sparsity": SPARSITY,
    "device": "cpu",
    # In float32 and without compile: it runs everywhere, and compiling would take longer than training.
    "compile": False,
    "amp": False,
}


def config_of(method: str, epochs: int, seed: int) -> TrainConfig:
    """The training of one method; cycles share its epochs."""
    schedule = find_method(method).resolved().schedule
    values = {**_SETTING, "method": method, "seed": seed, "epochs": epochs}
    if isinstance(schedule, Cycles):
        runs = Cycles(keep=KEEP).runs(SPARSITY)
        values["axes"] = {"schedule": {"name": "cycles", "keep": KEEP}}
        values["epochs"] = max(2, round(epochs / runs))
    return load_config(RECIPE, values=values)
