"""Several processes: ranks with data of their own that train copies of one model choose equal masks.

Nothing here communicates unless `torch.distributed` is initialized with more than one rank; then every rank must make
the same calls of `apply` and `Scheduler`. All messages go through one small exchange, so that a rank which fails is
heard by the others before any of them waits for its numbers.
"""

from __future__ import annotations

import contextlib
import math
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING

import torch
import torch.distributed as dist
from torch import Tensor

from sparsify_fx.distributed.collectives import gather, gather_texts, sum_in_place
from sparsify_fx.distributed.heard import heard, mark, text_of
from sparsify_fx.distributed.replicas import (
    group,
    has_same_batches,
    independent,
    use_group,
)
from sparsify_fx.distributed.tensor_hash import digest, fingerprints, text_hash
from sparsify_fx.errors import DistributedError
from sparsify_fx.sharding import sharded

if TYPE_CHECKING:
    from sparsify_fx.programs.program import WeightProgram

__all__ = [
    "averaged_if_different",
    "check_equal",
    "check_equal_masks",
    "check_equal_weights",
    "exchange",
    "group",
    "independent",
    "mean_number",
    "mean_over_ranks",
    "sum_over_ranks",
    "together",
    "use_group",
]

_OTHER_MODELS = "ranks that train models of their own belong under sparsify_fx.distributed.independent()"
_REMEDIES = {
    "masks": "Call apply after init_process_group, with the same weights (the same torch.manual_seed, or one state "
    "dict) and arguments on every rank; wrap the model in DistributedDataParallel before you build the Scheduler; in a "
    "training that is under way load the last checkpoint on every rank",
    "weights": "Wrap the model in DistributedDataParallel after apply and before you build the Scheduler, so that "
    "ranks start from the same weights and average their gradients, or do both yourself; in a training that is under "
    "way load the last checkpoint on every rank",
}


def exchange(
    moment: str, said: str = "", error: BaseException | None = None
) -> list[str]:
    """What every rank says at `moment`, in rank order; alone, only what was `said` here.

    Args:
        moment: what the ranks are about to do, the same text on every rank.
        error: why this rank cannot go on.

    Raises DistributedError on every rank when the ranks are at different moments, or when another one gave an error;
    on the rank that gave it, nothing is raised here: it raises its error itself.
    """
    ranks = group()
    if ranks is None:
        return [said]
    failure = "" if error is None else text_of(error)
    # Moments and errors are cut, so that what was `said` always fits into the message.
    messages = [
        text.split("\x1f")
        for text in gather_texts(ranks, f"{moment[:200]}\x1f{failure}\x1f{said}")
    ]
    # It has told; it goes on to raise its own error, which says more than the others' could.
    if error is not None:
        mark(error, [message[1] for message in messages[: dist.get_rank(ranks)]])
        return []
    # An error before a difference of moments: the rank that failed is at another moment because of it.
    failed = [
        (_name(ranks, i), message[1])
        for i, message in enumerate(messages)
        if message[1]
    ]
    if failed:
        told = DistributedError(
            f"rank {failed[0][0]} failed at {moment}: {failed[0][1]}; so no other rank goes on"
        )
        told.told_elsewhere = True
        raise told
    # Without this, ranks at different calls would add up tensors that have nothing to do with each other.
    if any(message[0] != messages[0][0] for message in messages):
        places = ", ".join(
            f"rank {_name(ranks, i)} at {message[0]}"
            for i, message in enumerate(messages)
        )
        raise DistributedError(
            f"every rank must make the same calls, but they differ: {places}; {_OTHER_MODELS}"
        )
    return [message[2] for message in messages]


@contextlib.contextmanager
def together(moment: str) -> Iterator[None]:
    """What one rank cannot do no rank goes on after: an error inside is raised on every rank, naming its rank."""
    with _first_to_fail(moment):
        yield
    exchange(moment)


def sum_over_ranks(
    moment: str, work: Callable[[], tuple[dict[str, Tensor], int]]
) -> tuple[dict[str, Tensor], int]:
    """The sums and the count that `work` gives, added up over the ranks; alone, exactly what it gives.

    Added in float64 in the order of the ranks, so that every rank has the same bits. Ranks may count differently.

    Args:
        work: computes this rank's sums by name, of equal shapes on all ranks, and how many terms they have.

    Raises DistributedError on every rank when `work` failed on one.
    """
    ranks = group()
    if ranks is None or has_same_batches():
        return work()
    # A rank whose work fails says so in place of its count: the one exchange below serves both.
    with _first_to_fail(moment):
        sums, count = work()
    # Names and shapes before any tensor: backends hang or crash on tensors of unequal sizes.
    shapes = ",".join(f"{name}{tuple(value.shape)}" for name, value in sums.items())
    said = exchange(moment, f"{count}/{len(sums)} tensors, digest {text_hash(shapes)}")
    counts, layouts = zip(*(text.split("/") for text in said), strict=True)
    if len(set(layouts)) > 1:
        raise DistributedError(
            f"at {moment} the ranks hold different models: {_by_rank(ranks, layouts)}; {_OTHER_MODELS}"
        )
    return {name: sum_in_place(ranks, value) for name, value in sums.items()}, sum(
        map(int, counts)
    )


