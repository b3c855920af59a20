"""Target `mnn`: its converter folds weights of plain float32; int8 codes it keeps, and decodes them in every run."""

from sparsify_fx.onnx_export.profiles.profile import Profile
from sparsify_fx.onnx_export.storage.codecs.operators import PORTABLE

PROFILE = Profile(
    name="mnn",
    runs_in="mnn",
    checked="3.6.1",
    operators=PORTABLE,
    encodings=("dense", "gap", "bitmask"),
    newest_opset=20,
)
