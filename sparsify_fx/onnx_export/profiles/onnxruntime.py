"""Target `onnxruntime`: the form that it loads in the least time and, large weights, in the least memory."""

from sparsify_fx.onnx_export.profiles.profile import LOSSLESS_AND_LOSSY, Profile
from sparsify_fx.onnx_export.storage.codecs.operators import FASTEST

PROFILE = Profile(
    name="onnxruntime",
    runs_in="onnxruntime",
    checked="1.32.0",
    operators=FASTEST,
    encodings=("dense", "coo", "gap", "bitmask"),
    values=LOSSLESS_AND_LOSSY,
    functions=True,
)
