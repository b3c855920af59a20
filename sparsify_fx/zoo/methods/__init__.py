"""The named methods, one file each; importing this package registers them."""

from sparsify_fx.zoo.methods import dense, imp, lrr, magnitude, random, signin, wr

__all__ = ["dense", "imp", "lrr", "magnitude", "random", "signin", "wr"]
