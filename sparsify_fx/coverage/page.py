"""The page of the documentation that the command writes."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from sparsify_fx.coverage.bench import Bench
from sparsify_fx.coverage.checks import CHECKS
from sparsify_fx.coverage.report import markdown
from sparsify_fx.coverage.results import ModelResult, versions
from sparsify_fx.coverage.structured_check import STRUCTURED
from sparsify_fx.coverage.suites import SUITES, subjects
from sparsify_fx.errors import ConfigError
from sparsify_fx.train.files import write_text

_INTRO = """\
# Coverage

Every model of torchvision, and the smallest variant of every architecture module of timm, rewritten and checked, each
in its own process. This page is written by the command:

```
sparsify-fx coverage --suite torchvision --json torchvision.json
sparsify-fx coverage --suite timm --json timm.json
sparsify-fx coverage --results torchvision.json --results timm.json --markdown docs/coverage.md
```

Stopped, it goes on from its file; `--shard 1/4` divides the work; `--all --max-parameters 50000000` takes every name of
timm up to that size.

## What is checked

{checks}

Weights are random, for nothing is downloaded. Parameters that are constant at the start (heads of zeros, layer scales
of 1e-6) get noise of 0.1, and batch norms the statistics of one batch, so that every layer shows in the outputs; for
the same reason weights grow by √10 before 90 % of them go. Detectors keep all scores, so that they detect something.
Inputs are the smallest that the model takes, two at a time.

A difference is the largest one, as a share of the largest value of the output. m·w is θ but for the last bit, and deep
nets with random weights, above all in training mode with two samples per batch norm, can make more than 1e-5 of that.
Such a model passes only on two further proofs, and is listed with their figures: the plain model with the weights m·w
gives the rewritten one's outputs within 1e-5 in float32, so rewriting adds nothing but the rounding of m·w; and in
float64, where rounding is 5e8 times smaller, the difference from the original is below 1e-7. (That second bound was
1e-9 at first; timm's inception_v3 in training mode, at 4e-9, made it too narrow.)

onnxruntime must give PyTorch's outputs to 1e-4. Where it does not, PyTorch itself is run in float32 and float64: if
rounding alone makes more than 1e-5 there, onnxruntime may differ by ten times as much, and the model is listed with
both figures. Rounding of more than 1e-2 would prove nothing: the batch norms, which saw two samples, are then
calibrated on 32, and the check is made again.
"""


_STRUCTURED = """\
# Coverage of whole channels

Every model of torchvision, and the smallest variant of every architecture module of timm: half of its multiply-adds
removed as whole channels, each in its own process. This page is written by the command:

```
sparsify-fx coverage --structured --suite torchvision --json docs/results/coverage_structured_torchvision.json
sparsify-fx coverage --structured --suite timm --json docs/results/coverage_structured_timm.json
sparsify-fx coverage --results docs/results/coverage_structured_torchvision.json \\
    --results docs/results/coverage_structured_timm.json --markdown docs/results/coverage_structured.md
```

Stopped, it goes on from its file, which is there as the raw result. [What is coupled, and what `shrink`
does](../channels.md); [Torch-Pruning on the same models](torch_pruning_coverage.md).

## What is checked

{checks}

Weights are random, for nothing is downloaded; inputs are the smallest that the model takes, two at a time. Where half
of the work is out of reach, 0.55 of it may be left, and then images are of the size that the model is made for, up to
256 pixels. Channels are chosen by magnitude, the same fraction of each width (`allocation="uniform"`). A difference
is the largest one, as a share of the largest value of the output, and at most 1e-5; a model that makes more of the
rounding of float32 is judged in float64, and says so.

The tables give what is left: of the multiply-adds, of the parameters, and of the bytes of the dense weights in the
file.
"""


def write_page(path: Path, results: Sequence[ModelResult]) -> None:
    """Write the page of what these results are of; the folder must exist.

    Raises ConfigError for results of both kinds: a page tells of one.
    """
    structured = {bool(set(STRUCTURED) & set(result.checks)) for result in results}
    if structured == {True, False}:
        raise ConfigError(
            "some of these results are of `coverage --structured` and some are not; write a page of each kind"
        )
    checks = STRUCTURED if structured == {True} else CHECKS
    # Models that nobody looked at are named, or a page of half a sweep would look like one of all.
    seen = {result.key for result in results}
    unseen = []
    for suite in SUITES:
        left = [s.name for s in subjects(suite) if (suite, s.name) not in seen]
        unseen += [f"{suite} {name}" for name in left]
    write_text(
        path, markdown(results, list(checks), versions(), introduction(checks), unseen)
    )


def introduction(checks: Mapping[str, Callable[[Bench], str]] = CHECKS) -> str:
    """What stands above the tables: how they are made, and what each check promises."""
    # The checks' own docstrings, so that the page cannot promise what the code does not look at.
    told = "\n".join(
        f"- `{name}`: {(check.__doc__ or '').strip()}" for name, check in checks.items()
    )
    text = _STRUCTURED if checks is STRUCTURED else _INTRO
    return text.format(checks=told)
