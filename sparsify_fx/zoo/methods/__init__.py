"""The named methods, one file each; importing this package registers them."""

from sparsify_fx.zoo.methods import (
    cs,
    dense,
    imp,
    l0,
    l1,
    lrr,
    magnitude,
    pilot,
    powerprop,
    random,
    signin,
    spred,
    str,
    wr,
)

__all__ = [
    "cs",
    "dense",
    "imp",
    "l0",
    "l1",
    "lrr",
    "magnitude",
    "pilot",
    "powerprop",
    "random",
    "signin",
    "spred",
    "str",
    "wr",
]
