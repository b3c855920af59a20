"""Whether a run, or one that it takes masks, signs or weights from, has the same data and the same start.

The name of a run folder is a hash of the configuration, which names the data but does not hold them. What they hold is
kept in the folder as a digest. Folders of sparsify_fx 0.1 have none and go on working; a log line says so.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from sparsify_fx.errors import CheckpointError, SparsifyError
from sparsify_fx.train.config import TrainConfig
from sparsify_fx.train.recipes import read_recipe
from sparsify_fx.train.run_folder import CONFIG, RunFolder
from sparsify_fx.zoo.data import data_digest

_LOG = logging.getLogger(__name__)
_FACTS = ("model", "seed", "init")


def check_finished(folder: RunFolder, config: TrainConfig) -> None:
    """CheckpointError when a finished run was trained on other data than those that its configuration names now.

    Data that are not there any more cannot be compared: a log line says so.
    """
    # Missing data are no error here: a finished result is often looked at where its data are not.
    try:
        now = data_digest(config.data, root=Path(config.data_root))
    except SparsifyError as error:
        _LOG.warning(
            "%s is finished; its data cannot be compared with what they were: %s",
            folder.path,
            error,
        )
        return
    check_data(folder, now, "is finished")


def check_data(
    folder: RunFolder,
    now: str,
    state: str = "was begun",
    remedy: str = "choose another --runs, or start afresh with --force",
) -> None:
    """CheckpointError when the data of a run are others `now`; `state`, `remedy`: for the error."""
    then = known_digest(folder)
    if then is None:
        _LOG.warning(
            "%s holds no digest of its data, as runs of sparsify_fx 0.1: they are taken to be the same",
            folder.path,
        )
    elif now and then != now:
        raise CheckpointError(
            f"{folder.path} {state}, but on other data: their digest was {then[:10]}…, now it is {now[:10]}…; bring "
            f"the data back, {remedy}"
        )


def known_digest(folder: RunFolder) -> str | None:
    """The digest of the data that a run was begun on; None where it is not known."""
    digest = (folder.data() or {}).get("digest")
    # An empty digest is that of data whose loader takes none, and as good as no digest.
    if digest is not None and not isinstance(digest, str):
        raise CheckpointError(
            f"{folder.path}/data.json holds no digest; train again with --force"
        )
    return digest or None


def check_donors(config: TrainConfig) -> None:
    """CheckpointError when a run that `config` takes from has another model, seed, initialization or other data.

    What `config.allow_other` names may differ. DataError when the data of `config` are not there.
    """
    # A run may be named by init_from and by an axis. Our own data are read only where there is something to compare.
    donors = dict.fromkeys(_donors(config))
    now = data_digest(config.data, root=Path(config.data_root)) if donors else ""
    for path in donors:
        place = path if path.is_dir() else path.parent
        if not (place / CONFIG).is_file():
            _LOG.warning(
                "%s has no %s beside it: its model, seed, init and data are not compared",
                path,
                CONFIG,
            )
            continue
        # All differences at once: who allows one of them should not be told of the next by another failure.
        odd = {
            fact: told
            for fact, told in _differences(config, RunFolder(place), now)
            if fact not in config.allow_other
        }
        if odd:
            raise CheckpointError(
                f"{path} does not fit this {' and '.join(odd)}: {'; '.join(odd.values())}. Take from a run that "
                f"differs in nothing but the method, or allow it with allow_other=[{', '.join(odd)}]"
            )


def _donors(config: TrainConfig) -> Iterator[Path]:
    """The paths of all runs that a configuration takes from; one may come twice."""
    for source in config.init_from:
        yield Path(source.run)
    yield from _named(config.find_method().resolved().to_dict())


def _named(value: Any) -> Iterator[Path]:
    """The paths of runs among the options of axes, which are called `run` or `source`."""
    if isinstance(value, Mapping):
        for key, part in value.items():
            if key in ("run", "source") and isinstance(part, str):
                yield Path(part)
            else:
                yield from _named(part)
    elif isinstance(value, (list, tuple)):
        for part in value:
            yield from _named(part)


def _differences(
    config: TrainConfig, donor: RunFolder, now: str
) -> Iterator[tuple[str, str]]:
    """(fact, what it is there and here) for all in which the donor differs; `now`: the digest of our data."""
    # Read as plain values, not as a TrainConfig: a method out of a plugin that is not loaded must not matter here.
    theirs = read_recipe(donor.path / CONFIG)
    for fact in _FACTS:
        # A file of an older version lacks keys that are newer than it; it meant their defaults.
        there = theirs.get(fact, TrainConfig.model_fields[fact].default)
        here = getattr(config, fact)
        if there != here:
            yield fact, f"{fact} is {there!r} there, {here!r} here"
    # By content where both digests are known, since the same data may lie at another path; else by name.
    digest = known_digest(donor)
    if digest is None or not now:
        if theirs.get("data") != config.data:
            yield "data", f"data is {theirs.get('data')!r} there, {config.data!r} here"
            return
        _LOG.warning(
            "%s holds no digest of its data, as runs of sparsify_fx 0.1: only their name agrees",
            donor.path,
        )
    elif digest != now:
        yield "data", f"the data of {theirs.get('data')!r} are others there"
    # The digest is taken before images are resized, so equal digests say nothing of the size that was trained on.
    if theirs.get("image_size") != config.image_size:
        yield (
            "data",
            f"image_size is {theirs.get('image_size')!r} there, {config.image_size!r} here",
        )
