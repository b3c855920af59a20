"""Which models a suite holds: all of torchvision, and of timm the smallest variant of every architecture module."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from types import ModuleType

from sparsify_fx.coverage.timm_sizes import parameters_of
from sparsify_fx.errors import ConfigError, unknown

SUITES = ("torchvision", "timm")


@dataclass(frozen=True)
class Subject:
    """One model to examine.

    Attributes:
        suite: the library it comes from.
        name: its name there.
        group: what it does (torchvision: classification, detection, ...), or its architecture module (timm).
        parameters: how many it has.
    """

    suite: str
    name: str
    group: str
    parameters: int


def subjects(
    suite: str,
    *,
    every: bool = False,
    max_parameters: int | None = None,
    names: Sequence[str] = (),
) -> list[Subject]:
    """The models of a suite, smallest first.

    Args:
        suite: "torchvision" or "timm".
        every: all of timm's names instead of the smallest of each module; torchvision always has all.
        max_parameters: leave larger models out.
        names: only these, whichever module they belong to.

    Raises UnknownNameError for a suite or model that does not exist, and ConfigError when nothing is left.

    >>> [subject.name for subject in subjects("torchvision", max_parameters=1_300_000)]
    ['raft_small', 'squeezenet1_1', 'squeezenet1_0']
    """
    if suite not in SUITES:
        raise unknown("suite", suite, SUITES)
    # By name any of timm's models is meant, not only the smallest of each module.
    found = _torchvision() if suite == "torchvision" else _timm(every or bool(names))
    if names:
        known = {subject.name: subject for subject in found}
        for name in names:
            if name not in known:
                raise unknown(f"{suite} model", name, known)
        found = [known[name] for name in dict.fromkeys(names)]
    small = [
        s for s in found if max_parameters is None or s.parameters <= max_parameters
    ]
    if not small:
        raise ConfigError(
            f"no {suite} model has at most {max_parameters} parameters; raise --max-parameters"
        )
    return sorted(small, key=lambda subject: (subject.parameters, subject.name))


def shard(found: Sequence[Subject], text: str) -> list[Subject]:
    """The i-th of n parts of the list, for "i/n" with i from 1 to n; every n-th model, so that parts take equally long.

    Raises ConfigError for another text.

    >>> models = subjects("torchvision")
    >>> sum(len(shard(models, f"{i}/4")) for i in (1, 2, 3, 4)) == len(models)
    True
    """
    first, _, count = text.partition("/")
    if not (first.isdecimal() and count.isdecimal() and 1 <= int(first) <= int(count)):
        raise ConfigError(
            f"--shard {text} must be i/n with i from 1 to n, for instance 1/4"
        )
    # The list is sorted by size, so every n-th model gives each part small and large ones.
    return list(found[int(first) - 1 :: int(count)])


def _torchvision() -> list[Subject]:
    from torchvision import models

    groups: dict[str, ModuleType] = {
        "classification": models,
        "segmentation": models.segmentation,
        "detection": models.detection,
        "video": models.video,
        "optical flow": models.optical_flow,
        # Float models that are made ready to be quantized.
        "quantizable": models.quantization,
    }
    found = []
    for group, module in groups.items():
        for name in models.list_models(module=module):
            count = _torchvision_parameters(name)
            found.append(Subject("torchvision", name, group, count))
    return found


def _torchvision_parameters(name: str) -> int:
    """What the library notes beside its weights; the weights themselves are never loaded."""
    from torchvision import models

    # Every set of weights of a model notes it, and they are all of the same architecture: the first will do.
    return next(
        int(entry.meta["num_params"]) for entry in models.get_model_weights(name)
    )


def _timm(every: bool) -> list[Subject]:
    import timm

    found: list[Subject] = []
    for module in timm.list_modules():
        variants = [
            Subject("timm", name, module, parameters_of(name))
            for name in timm.list_models(module=module)
        ]
        found += variants if every else sorted(variants, key=_smallest)[:1]
    # A name may be registered by two modules; one look at its model is enough.
    return list({subject.name: subject for subject in found}.values())


def _smallest(subject: Subject) -> tuple[bool, int, int, str]:
    """Fewest parameters, then the smallest images, then the name; the toys of timm's own tests (`test_vit`) last."""
    import timm

    config = timm.get_pretrained_cfg(subject.name)
    side = 0 if config is None else config.input_size[-1]
    return subject.name.startswith("test_"), subject.parameters, side, subject.name
