"""Which ranks train copies of one model: all of the default process group, those of a chosen one, or this one alone."""

from __future__ import annotations

from types import TracebackType

import torch.distributed as dist

_DEFAULT = "the default group"
_chosen: dist.ProcessGroup | str | None = _DEFAULT
_same = False


class use_group:
    """From now on the ranks of `group` train copies of one model; as a context manager, until its end.

    Args:
        group: a process group whose ranks hold the same weights, for instance the data-parallel one of a device mesh;
            None: this rank trains a model of its own.

    >>> with use_group(None):
    ...     group() is None
    True
    """

    def __init__(self, group: dist.ProcessGroup | None) -> None:
        global _chosen
        # In effect at once, so that it serves as a plain call too; what was before is kept for `with`.
        self._before, _chosen = _chosen, group

    def __enter__(self) -> None:
        """The group counts already."""

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        global _chosen
        _chosen = self._before


def independent() -> use_group:
    """From now on this rank trains a model of its own: nothing is averaged or compared; also a context manager.

    For independent runs or pipeline stages within one process group. Every rank must call it.

    >>> with independent():
    ...     pass
    """
    return use_group(None)


class same_batches:
    """Within this context all ranks give the same batches to criteria: nothing is added up over the ranks.

    Every rank makes the scores of one process, to the bit; masks are compared as always.

    >>> with same_batches():
    ...     has_same_batches()
    True
    """

    def __enter__(self) -> None:
        global _same
        self._before, _same = _same, True

    def __exit__(self, *error: object) -> None:
        global _same
        _same = self._before


def has_same_batches() -> bool:
    """Whether `same_batches` is in effect."""
    return _same


def group() -> dist.ProcessGroup | None:
    """The process group whose ranks train copies of one model; None when there is only this process."""
    if _chosen is None or not dist.is_available() or not dist.is_initialized():
        return None
    found = dist.group.WORLD if isinstance(_chosen, str) else _chosen
    # This rank is not one of the group's: its collective calls would hang.
    if found is None or dist.get_rank(found) < 0:
        return None
    return found if dist.get_world_size(found) > 1 else None
