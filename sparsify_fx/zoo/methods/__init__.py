"""The named methods, one file each; importing this package registers them."""

from sparsify_fx.zoo.methods import (
    dense,
    grasp,
    imp,
    lrr,
    magnitude,
    obd,
    random,
    signin,
    snip,
    synflow,
    woodfisher,
    wr,
)

__all__ = [
    "dense",
    "grasp",
    "imp",
    "lrr",
    "magnitude",
    "obd",
    "random",
    "signin",
    "snip",
    "synflow",
    "woodfisher",
    "wr",
]
