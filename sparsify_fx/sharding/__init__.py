"""Weights of which each process holds a shard (FSDP2): their parts, thresholds over all of them, and whole copies."""

from sparsify_fx.sharding.copying import without_history
from sparsify_fx.sharding.fsdp import copy_in_full, is_fsdp, make_whole, reshard
from sparsify_fx.sharding.selection import top_masks_of_shards
from sparsify_fx.sharding.shards import (
    count,
    lowest,
    matching,
    part,
    replicated,
    shard,
    sharded,
    summed,
    whole,
    write_into,
)

__all__ = [
    "copy_in_full",
    "count",
    "is_fsdp",
    "lowest",
    "make_whole",
    "matching",
    "part",
    "replicated",
    "reshard",
    "shard",
    "sharded",
    "summed",
    "top_masks_of_shards",
    "whole",
    "without_history",
    "write_into",
]
