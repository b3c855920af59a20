"""Target `onnx`: any runtime, in the form that all known ones take."""

from sparsify_fx.onnx_export.profiles.profile import LOSSLESS_AND_LOSSY, Profile
from sparsify_fx.onnx_export.storage.codecs.operators import PORTABLE

PROFILE = Profile(
    name="onnx",
    runs_in="onnxruntime",
    checked="1.32.0",
    operators=PORTABLE,
    encodings=("dense", "coo", "gap", "bitmask"),
    values=LOSSLESS_AND_LOSSY,
    functions=True,
)
