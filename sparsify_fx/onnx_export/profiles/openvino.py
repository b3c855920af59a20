"""Target `openvino`: its CPU plugin computes what depends on constants alone once, when it compiles the model."""

from sparsify_fx.onnx_export.profiles.profile import LOSSLESS_AND_LOSSY, Profile
from sparsify_fx.onnx_export.storage.codecs.operators import PORTABLE

PROFILE = Profile(
    name="openvino",
    runs_in="openvino",
    checked="2026.4.1",
    operators=PORTABLE,
    encodings=("dense", "gap", "bitmask"),
    values=LOSSLESS_AND_LOSSY,
    newest_opset=20,
)
