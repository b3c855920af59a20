"""Handing merged models on to other tools: what each keeps of their zeros, checked in what it wrote."""

from sparsify_fx.handing_on.binsparse_files import load_binsparse, save_binsparse
from sparsify_fx.handing_on.block_sparse import (
    BlockSparse,
    block_sparse_layers,
    to_block_sparse,
)
from sparsify_fx.handing_on.coreml import read_coreml, save_coreml
from sparsify_fx.handing_on.executorch_files import save_executorch
from sparsify_fx.handing_on.plain import HandedOn
from sparsify_fx.handing_on.quantized import Quantized, quantize
from sparsify_fx.handing_on.semi_structured import (
    SemiStructured,
    semi_structured_layers,
    to_semi_structured,
)

__all__ = [
    "BlockSparse",
    "HandedOn",
    "Quantized",
    "SemiStructured",
    "block_sparse_layers",
    "load_binsparse",
    "quantize",
    "read_coreml",
    "save_binsparse",
    "save_coreml",
    "save_executorch",
    "semi_structured_layers",
    "to_block_sparse",
    "to_semi_structured",
]
