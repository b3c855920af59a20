"""Several processes: ranks that train copies of one model choose equal masks, and hear of each other's errors."""

from sparsify_fx.distributed.elastic import load_checkpoint, save_checkpoint
from sparsify_fx.distributed.living_hook import living_hook
from sparsify_fx.distributed.ranks import (
    averaged_if_different,
    check_equal,
    check_equal_masks,
    check_equal_weights,
    exchange,
    group,
    independent,
    mean_number,
    mean_over_ranks,
    sum_over_ranks,
    together,
    use_group,
)
from sparsify_fx.distributed.sharded import gathered

__all__ = [
    "averaged_if_different",
    "check_equal",
    "check_equal_masks",
    "check_equal_weights",
    "exchange",
    "gathered",
    "group",
    "independent",
    "living_hook",
    "load_checkpoint",
    "mean_number",
    "mean_over_ranks",
    "save_checkpoint",
    "sum_over_ranks",
    "together",
    "use_group",
]
