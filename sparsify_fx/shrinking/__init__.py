"""Physically smaller layers: channels that nothing reads are cut out of a model's tensors."""

from sparsify_fx.shrinking.record import Shrunk
from sparsify_fx.shrinking.smaller import shrink

__all__ = ["Shrunk", "shrink"]
