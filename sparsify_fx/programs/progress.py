"""Progress: how far the training of a rewritten model has come."""

from __future__ import annotations

from dataclasses import dataclass

UNKNOWN = -1


@dataclass
class Progress:
    """How far a training has come; one object shared by all programs of one `apply`.

    The state dict of every program holds it, so that a Scheduler that is built on loaded weights knows where they are.

    Attributes:
        step: optimizer steps made; UNKNOWN after loading dense weights, or a checkpoint of version 0.1.
        steps: steps of the whole schedule; 0: no Scheduler has begun.
        schedule: digest of the schedule's fingerprint; "": none.

    >>> Progress(step=5, steps=10)
    Progress(step=5, steps=10, schedule='')
    """

    step: int = 0
    steps: int = 0
    schedule: str = ""
