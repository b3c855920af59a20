"""The named methods, one file each; importing this package registers them."""

from sparsify_fx.zoo.methods import acdc, dense, gmp, imp, lrr, magnitude, random, rigl, set, signin, wr

__all__ = ["acdc", "dense", "gmp", "imp", "lrr", "magnitude", "random", "rigl", "set", "signin", "wr"]
