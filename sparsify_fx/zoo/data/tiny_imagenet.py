"""Tiny ImageNet as it is published: train/CLASS/images, and one folder of validation images with a table of labels.

wnids.txt                    the classes, one a line
train/CLASS/images/*.JPEG    500 of each
val/images/*.JPEG            all classes together
val/val_annotations.txt      file, class and four numbers of a box, with tabs between them
test/images/*.JPEG           without labels; not read
"""

from __future__ import annotations

from pathlib import Path

from sparsify_fx.errors import DataError
from sparsify_fx.zoo.data.decode import Listing

CLASSES, LABELS = Path("wnids.txt"), Path("val") / "val_annotations.txt"


def is_tiny_imagenet(folder: Path) -> bool:
    """Whether a folder has this layout."""
    return all((folder / name).is_file() for name in (CLASSES, LABELS))


def listings(folder: Path) -> tuple[Listing, Listing]:
    """Training images, and the validation images as the test; labels in the order of the classes' names.

    Raises DataError for folders that lack a class, and tables that do not fit.
    """
    names = sorted(_lines(folder / CLASSES))
    found = Listing.of(folder / "train")
    if list(found.classes) != names:
        odd = sorted(set(found.classes) ^ set(names))
        raise DataError(
            f"{folder / CLASSES} and the folders of {folder / 'train'} must name the same classes; only one has "
            f"{', '.join(odd[:5])}"
        )
    label_of = {name: label for label, name in enumerate(names)}
    rows = []
    for number, line in enumerate(_lines(folder / LABELS), start=1):
        name, tab, rest = line.partition("\t")
        label = label_of.get(rest.partition("\t")[0])
        if not tab or label is None:
            raise DataError(
                f"{folder / LABELS}, line {number}: expected a file and one of the classes of {CLASSES}, got {line!r}"
            )
        rows.append((label, str(folder / "val" / "images" / name)))
    if not rows:
        raise DataError(f"{folder / LABELS} lists no images; unpack the archive again")
    # As other listings: by class, then by name.
    labels, paths = zip(*sorted(rows), strict=True)
    return found, Listing(paths, labels, tuple(names))


def _lines(path: Path) -> list[str]:
    """The lines of a text file that are not empty."""
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(
            f"{path} cannot be read ({error}); unpack the archive again"
        ) from error
    return [line for line in map(str.rstrip, text.splitlines()) if line]
