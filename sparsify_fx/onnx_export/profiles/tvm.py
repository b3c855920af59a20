"""Target `tvm`: packed files are right there but decoded in every run, so its files are dense."""

from sparsify_fx.onnx_export.profiles.profile import Profile

PROFILE = Profile(
    name="tvm",
    runs_in="apache-tvm",
    checked="0.27.0",
    newest_opset=20,
    note="tvm decodes packed weights again in every run, so the weights are stored dense",
)
