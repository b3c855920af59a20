"""The keys of a training's configuration that came later: how images come in, and what steps make of them."""

from __future__ import annotations

from typing import Any

from pydantic import Field, field_validator, model_validator

from sparsify_fx.train.average import EmaConfig
from sparsify_fx.train.sections import Section
from sparsify_fx.zoo.data.decoders import DECODERS


class InputKeys(Section):
    """`workers`: processes that decode streamed images, 0 for none; `prefetch`: batches that each prepares ahead.

    `decode`: `pillow`, or `fast`, which is that but for the rounding of pixels (see `sparsify_fx.zoo.data.DECODERS`);
    `validation`: a share of the training images that is kept aside and evaluated in place of the test, which is then
    evaluated at the end of each cycle alone; `keep_best`: keep the weights of the epoch that was best by it, of the
    sparsest ones; `channels_last`: images and convolutions in the memory order NHWC, which
    many kernels are faster in; `mixup`, `cutmix`: α of their Beta distribution, 0 for none; `clip_grad_norm`: the most
    that the norm of all gradients together may be; `ema`: an average of the weights beside the training.
    """

    workers: int = Field(default=4, ge=0, le=1024)
    prefetch: int = Field(default=2, ge=1, le=1024)
    decode: str = "pillow"
    validation: float | None = Field(default=None, gt=0, lt=1)
    keep_best: bool = False
    channels_last: bool = False
    mixup: float = Field(default=0.0, ge=0, allow_inf_nan=False)
    cutmix: float = Field(default=0.0, ge=0, allow_inf_nan=False)
    clip_grad_norm: float | None = Field(default=None, gt=0, allow_inf_nan=False)
    ema: EmaConfig | None = None

    @model_validator(mode="after")
    def _best_by_validation(self) -> InputKeys:
        # By the test it would be chosen by what it is then reported on.
        if self.keep_best and self.validation is None:
            raise ValueError(
                "keep_best needs images to choose by that are no test images; set validation: 0.1"
            )
        return self

    @field_validator("decode")
    @classmethod
    def _known_decoder(cls, value: str) -> str:
        DECODERS[value]  # UnknownNameError, with the nearest names
        return value


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
