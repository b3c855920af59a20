"""The fast decoder beside Pillow's: the same parts within rounding, and the same words for what is no image."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from sparsify_fx.errors import DataError
from sparsify_fx.zoo.data import DECODERS
from sparsify_fx.zoo.data.folder_source import eval_resize

PILLOW, FAST = DECODERS["pillow"], DECODERS["fast"]


def photo(
    path: Path, width: int, height: int, mode: str = "RGB", **options: int
) -> str:
    """An image with broad forms and some noise, as photographs have."""
    numbers = np.random.default_rng(1)
    coarse = numbers.integers(0, 256, (height // 20 + 1, width // 20 + 1, 3))
    image = Image.fromarray(coarse.astype(np.uint8)).resize((width, height))
    noisy = np.array(image).astype(int) + numbers.integers(-12, 13, (height, width, 3))
    image = Image.fromarray(noisy.clip(0, 255).astype(np.uint8)).convert(mode)
    image.save(path, **options)
    return str(path)


def both(path: str, size: int = 64) -> list[tuple[Tensor, Tensor]]:
    crops = [
        tuple(
            each.randomly_cropped(path, size, mirror=True, seed=seed)
            for each in (PILLOW, FAST)
        )
        for seed in range(20)
    ]
    middles = (each.centered(path, size, eval_resize(size)) for each in (PILLOW, FAST))
    return [*crops, tuple(middles)]  # type: ignore[list-item]


def apart(pairs: list[tuple[Tensor, Tensor]]) -> tuple[float, float]:
    """The largest and the mean difference in levels."""
    levels = torch.stack([(a.int() - b.int()).abs() for a, b in pairs]).double()
    return levels.max().item(), levels.mean().item()


@pytest.mark.parametrize(
    ("name", "mode", "options"),
    [
        ("a.jpg", "RGB", {"quality": 95}),
        ("a.jpg", "RGB", {"quality": 60, "progressive": 1}),
        ("a.jpg", "RGB", {"quality": 90, "subsampling": 0}),
        ("a.jpg", "L", {}),
        ("a.jpg", "CMYK", {}),
        ("a.png", "RGB", {}),
        ("a.png", "P", {}),
        ("png.jpg", "RGB", {"format": "PNG"}),
    ],
)
def test_parts_are_the_same_but_for_rounding(
    tmp_path: Path, name: str, mode: str, options: dict[str, int]
) -> None:
    for width, height in ((140, 130), (90, 250), (73, 73)):
        pairs = both(photo(tmp_path / name, width, height, mode, **options))
        most, mean = apart(pairs)
        assert most <= 2, (width, height)
        assert mean < 0.1, (width, height)
        assert all(b.is_contiguous() and b.shape == (3, 64, 64) for _, b in pairs)


def test_a_large_image_is_decoded_small_where_that_is_enough(tmp_path: Path) -> None:
    path = photo(tmp_path / "a.jpg", 1600, 1201, quality=95)
    most, mean = apart(both(path))
    assert most < 40
    assert mean < 2.5
    # Sides that are all cut out end at the last pixel, not beyond it.
    assert apart([(PILLOW.centered(path, 64, 64), FAST.centered(path, 64, 64))])[0] < 40
    # Where the part is not twice as large as asked for, all of it is decoded.
    assert apart(both(path, 600))[0] <= 2


def test_it_leaves_the_random_state_alone(tmp_path: Path) -> None:
    path = photo(tmp_path / "a.jpg", 100, 80)
    before = torch.get_rng_state()
    FAST.randomly_cropped(path, 32, mirror=True, seed=3)
    assert torch.equal(before, torch.get_rng_state())


def test_what_is_no_image_is_told_in_words(tmp_path: Path) -> None:
    whole = Path(photo(tmp_path / "a.jpg", 100, 80)).read_bytes()
    path = tmp_path / "b.jpg"
    for content in (whole[: len(whole) // 2], whole[:-300], b"", b"text", b"\xff\xd8"):
        path.write_bytes(content)
        with pytest.raises(DataError, match=r"b\.jpg cannot be decoded"):
            FAST.centered(str(path), 32, 36)
    with pytest.raises(DataError, match=r"c\.jpg cannot be decoded"):
        FAST.randomly_cropped(str(tmp_path / "c.jpg"), 32, mirror=False, seed=0)
