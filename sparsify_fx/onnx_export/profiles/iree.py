"""Target `iree`: packed files are right there but decoded in every run, so its files are dense."""

from sparsify_fx.onnx_export.profiles.profile import Profile

PROFILE = Profile(
    name="iree",
    runs_in="iree-base-compiler",
    checked="3.13.0",
    newest_opset=20,
    note="iree decodes packed weights again in every run, so the weights are stored dense",
)
