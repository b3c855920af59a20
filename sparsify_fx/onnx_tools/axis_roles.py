"""What the open axes of a model's inputs are for, batch, sequence, image, and the lengths that are usual for each."""

from __future__ import annotations

from collections.abc import Mapping

from onnx import TensorProto

from sparsify_fx.onnx_tools.signature import Dim, Port
from sparsify_fx.onnx_tools.uses import BATCH, IMAGE, SEQUENCE, Use

FRAMES, CHANNELS = "frames", "channels"

TRIES: dict[str, tuple[int, ...]] = {
    BATCH: (1, 2),
    SEQUENCE: (128, 32, 64, 640, 512, 256, 16, 1, 2, 3, 16000),
    FRAMES: (16, 8, 32, 4, 1),
    IMAGE: (224, 32, 64, 640, 256, 384, 512),
    CHANNELS: (3, 1, 4),
}
"""What is tried for open axes of each role, in this order; of two equally likely roles the first one is taken."""

SMALL_TRIES = TRIES | {
    BATCH: (2, 1),
    IMAGE: (32, 64, 224, 640, 256),
    SEQUENCE: (32, 16, 128, 64, 512, 2, 1, 3, 16000),
}
"""The same for a proof: small ones first, and more than one sample, which may be told apart."""

Tries = Mapping[str, tuple[int, ...]]

_ORDER = tuple(TRIES)
_PIXELS = {
    TensorProto.FLOAT,
    TensorProto.FLOAT16,
    TensorProto.DOUBLE,
    TensorProto.BFLOAT16,
    TensorProto.UINT8,
}
_FLOATS = _PIXELS - {TensorProto.UINT8}


class Roles:
    """The role of each open axis: by what reads it, else by its place; all axes of one name have one role."""

    def __init__(self, ports: Mapping[str, Port], uses: Mapping[str, Use]) -> None:
        # Next to inputs of more axes, a vector holds a number for each sample; alone it is a sequence.
        deep = any(len(port.dims or ()) > 1 for port in ports.values())
        # Pairs compare by certainty first, then by the order of TRIES, so `min` picks the better guess.
        self.found: dict[
            tuple[str, int], tuple[int, int]
        ] = {}  # how uncertain it is, and the place in _ORDER
        named: dict[str, tuple[int, int]] = {}
        for name, port in ports.items():
            for axis, dim in enumerate(port.dims or ()):
                self.found[name, axis] = best = _role(port, axis, uses[name], deep)
                # Axes of one name must get one length, so the surest of them decides for all.
                if isinstance(dim, str):
                    named[dim] = min(best, named.get(dim, best))
        self.named = {dim: _ORDER[place] for dim, (_, place) in named.items()}

    def totals(self) -> list[str]:
        """Three names of sequences, of which one may be the sum of the others (past, new and all tokens); else none."""
        found = [
            dim
            for dim, role in self.named.items()
            if role == SEQUENCE and dim.isidentifier()
        ]
        # Formulas are no identifiers: they are computed from the others anyway. Of more
        # than three names there would be too many sums to try.
        return found if len(found) == 3 else []

    def of(self, port: Port, axis: int) -> str:
        dim = (port.dims or ())[axis]
        return (
            self.named[dim]
            if isinstance(dim, str)
            else _ORDER[self.found[port.name, axis][1]]
        )


def _role(port: Port, axis: int, use: Use, deep: bool) -> tuple[int, int]:
    """(0: known from a reader, 1: from the shape, 2: a guess; the role's place in _ORDER)."""
    dims, images = port.dims or (), _image_axes(port)
    rank = len(dims)
    # 1. What a node that reads the input says, but not that an image's side is a
    # sequence: a convolution over many channels calls its axes so.
    if axis in use.roles and not (use.roles[axis] == SEQUENCE and axis in images):
        return 0, _ORDER.index(use.roles[axis])
    # 2. What the shape says.
    if axis in images:
        return 1, _ORDER.index(images[axis])
    # 3. Guesses. Alone, floats in a row are a waveform; otherwise one number a sample.
    if rank == 1:
        role = SEQUENCE if port.elem in _FLOATS and not deep else BATCH
        return 2, _ORDER.index(role)
    if (
        axis == 1
        and rank == 3
        and isinstance(dims[0], int)
        and dims[0] > 1
        and isinstance(dims[2], int)
    ):
        return 2, _ORDER.index(
            BATCH
        )  # the state of recurrent layers: [layers, batch, hidden]
    return 1, _ORDER.index(BATCH if axis == 0 else SEQUENCE)


def _image_axes(port: Port) -> dict[int, str]:
    """The roles of the axes of what looks like an image or a video, batched or not, channels first or last."""
    dims = port.dims or ()
    if port.elem not in _PIXELS or not 3 <= len(dims) <= 5 or port.form != "tensor":
        return {}
    # The last three axes are one image; in front of them may be the batch and the frames.
    rest = range(len(dims) - 3, len(dims))
    if len(dims) == 5 and dims[1] in (1, 3, 4):  # channels before the frames
        return {2: FRAMES, 3: IMAGE, 4: IMAGE}
    # Channels first, as PyTorch has them, before channels last.
    for channels in (rest[0], rest[2]):
        height, width = [axis for axis in rest if axis != channels]
        # One fixed side is a weaker sign: [batch, 4, length, 64] may be heads of an
        # attention, so 4 channels and images without a batch need both sides open.
        half = _fixed(dims[height]) or _fixed(dims[width])
        if dims[channels] in ((1, 3) if half else (1, 3, 4)) and not (
            half and len(dims) == 3
        ):
            return ({1: FRAMES} if len(dims) == 5 else {}) | {
                height: IMAGE,
                width: IMAGE,
            }
    # Four axes, of which nothing is known but the batch perhaps: likely an image, so
    # even the channels are tried.
    if len(dims) == 4 and not any(map(_fixed, dims[1:])):
        return {1: CHANNELS, 2: IMAGE, 3: IMAGE}
    return {}


def _fixed(dim: Dim) -> bool:
    return isinstance(dim, int)
