"""The keys of a training's configuration that say how images come in."""

from __future__ import annotations

from typing import Any

from pydantic import Field

from sparsify_fx.train.sections import Section


class InputKeys(Section):
    """`workers`: processes that decode streamed images, 0 for none; `prefetch`: batches that each prepares ahead.

    `channels_last`: images and convolutions in the memory order NHWC, which many kernels are faster in.
    """

    workers: int = Field(default=4, ge=0, le=1024)
    prefetch: int = Field(default=2, ge=1, le=1024)
    channels_last: bool = False


# They say how fast batches come, not what is in them.
INDIFFERENT = ("workers", "prefetch")


def without_defaults(content: dict[str, Any]) -> dict[str, Any]:
    """A configuration as plain values without the input's keys that are at their defaults, or change no result.

    These keys came later: runs that do not use them keep their names.
    """
    plain = InputKeys().model_dump(mode="json")
    return {
        key: value
        for key, value in content.items()
        if key not in INDIFFERENT and (key not in plain or value != plain[key])
    }
