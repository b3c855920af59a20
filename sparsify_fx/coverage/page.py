"""The page of the documentation that the command writes."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from sparsify_fx.coverage.checks import CHECKS
from sparsify_fx.coverage.report import markdown
from sparsify_fx.coverage.results import ModelResult, versions
from sparsify_fx.coverage.suites import SUITES, subjects
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


def write_page(path: Path, results: Sequence[ModelResult]) -> None:
    """Write the page; the folder must exist."""
    # Models that nobody looked at are named, or a page of half a sweep would look like one of all.
    seen = {result.key for result in results}
    unseen = []
    for suite in SUITES:
        left = [s.name for s in subjects(suite) if (suite, s.name) not in seen]
        unseen += [f"{suite} {name}" for name in left]
    write_text(
        path, markdown(results, list(CHECKS), versions(), introduction(), unseen)
    )


def introduction() -> str:
    """What stands above the tables: how they are made, and what each check promises."""
    # The checks' own docstrings, so that the page cannot promise what the code does not look at.
    checks = "\n".join(
        f"- `{name}`: {(check.__doc__ or '').strip()}" for name, check in CHECKS.items()
    )
    return _INTRO.format(checks=checks)
