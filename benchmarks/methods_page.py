"""The pages of benchmarks/methods_table.py: docs/results/methods_mnist5k.md and strengths.md."""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Sequence
from typing import Any

from benchmarks.methods_results import Results
from benchmarks.methods_scans import ANY, SCANS, SUFFIX, Scan, chosen, scan_of

# Two-sided 95 %, by number of seeds.
STUDENT_T = {2: 12.706, 3: 4.303, 4: 3.182, 5: 2.776}
COMMAND = "python -m benchmarks.methods_table"
FORMER = " †"
# A sparsity that is farther from the requested one is told beside the accuracy.
NEAR = 1e-3

TABLE = """# All methods on 5,000 digits

Test accuracy in per cent on 1,000 real digits, mean and 95 % interval over {seeds} seeds.
LeNet-300-100, recipe `{recipe}` with batch {batch_size} and Kaiming initialization, {budget} epochs
in all for every method; cycles share them and keep {keep} of the weights each. `dense` has no zeros, and is the same
in every column; `keep-zeros` is not here, for it keeps the zeros of a pruned checkpoint.

The digits are easy and the budget is short: the table shows that every method works and where it breaks,
not a ranking.

{table}

{notes}

Made by `{command}`. Raw results: `docs/results/methods_mnist5k.json`.
"""
CHOSEN = """The strengths of the `{suffix}` rows are constant. They were chosen on {share:.0%} of the training digits,
which were kept aside ([scans](strengths.md)); then the net was trained on all of them:"""
SCANNED = """# Strengths, scanned

Accuracy in per cent on {share:.0%} of the 4,000 training digits, which were kept aside, after training on the others
with a constant strength for {budget} epochs. In bold: the strength that is chosen for the sparsity. With it the rows
`{suffix}` of [the table of methods](methods_mnist5k.md) are trained on all 4,000 and tested on the 1,000 test digits,
beside the rows of the methods' own strengths, most of which are led to the requested sparsity.
One seed: two points say little.

{tables}

Made by `{command}`. Raw results: `docs/results/methods_mnist5k.json`.
"""
OUT_OF_STRENGTH = """The sparsity is what comes out, whatever is requested; the strength that comes nearest to a
requested sparsity is chosen for it.
"""


def interval(values: Sequence[float]) -> str:
    """Mean and half-width of the 95 % interval, in per cent.

    >>> interval([0.9, 0.92])
    '91.0 ± 12.7'
    """
    mean = 100 * statistics.mean(values)
    if len(values) < 2:
        return f"{mean:.1f}"
    spread = statistics.stdev(values) / len(values) ** 0.5
    return f"{mean:.1f} ± {100 * STUDENT_T[len(values)] * spread:.1f}"


def markdown(heads: Iterable[str], rows: Iterable[Iterable[str]]) -> str:
    """A table."""
    found = [list(heads), *map(list, rows)]
    lines = ["| " + " | ".join(cells) + " |" for cells in found]
    lines.insert(1, "|---" * len(found[0]) + "|")
    return "\n".join(lines)


def columns(results: Results) -> list[str]:
    """The sparsities, ascending."""
    found = set()
    for kind in ("cells", "former"):
        for row in results[kind].values():
            found |= set(row)
    return sorted(found - {ANY}, key=float)


def rows_of(results: Results) -> list[str]:
    """The rows: methods, then sums."""
    found = {*results["cells"], *results["former"]}
    return sorted(found, key=lambda row: ("+" in row, row))


def cell(results: Results, row: str, column: str) -> str:
    """A cell of the table: of its seeds, or as an older page had it."""
    found = results["cells"].get(row, {})
    seeds = list(found.get(column, found.get(ANY, {})).values())
    former = results["former"].get(row, {}).get(column)
    if former is not None and len(seeds) < results["setting"]["seeds"]:
        return str(former["shown"]) + FORMER
    if not seeds:
        return "not run"
    if any("error" in seed for seed in seeds):
        return "failed"
    shown = interval([seed["accuracy"] for seed in seeds])
    if len(seeds) < results["setting"]["seeds"]:
        shown += f" (n = {len(seeds)})"
    sparsity = statistics.mean(seed["sparsity"] for seed in seeds)
    meant = row != "dense" and abs(sparsity - float(column)) > NEAR
    return f"{shown} (s = {sparsity:.3f})" if meant else shown


