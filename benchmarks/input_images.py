"""JPEGs of ImageNet's sizes, generated: a folder as torchvision's ImageFolder reads it.

Sides are log-normal around the mean of 400x350 pixels that [Deng 2009] gives, in the usual formats of cameras; files
have 110 kB on average, as the 138 GB of the 1,281,167 training images. Content: noise whose amplitude falls with
frequency as that of photographs does, since a decoder's time goes with the bytes and the edges that it finds.
"""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import Image

FIELD, CLASSES = 1024, 10
MEAN_AREA, SPREAD = 400 * 350, 0.35
ASPECTS = (4 / 3, 3 / 2, 1.0, 3 / 4)
# Of Pillow: at this one the mean file is near 110 kB.
QUALITY = 97

Array = npt.NDArray[np.float32]


def generate(folder: Path, count: int, seed: int = 0) -> dict[str, float]:
    """`count` images in folder/class0 ... class9, unless they are there; means of their sides and bytes."""
    rng = np.random.default_rng(seed)
    luma = [_field(rng, 1.1) for _ in range(8)]
    chroma = [_field(rng, 1.6) for _ in range(8)]
    sizes = []
    for index in range(count):
        path = folder / f"class{index % CLASSES}" / f"{index:06d}.JPEG"
        width, height = _sides(rng)
        corner = rng.integers(0, (FIELD - height + 1, FIELD - width + 1))
        chosen = rng.integers(0, 8, 3)
        if not path.exists():
            parts = (luma[chosen[0]], chroma[chosen[1]], chroma[chosen[2]])
            _save(path, parts, corner, (height, width))
        sizes.append((width, height, path.stat().st_size))
    width, height, size = np.mean(sizes, axis=0).tolist()
    return {"width": width, "height": height, "bytes": size}


def _sides(rng: np.random.Generator) -> tuple[int, int]:
    """(width, height) in pixels."""
    # The mean of exp(s·z − s²/2) is 1.
    area = MEAN_AREA * np.exp(SPREAD * rng.normal() - SPREAD**2 / 2)
    aspect = rng.choice(ASPECTS)
    width = min(int((area * aspect) ** 0.5), FIELD)
    return width, min(int(width / aspect), FIELD)


def _field(rng: np.random.Generator, fall: float) -> Array:
    """Noise [FIELD, FIELD] of deviation 1 whose amplitude is frequency^-fall."""
    frequency = np.fft.fftfreq(FIELD)
    radius = np.hypot(frequency[:, None], frequency[None])
    radius[0, 0] = 1
    spectrum = rng.normal(size=(2, FIELD, FIELD))
    field = np.fft.ifft2((spectrum[0] + 1j * spectrum[1]) / radius**fall).real
    return (field / field.std()).astype(np.float32)


def _save(
    path: Path,
    parts: tuple[Array, Array, Array],
    corner: npt.NDArray[np.int64],
    sides: tuple[int, int],
) -> None:
    (top, left), (height, width) = corner.tolist(), sides
    light, warm, cold = (p[top : top + height, left : left + width] for p in parts)
    channels = (20 * warm, -10 * warm - 8 * cold, 20 * cold)
    pixels = np.stack([128 + 45 * light + channel for channel in channels], -1)
    buffer = io.BytesIO()
    image = Image.fromarray(pixels.clip(0, 255).astype(np.uint8))
    image.save(buffer, "JPEG", quality=QUALITY)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(buffer.getvalue())
