"""Target `sparse-ort`: onnxruntime with this package's library, whose operators skip zeros."""

from sparsify_fx.onnx_export.profiles.profile import LOSSLESS_AND_LOSSY, Profile
from sparsify_fx.onnx_export.report.rows import SPARSE
from sparsify_fx.onnx_export.storage.codecs.operators import FASTEST

PROFILE = Profile(
    name=SPARSE,
    runs_in="onnxruntime",
    checked="1.32.0",
    # For what no sparse operator takes over.
    operators=FASTEST,
    encodings=("dense", "coo", "gap", "bitmask"),
    values=LOSSLESS_AND_LOSSY,
    functions=True,
)
