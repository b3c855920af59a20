"""What a sweep found, for people: a table on the console, and the page of the documentation."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Sequence

from sparsify_fx.coverage.results import FAILED, NO_EXPORT, PASSED, ModelResult, Outcome
from sparsify_fx.tables.fitting import FittingTable

_SHARE = re.compile(r"[01]\.\d+(?= of )")
_MARKS = {PASSED: "yes", FAILED: "**no**", NO_EXPORT: "dense: no"}


def summary_rows(
    results: Sequence[ModelResult], checks: Iterable[str]
) -> list[tuple[str, str, str, str]]:
    """(suite, check, passed of those that could, remark) for each suite and check that ran."""
    rows = []
    for suite in dict.fromkeys(result.suite for result in results):
        for check in checks:
            outcomes = [
                r.checks[check]
                for r in results
                if r.suite == suite and check in r.checks
            ]
            # A model that torch.onnx cannot write dense says nothing of this package: it is left out of the share, and
            # its number stands in the remark.
            able = [outcome for outcome in outcomes if outcome.state != NO_EXPORT]
            total = sum(r.suite == suite for r in results)
            if outcomes:
                passed = sum(outcome.state == PASSED for outcome in able)
                share = f" ({100 * passed / len(able):.1f} %)" if able else ""
                rows.append(
                    (
                        suite,
                        check,
                        f"{passed} of {len(able)}{share}",
                        _remark(outcomes, total - len(outcomes)),
                    )
                )
    return rows


def _remark(outcomes: Sequence[Outcome], missing: int) -> str:
    """What follows the share: how many could not be counted, and how many passed on further proofs."""
    dense = sum(outcome.state == NO_EXPORT for outcome in outcomes)
    rounded = [outcome for outcome in outcomes if _is_rounding(outcome)]
    # Outcomes are read back from JSON, so which proof a check needed is in the words of its note alone.
    alone = sum("float64" in outcome.note for outcome in rounded)
    fixed = sum("fixed batch" in outcome.note for outcome in outcomes)
    remarks = [
        (missing, "not examined yet"),
        (dense, "have no dense export"),
        (fixed, "with a fixed batch size"),
    ]
    remarks += [(alone, "above 1e-5 by rounding only, shown in float64")]
    remarks += [(len(rounded) - alone, "above 1e-4, as rounding alone in PyTorch is")]
    return "; ".join(f"{count} {text}" for count, text in remarks if count)


def _is_rounding(outcome: Outcome) -> bool:
    """Whether the check passed on further proofs: its remark then holds their figures."""
    return outcome.state == PASSED and "by rounding of float32" in outcome.note


def summary_table(
    results: Sequence[ModelResult], checks: Iterable[str]
) -> FittingTable:
    """How many models passed, one row for each suite and check, for the console."""
    table = FittingTable("suite", "check", "passed", "remark")
    for row in summary_rows(results, checks):
        table.add_row(*row)
    return table


def failure_table(results: Iterable[ModelResult]) -> FittingTable:
    """One row for each check that failed, with its reason, for the console."""
    table = FittingTable("model", "check", "reason")
    for result in results:
        for check, reason in result.failures().items():
            table.add_row(result.name, check, reason)
    return table


def line_of(number: int, count: int, result: ModelResult) -> str:
    """One line of progress: `3/109 resnet18: passed, 12 s`."""
    failures = result.failures()
    said = (
        "; ".join(f"{check}: {reason}" for check, reason in failures.items())
        if failures
        else "passed"
    )
    dense = [
        outcome.note for outcome in result.checks.values() if outcome.state == NO_EXPORT
    ]
    # Reasons of torch.onnx go over pages; the results keep them whole.
    said += f"; no dense export: {dense[0][:120]}" if dense else ""
    return f"{number}/{count} {result.name}: {said}, {result.seconds():.0f} s, {result.peak_memory / 2**30:.1f} GB"


def markdown(
    results: Sequence[ModelResult],
    checks: Sequence[str],
    versions: dict[str, str],
    intro: str,
    unseen: Sequence[str] = (),
) -> str:
    """The page: what is checked, how many pass, which models nobody looked at, every model, every reason."""
    parts = [intro.strip(), "## Result", _summary(results, checks)]
    parts.append(
        "Versions: "
        + ", ".join(f"{name} {number}" for name, number in versions.items())
        + "."
    )
    if unseen:
        parts.append(
            f"Not examined yet, and in none of the numbers: {', '.join(unseen)}."
        )
    failed = _reasons(results, lambda outcome: outcome.state == FAILED)
    parts += ["## Failures", failed or "None."]
    # By suite in the order of the files that were given, not sorted: the order of the command line is the reader's.
    for suite in dict.fromkeys(result.suite for result in results):
        parts += [
            f"## {suite}",
            _models([r for r in results if r.suite == suite], checks),
        ]
    dense = _reasons(results, lambda outcome: outcome.state == NO_EXPORT)
    if dense:
        parts += ["## Models whose dense form has no export", dense]
    rounding = _reasons(results, _is_rounding)
    if rounding:
        parts += ["## Differences by rounding alone", rounding]
    return "\n\n".join(parts) + "\n"


def _summary(results: Sequence[ModelResult], checks: Iterable[str]) -> str:
    """`summary_rows` in Markdown."""
    return _table(("suite", "check", "passed", "remark"), summary_rows(results, checks))


def _models(results: Sequence[ModelResult], checks: Sequence[str]) -> str:
    """A row for each model with a mark for each check; the cell of one that has not run yet stays empty."""
    # Whole channels are pruned by what they compute: no number of weights is asked for.
    counted = any(result.weights for result in results)
    rows = []
    for r in sorted(results, key=lambda r: (r.group, r.name)):
        marks = [_mark(r.checks[c]) if c in r.checks else "" for c in checks]
        first = (r.name, r.group, f"{r.parameters / 1e6:.1f} M", r.inputs)
        rows.append((*first, *([str(r.weights)] if counted else []), *marks))
    head = ("model", "group", "parameters", "input", *(["weights"] if counted else []))
    return _table((*head, *checks), rows)


def _mark(outcome: Outcome) -> str:
    """Yes or no, or the share that was left, with which some notes begin."""
    share = _SHARE.match(outcome.note)
    if share is None:
        return _MARKS[outcome.state]
    return share[0] if outcome.state == PASSED else f"{_MARKS[outcome.state]}, {share[0]}"  # fmt: skip


def _reasons(results: Iterable[ModelResult], chosen: Callable[[Outcome], bool]) -> str:
    """A table of the notes of all outcomes that are chosen; "" when none is."""
    rows = []
    for result in results:
        # What several checks of a model failed of stands there once.
        by_note: dict[str, list[str]] = {}
        for check, outcome in result.checks.items():
            if chosen(outcome):
                by_note.setdefault(outcome.note, []).append(check)
        rows += [
            (result.name, ", ".join(names), _cell(note))
            for note, names in by_note.items()
        ]
    return _table(("model", "check", "reason"), rows) if rows else ""


def _cell(text: str) -> str:
    """Text that cannot break a Markdown table or become markup."""
    # As code, in which Markdown sees no markup: names such as __init__ would come out bold.
    plain = text.replace("`", "'").replace("|", "/")
    return f"`{plain}`"


def _table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A table in Markdown."""
    lines = [
        "| " + " | ".join(row) + " |" for row in (head, ["---"] * len(head), *rows)
    ]
    return "\n".join(lines)
