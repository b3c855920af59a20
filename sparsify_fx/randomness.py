"""Seeds from words, and trial runs that leave no trace: no random number, warning or compilation."""

from __future__ import annotations

import contextlib
import hashlib
import random
import sys
import threading
import warnings
from collections.abc import Iterator, Sequence

import numpy as np
import torch

_ALONE = threading.RLock()
"""Warning filters, random states and the compiler's stance belong to the process: two threads that change them and put
them back by turns would leave one another's changes in force."""


def seed_of(words: str, *, signed: bool = False) -> int:
    """A 64-bit seed: the first 8 bytes of blake2b of the words, big-endian; `signed`: from -2**63 to 2**63 - 1.

    The same in every process and version of Python, which `hash` is not, and unrelated for words that differ. torch's
    generators take negative seeds for other ones than their bits say, so both forms stay as each use began with them.

    >>> seed_of("shuffle:0:1:0"), seed_of("shuffle:0:1:0", signed=True)
    (18221610862998201753, -225133210711349863)
    """
    digest = hashlib.blake2b(words.encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big", signed=signed)


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
        # The trial may call user code, which may draw from any of these.
        stack.callback(random.setstate, random.getstate())
        stack.callback(np.random.set_state, np.random.get_state())
        stack.enter_context(torch.random.fork_rng(list(devices)))
        # Trials on small tensors must not fill torch.compile's cache. Where nobody has imported the compiler,
        # nothing is compiled, and its import would take long.
        if "torch._dynamo" in sys.modules:
            stack.enter_context(torch.compiler.set_stance("force_eager"))
        yield
