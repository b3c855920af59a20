"""What is pruned as one: single weights, channels, heads, blocks, or n of m.

"weight"        every weight by itself
"channel"       channels with all that is coupled with them, heads of attention among them
"channel:8"     the same; what stays of a width is a multiple of 8 channels
"head"          heads of attention alone
"block:32x1"    32 rows by 1 column of the weight as a matrix [rows, all other axes]
"2:4"           2 of 4 consecutive inputs; "n:m" is 2:4
"""

from sparsify_fx.granularity.blocks import Blocks
from sparsify_fx.granularity.channels import Channels
from sparsify_fx.granularity.find import find_granularity

__all__ = ["Blocks", "Channels", "find_granularity"]
