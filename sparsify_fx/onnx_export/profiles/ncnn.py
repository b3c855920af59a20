"""Target `ncnn`: its converter pnnx folds what depends on constants alone."""

from sparsify_fx.onnx_export.profiles.profile import LOSSLESS_AND_LOSSY, Profile
from sparsify_fx.onnx_export.storage.codecs.operators import PORTABLE

PROFILE = Profile(
    name="ncnn",
    runs_in="pnnx",
    checked="20261020",
    operators=PORTABLE,
    encodings=("dense", "gap", "bitmask"),
    values=LOSSLESS_AND_LOSSY,
    newest_opset=20,
)
