"""Target `tract`: it folds weights of up to eight million entries, and decodes larger ones again in every run."""

from sparsify_fx.onnx_export.profiles.profile import Profile
from sparsify_fx.onnx_export.storage.codecs.operators import PORTABLE

PROFILE = Profile(
    name="tract",
    runs_in="tract",
    checked="0.23.9",
    operators=PORTABLE,
    # Of `bitmask` a weight of 2.4 million entries is decoded in every run already, and of
    # a Cast of dense codes any.
    encodings=("dense", "gap"),
    largest=2**23,
    newest_opset=20,
)
