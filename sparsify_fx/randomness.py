"""Trial runs of models and optimizers that leave no trace: no random number, warning or compilation."""

from __future__ import annotations

import contextlib
import random
import sys
import threading
import warnings
from collections.abc import Iterator, Sequence

import numpy as np
import torch

_ALONE = threading.RLock()
"""Warning filters, random states and the compiler's stance belong to the process: two threads that change them and put
them back by turns would leave one another's changes behind."""


@contextlib.contextmanager
def undisturbed(devices: Sequence[int | torch.device] = ()) -> Iterator[None]:
    """Within this context warnings are ignored and nothing is compiled; random states are given back at its end.

    One thread at a time is in it.

    Args:
        devices: the CUDA devices whose random states are kept beside the CPU's.

    >>> before = torch.random.get_rng_state()
    >>> with undisturbed():
    ...     _ = torch.rand(3)
    >>> torch.equal(before, torch.random.get_rng_state())
    True
    """
    with _ALONE, contextlib.ExitStack() as stack:
        stack.enter_context(warnings.catch_warnings())
        warnings.simplefilter("ignore")
        stack.callback(random.setstate, random.getstate())
        stack.callback(np.random.set_state, np.random.get_state())
        stack.enter_context(torch.random.fork_rng(list(devices)))
        if "torch._dynamo" in sys.modules:
            stack.enter_context(torch.compiler.set_stance("force_eager"))
        yield
