"""The sweep of a figure at a scale: the paper's own, or a labeled reduction to digits on a CPU."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from sparsify_fx.errors import ConfigError, DataError, LabError
from sparsify_fx.reproduce.catalog import PAPERS
from sparsify_fx.reproduce.figure import Figure, Scale
from sparsify_fx.sweeps.grid import Trial
from sparsify_fx.train.config import TrainConfig
from sparsify_fx.train.files import write_text
from sparsify_fx.train.safe_yaml import parse_yaml
from sparsify_fx.zoo.data import LIMIT_BYTES, load_data

# A recipe of its own, and not the paper's with changes: nothing of another net's rates and decays is left in it.
REDUCED = "mnist5k-lenet5-bn"
# The grid of [Gadhikar 2024]: 1 − 0.8^2 and 1 − 0.8^18, which is 0.98.
_TWO, _ALL = 0.36, 0.9819856
REDUCTIONS: dict[Scale, dict[str, Any]] = {
    "full": {},
    "cpu": {
        "recipe": REDUCED,
        "seed": [0, 1, 2],
        "set": {"epochs": 6},
        "trial": {"cpus": 1, "gpus": 0},
    },
    "tiny": {
        "recipe": REDUCED,
        "seed": [0],
        "set": {"epochs": 2, "data": "mnist5k:500", "batch_size": 20},
        "trial": {"cpus": 1, "gpus": 0},
    },
}
LABELS: dict[Scale, str] = {
    "full": "the paper's hyperparameters",
    "cpu": f"a reduction: {REDUCED}, 6 epochs a cycle, 3 seeds; orders can be compared, levels cannot",
    "tiny": f"a smoke test: {REDUCED} on 400 digits, 2 epochs a cycle, one seed; it says nothing about the paper",
}


def plan_of(
    figure: Figure, scale: Scale, changes: Sequence[str] = ()
) -> dict[str, Any]:
    """The content of a sweep's file.

    Args:
        figure: one that is trained.
        scale: full, cpu or tiny.
        changes: "key=value", the value in YAML; they count above all else that is set for every trial.

    Raises ConfigError for a change without a key or value.
    """
    plan = merged(figure.sweep, REDUCTIONS[scale])
    # Whole cycles down to 0.98 take minutes, which a smoke test has not.
    if scale == "tiny" and plan.get("sparsity") == [_ALL]:
        plan["sparsity"] = [_TWO]
    own = {"full": figure.full, "cpu": figure.cpu, "tiny": figure.tiny}
    plan = merged(plan, own[scale])
    values = plan.pop("values", {})
    plan = merged(plan, {"set": dict(_change(told) for told in changes)})
    found: dict[str, Any] = _filled(plan, values)
    return found


def _filled(content: Any, values: Mapping[str, Any]) -> Any:
    """With `$name` replaced by what `values` has under that name: epochs and strengths that a reduction changes."""
    if isinstance(content, Mapping):
        return {key: _filled(value, values) for key, value in content.items()}
    if isinstance(content, list):
        return [_filled(value, values) for value in content]
    if isinstance(content, str) and content.startswith("$"):
        return values[content[1:]]
    return content


def _change(told: str) -> tuple[str, Any]:
    key, equals, value = told.partition("=")
    if not (key and equals):
        raise ConfigError(f"--set {told}: expected key=value, such as batch_size=64")
    return key, yaml.safe_load(value)


def merged(below: Mapping[str, Any], above: Mapping[str, Any]) -> dict[str, Any]:
    """Sections joined key by key; everything else of `above` stands in place of what is below.

    >>> merged({"set": {"a": 1}, "seed": [0]}, {"set": {"b": 2}, "seed": [1]})
    {'set': {'a': 1, 'b': 2}, 'seed': [1]}
    """
    found = dict(below)
    for key, value in above.items():
        old = found.get(key)
        if isinstance(old, Mapping) and isinstance(value, Mapping):
            found[key] = merged(old, value)
        else:
            found[key] = value
    return found


def sweep_text(figure: Figure, scale: Scale, plan: Mapping[str, Any]) -> str:
    """The sweep's file, which `sparsify-fx sweep` and `compare` take too."""
    head = (
        f"# {PAPERS[figure.key]}, {figure.told}: {figure.title}\n# {LABELS[scale]}\n"
        f"# Written by: {figure.command} --scale {scale}\n"
    )
    # Dumped without aliases, which a reader would have to look up.
    return head + _Plain.dumped(plan)


class _Plain(yaml.SafeDumper):
    """YAML without anchors and aliases."""

    def ignore_aliases(self, data: Any) -> bool:
        """Written out wherever it stands."""
        return True

    @classmethod
    def dumped(cls, content: Mapping[str, Any]) -> str:
        """As text, keys in their order; ConfigError where it would not be read again as the same."""
        text: str = yaml.dump(
            dict(content), Dumper=cls, sort_keys=False, allow_unicode=True, width=120
        )
        if parse_yaml(text, "sweep") != dict(content):
            raise ConfigError(
                "a sweep that YAML cannot hold; give plain numbers, texts and lists"
            )
        return text


def check_data(figure: Figure, trials: Mapping[str, Trial]) -> None:
    """Every data set is there, once for all trials; CIFAR and MNIST are downloaded by the first that asks.

    Raises DataError that names each which is missing, where it was expected, and what to do.
    """
    wanted: dict[tuple[str, str], TrainConfig] = {}
    for trial in trials.values():
        config = trial.config({})
        wanted.setdefault((config.data, config.data_root), config)
    missing = []
    for (spec, root), config in wanted.items():
        try:
            # Streamed, whatever its size: images are listed here, and decoded by the trials.
            limit = 0 if spec.startswith("imagefolder:") else LIMIT_BYTES
            load_data(
                spec, root=Path(root), image_size=config.image_size, limit_bytes=limit
            )
        except DataError as error:
            missing.append(str(error))
    if missing:
        raise DataError(
            f"{figure.key} {figure.name} is trained on data that are not there: {'; '.join(missing)}. Put them there, "
            "name another place with --set data=imagefolder:PATH, or take --scale cpu, which needs digits alone"
        )


def write_sweep(
    figure: Figure, scale: Scale, out: Path, changes: Sequence[str] = ()
) -> Path:
    """The sweep's file in `out`: {key}-{name}-{scale}.yaml; LabError where it cannot be written."""
    text = sweep_text(figure, scale, plan_of(figure, scale, changes))
    path = out / f"{figure.key}-{figure.name}-{scale}.yaml"
    try:
        out.mkdir(parents=True, exist_ok=True)
        write_text(path, text)
    except OSError as error:
        raise LabError(
            f"cannot write to {out}: {error.strerror or error}; choose another --out"
        ) from error
    return path