def notes(results: Results) -> list[str]:
    """Why cells failed, which strengths were chosen, and what the sign means."""
    found = []
    for row in rows_of(results):
        for column, seeds in results["cells"].get(row, {}).items():
            errors = [seed["error"] for seed in seeds.values() if "error" in seed]
            found += [f"`{row}` at {column}: {error}" for error in errors[:1]]
    if any(scan_of(row) for row in results["cells"]):
        share = results["setting"]["validation"]
        told = CHOSEN.format(suffix=SUFFIX.strip(" ,"), share=share)
        found.append(told + "\n\n" + "\n".join(_chosen(results)))
    return found + _footnotes(results)


def _footnotes(results: Results) -> list[str]:
    """What the sign means: a line for each source of former cells, the one with the most rows last."""
    rows: dict[str, list[str]] = {}
    for row in rows_of(results):
        by_column = results["former"].get(row, {})
        for source in sorted({former["source"] for former in by_column.values()}):
            rows.setdefault(source, []).append(f"`{row}`")
    found = sorted(rows, key=lambda source: len(rows[source]))
    lines = [f"† in {', '.join(rows[source])}: {source}." for source in found[:-1]]
    others = "† elsewhere" if lines else "†"
    return lines + [f"{others}: {source}, seeds not kept." for source in found[-1:]]


def _chosen(results: Results) -> list[str]:
    """A line for each scanned row: its strength at each sparsity."""
    lines = []
    for row in filter(scan_of, rows_of(results)):
        by_column = results["cells"][row]
        told = [
            f"{next(iter(by_column[column].values()))['strength']:g} at {column}"
            for column in sorted(by_column, key=float)
        ]
        lines.append(f"- `{row}`: " + ", ".join(told))
    return lines


def table_page(results: Results) -> str:
    """The page of the table."""
    heads = columns(results)
    rows = [
        [row, *(cell(results, row, column) for column in heads)]
        for row in rows_of(results)
    ]
    table = markdown(["method", *(f"s = {column}" for column in heads)], rows)
    told = "\n\n".join(notes(results))
    text = TABLE.format(**results["setting"], table=table, notes=told, command=COMMAND)
    return text.replace("\n\n\n", "\n")


def strengths_page(results: Results) -> str:
    """The page of the scans."""
    setting, tables = results["setting"], []
    for method, scan in SCANS.items():
        found = results["scans"].get(method)
        if found:
            table = _scan(scan, found) if scan.targeted else _free(scan, found, results)
            tables.append(f"## {method}\n\n{table}")
    return SCANNED.format(
        share=setting["validation"],
        suffix=SUFFIX.strip(" ,"),
        budget=setting["budget"],
        tables="\n\n".join(tables),
        command=COMMAND,
    )


def _scan(scan: Scan, found: dict[str, Any]) -> str:
    """A row for each strength, a column for each sparsity."""
    heads = sorted(found, key=float)
    best = {column: chosen(scan, found[column], float(column)) for column in heads}
    rows = []
    for strength in scan.strengths:
        cells = [f"{strength:g}"]
        for column in heads:
            shown = _percent(found[column].get(f"{strength:g}", {}))
            cells.append(f"**{shown}**" if strength == best[column] else shown)
        rows.append(cells)
    return markdown(["strength", *(f"s = {column}" for column in heads)], rows)


def _free(scan: Scan, found: dict[str, Any], results: Results) -> str:
    """Strength, accuracy, sparsity, and what it is chosen for, where the sparsity comes out of the strength."""
    by_strength = found[ANY]
    meant: dict[float | None, list[str]] = {}
    for column in columns(results):
        meant.setdefault(chosen(scan, by_strength, float(column)), []).append(column)
    rows = []
    for strength in scan.strengths:
        one = by_strength.get(f"{strength:g}", {})
        came = f"{one['sparsity']:.3f}" if "sparsity" in one else "–"
        uses = ", ".join(meant.get(strength, [])) or "–"
        rows.append([f"{strength:g}", _percent(one), came, uses])
    heads = ("strength", "accuracy", "sparsity", "chosen for")
    return OUT_OF_STRENGTH + "\n" + markdown(heads, rows)


def _percent(one: dict[str, Any]) -> str:
    if "validation" in one:
        return f"{100 * one['validation']:.1f}"
    return "failed" if one else "not run"
