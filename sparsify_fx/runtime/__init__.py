"""Sparse kernels for onnxruntime: pruned models run faster in the onnxruntime that people already have."""

from sparsify_fx.runtime.candidates import Candidate
from sparsify_fx.runtime.choice.cost import Times, estimate, measure
from sparsify_fx.runtime.coded.weights import FORMAT
from sparsify_fx.runtime.library import (
    check_library,
    instruction_set,
    library,
    newest_format,
    session,
)
from sparsify_fx.runtime.restore import format_of, sparse_weights, to_dense
from sparsify_fx.runtime.rewrite import to_sparse

__all__ = [
    "FORMAT",
    "Candidate",
    "Times",
    "check_library",
    "estimate",
    "format_of",
    "instruction_set",
    "library",
    "measure",
    "newest_format",
    "session",
    "sparse_weights",
    "to_dense",
    "to_sparse",
]
