"""The named methods, one file each; importing this package registers them."""

from sparsify_fx.zoo.methods import (
    acdc,
    dense,
    gmp,
    grasp,
    imp,
    lrr,
    magnitude,
    obd,
    random,
    rigl,
    set,
    signin,
    snip,
    synflow,
    woodfisher,
    wr,
)

__all__ = [
    "acdc",
    "dense",
    "gmp",
    "grasp",
    "imp",
    "lrr",
    "magnitude",
    "obd",
    "random",
    "rigl",
    "set",
    "signin",
    "snip",
    "synflow",
    "woodfisher",
    "wr",
]
