"""Target `web`: onnxruntime-web. Its memory never shrinks again, so that large weights are rebuilt in rounds.

Measured in Chromium by `python -m benchmarks.web_page`. All forms of `gap` load alike there, several times as long as a
dense file. `coo`, which onnxruntime fills in itself, loads about as fast as dense weights, in more bytes.
"""

from sparsify_fx.onnx_export.profiles.profile import LOSSLESS_AND_LOSSY, Profile
from sparsify_fx.onnx_export.storage.codecs.operators import FASTEST

PROFILE = Profile(
    name="web",
    runs_in="onnxruntime-web",
    checked="1.30.0",
    operators=FASTEST,
    # `auto` takes the fewest bytes, `gap` mostly; who waits for the processor rather than
    # for the line asks for `coo`.
    encodings=("dense", "coo", "gap", "bitmask"),
    values=LOSSLESS_AND_LOSSY,
    functions=True,
)
