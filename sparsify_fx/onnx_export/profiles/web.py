"""Target `web`: onnxruntime-web. Its memory never shrinks again, so that large weights are rebuilt in rounds."""

from sparsify_fx.onnx_export.profiles.profile import LOSSLESS_AND_LOSSY, Profile
from sparsify_fx.onnx_export.storage.codecs.operators import FASTEST

PROFILE = Profile(
    name="web",
    runs_in="onnxruntime-web",
    checked="1.30.0",
    operators=FASTEST,
    # No `coo`: compressed for the way to the browser, it is the larger one (5.15 MB, gap
    # 4.64, of a resnet18).
    encodings=("dense", "gap", "bitmask"),
    values=LOSSLESS_AND_LOSSY,
    functions=True,
)
