"""Data beyond one disk: chunks that LitData writes (`litdata.optimize`), fetches when they are needed, and lets go."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from torch.utils.data import Dataset

from sparsify_fx.errors import DataError


class Chunked(Dataset[Any]):
    """One part of data in chunks, for a function of one's own (`data: package.module:function`, see `own.py`).

    Args:
        address: a folder, or an address that LitData reads, such as one of an object store.
        classes: names of the classes, by label.
        transform: from an image as it was written to one as the model shall see it.
        options: of `litdata.StreamingDataset`, such as `max_cache_size`.

    Items are (image, label), or mappings with these keys. An epoch reads few chunks at a time, see `block_order`.
    Raises DataError where litdata is not installed (extra `chunks`), or the address cannot be read.
    """

    def __init__(
        self,
        address: str,
        classes: Sequence[str],
        transform: Callable[[Any], Any] | None = None,
        **options: Any,
    ) -> None:
        self.classes, self._transform = tuple(classes), transform
        try:
            from litdata import StreamingDataset
        except ImportError as error:
            raise DataError(
                'chunks need the package litdata; run pip install "sparsify_fx[chunks]"'
            ) from error
        try:
            self._items = StreamingDataset(address, **options)
        except (OSError, ValueError, RuntimeError, TypeError) as error:
            raise DataError(
                f"{address} cannot be read as chunks of LitData ({error}); write them with litdata.optimize"
            ) from error
        spans = self._items.region_of_interest
        self.blocks = tuple(end - start for start, end in spans)
        """Items of each chunk."""

    def __len__(self) -> int:
        return sum(self.blocks)

    def __getitem__(self, index: int) -> tuple[Any, Any]:
        item = self._items[index]
        try:
            image, label = (
                (item["image"], item["label"]) if isinstance(item, Mapping) else item
            )
        except (KeyError, TypeError, ValueError) as error:
            raise DataError(
                f"item {index} is {type(item).__name__}; expected (image, label) or these keys"
            ) from error
        return image if self._transform is None else self._transform(image), label