def mean_over_ranks(
    moment: str, work: Callable[[], tuple[dict[str, Tensor], int]]
) -> dict[str, Tensor]:
    """The sums of `work` over all ranks divided by the number of terms over all ranks; see `sum_over_ranks`."""
    sums, count = sum_over_ranks(moment, work)
    return {name: value / count for name, value in sums.items()}


def mean_number(
    value: float | None, moment: str = "a mean over the ranks"
) -> float | None:
    """The mean of a number over the ranks that have one, the same on every rank; None when none has.

    >>> mean_number(0.5)
    0.5
    """
    said = exchange(moment, "" if value is None else float(value).hex())
    # Hexadecimal goes to and fro without rounding, and fsum does not depend on the order: all ranks have the same bits.
    numbers = [float.fromhex(text) for text in said if text]
    return math.fsum(numbers) / len(numbers) if numbers else None


def averaged_if_different(
    moment: str, tensors: Mapping[str, Tensor]
) -> dict[str, Tensor]:
    """`tensors` as they are where all ranks hold the same bits, else their mean over the ranks."""
    ranks = group()
    # Scores that are the same everywhere keep their bits: a mean of equal numbers may round.
    if (
        ranks is None
        or has_same_batches()
        or len(set(exchange(moment, digest(tensors)))) == 1
    ):
        return dict(tensors)
    return mean_over_ranks(
        moment,
        lambda: ({name: value.detach().clone() for name, value in tensors.items()}, 1),
    )


def check_equal_masks(programs: Mapping[str, WeightProgram], moment: str) -> None:
    """Compare the masks of all ranks; costs one exchange of a kilobyte.

    Args:
        programs: the model's weight programs by name.
        moment: for the message: "before the events of step 40".

    Raises DistributedError on every rank when masks differ; it names the ranks, a tensor, and what to do.
    """
    found = {name: program.current_mask() for name, program in programs.items()}
    check_equal(
        "masks",
        {name: mask for name, mask in found.items() if mask is not None},
        moment,
    )


def check_equal_weights(programs: Mapping[str, WeightProgram], moment: str) -> None:
    """Compare the trained tensors of all programs over the ranks, as `check_equal_masks` does with masks.

    They differ when nobody averages gradients: a model without DistributedDataParallel, or one wrapped too early.
    """
    found: dict[str, Tensor] = {}
    for name, program in programs.items():
        for key, parameter in program.named_parameters():
            # Shards are different ones by design.
            if not sharded(parameter):
                found[f"{name} ({key})"] = parameter
    check_equal("weights", found, moment)


def check_equal(what: str, tensors: Mapping[str, Tensor], moment: str) -> None:
    """Raise DistributedError on every rank unless all hold the same bits in `tensors`; see `check_equal_masks`.

    Args:
        what: "masks" or "weights".
    """
    ranks = group()
    if ranks is None:
        return
    names = list(tensors)
    # Hashes and not tensors: a comparison costs a kilobyte at every event, whatever the size of the model.
    layout = f"{len(names)} tensors, digest {text_hash(','.join(names))}"
    said = [
        text.split("/")
        for text in exchange(
            f"comparing {what} {moment}", f"{digest(tensors)}/{layout}"
        )
    ]
    if len({text[1] for text in said}) > 1:
        told = _by_rank(ranks, [text[1] for text in said])
        raise DistributedError(
            f"{moment} the ranks hold different models: {told}; {_OTHER_MODELS}"
        )
    # Only now, in the case of an error, the fingerprint of each tensor is sent, to name the first that differs.
    if len({text[0] for text in said}) > 1:
        raise DistributedError(
            f"{moment} {_difference(ranks, what, tensors)}. {_REMEDIES[what]}; {_OTHER_MODELS}"
        )


def _difference(
    ranks: dist.ProcessGroup, what: str, tensors: Mapping[str, Tensor]
) -> str:
    """Which ranks differ from most others (from the first, when no side is larger), in which tensors."""
    own = torch.tensor(fingerprints(tensors), dtype=torch.int64, device="cpu")
    every = [row.tolist() for row in gather(ranks, own)]
    odd: set[int] = set()
    names = []
    for name, values in zip(tensors, zip(*every, strict=True), strict=True):
        # The majority is right, most likely; between equal sides `most_common` takes the first it met, rank 0's.
        usual = Counter(values).most_common(1)[0][0]
        others = {i for i, value in enumerate(values) if value != usual}
        if others:
            names.append(name)
            odd |= others
    who = ", ".join(str(_name(ranks, i)) for i in sorted(odd))
    more = f" and {len(names) - 1} other tensors" if len(names) > 1 else ""
    return f"the {what} of {names[0]}{more} on rank {who} differ from those of the other ranks"


def _by_rank(ranks: dist.ProcessGroup, texts: Sequence[str]) -> str:
    return ", ".join(f"rank {_name(ranks, i)}: {text}" for i, text in enumerate(texts))


def _name(ranks: dist.ProcessGroup, position: int) -> int:
    """The rank's number in the whole job."""
    return dist.get_global_rank(ranks, position)


@contextlib.contextmanager
def _first_to_fail(moment: str) -> Iterator[None]:
    """As `together`, but a success is not said yet."""
    try:
        yield
    except Exception as error:
        # An error that all ranks know of must not be told again: the others are not in an exchange any more.
        if not heard(error):
            exchange(moment, error=error)
        raise
