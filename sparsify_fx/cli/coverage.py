"""`sparsify-fx coverage`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from sparsify_fx.cli.output import JsonOption, Output
from sparsify_fx.errors import ConfigError

NAME = "coverage"


def command(
    suite: Annotated[str | None, typer.Option(help="torchvision or timm.")] = None,
    every: Annotated[
        bool,
        typer.Option(
            "--all",
            help="timm: every name, not the smallest of each architecture module.",
        ),
    ] = False,
    max_parameters: Annotated[
        int | None,
        typer.Option(min=1, metavar="N", help="Leave out models with more parameters."),
    ] = None,
    models: Annotated[
        list[str] | None,
        typer.Option(
            "--models", metavar="NAME", help="Only this model; may be repeated."
        ),
    ] = None,
    shard: Annotated[
        str, typer.Option(metavar="I/N", help="The I-th of N parts of the models.")
    ] = "1/1",
    onnx: Annotated[
        bool, typer.Option(help="Export every model too; that takes most of the time.")
    ] = True,
    structured: Annotated[
        bool,
        typer.Option(
            "--structured",
            help="Instead of all others: half of the multiply-adds go by channels, and the model shrinks.",
        ),
    ] = False,
    time_limit: Annotated[
        float, typer.Option(min=1, help="Seconds of processor time for one check.")
    ] = 600,
    memory_limit: Annotated[
        float, typer.Option(min=0.1, help="GB of memory for one model.")
    ] = 12,
    threads: Annotated[int, typer.Option(min=1, help="Threads of torch.")] = 1,
    retry: Annotated[
        bool,
        typer.Option(
            "--retry", help="Repeat the checks that failed in PATH of --json."
        ),
    ] = False,
    results: Annotated[
        list[Path] | None,
        typer.Option(
            metavar="PATH", help="Examine nothing, show this file; may be repeated."
        ),
    ] = None,
    page: Annotated[
        Path | None,
        typer.Option("--markdown", help="Write the table as a Markdown page."),
    ] = None,
    json: JsonOption = None,
) -> None:
    """Put every model of torchvision or timm through every check, each in its own process.

    With --json PATH the results are written after every model, and the same command goes on from them when it was
    stopped. Weights are random; nothing is downloaded. The exit code is 1 when a check failed.

    Examples:

        sparsify-fx coverage --suite timm --shard 1/4 --json timm-1.json

        sparsify-fx coverage --results torchvision.json --results timm-1.json --markdown coverage.md
    """
    from sparsify_fx.coverage.checks import CHECKS
    from sparsify_fx.coverage.page import write_page
    from sparsify_fx.coverage.process import Limits
    from sparsify_fx.coverage.report import failure_table, line_of, summary_table
    from sparsify_fx.coverage.results import ModelResult, read_results, to_document
    from sparsify_fx.coverage.runner import sweep
    from sparsify_fx.coverage.structured_check import STRUCTURED
    from sparsify_fx.coverage.suites import Subject, subjects
    from sparsify_fx.coverage.suites import shard as part

    # Results of an earlier sweep are shown as they are; with both it would not be clear which models are meant.
    if (suite is None) == (not results):
        raise ConfigError(
            "give either --suite, to examine models, or --results, to show what was found"
        )
    output = Output(json)

    def said(number: int, count: int, result: ModelResult) -> None:
        # Reasons hold shapes in brackets, which rich would take for markup, and numbers, which it would color.
        output.console.print(
            line_of(number, count, result),
            markup=False,
            highlight=False,
            soft_wrap=True,
        )

    def begun(number: int, count: int, subject: Subject) -> None:
        text = f"{number}/{count} {subject.name}: {subject.parameters:,} parameters ..."
        output.console.print(text, markup=False, highlight=False, soft_wrap=True)

    if suite is None:
        found = []
        for earlier in results or ():
            found += read_results(earlier)
    else:
        chosen = part(
            subjects(
                suite, every=every, max_parameters=max_parameters, names=models or ()
            ),
            shard,
        )
        wanted = STRUCTURED if structured else CHECKS
        checks = [n for n in wanted if onnx or n not in ("onnx", "shrunk file")]
        limits = Limits(time_limit, int(memory_limit * 2**30), threads)
        # The sweep writes PATH itself after every model; with - the document comes at the end, and nothing is resumed.
        path = None if json is None or json == "-" else Path(json)
        try:
            found = sweep(
                chosen,
                checks,
                limits,
                path=path,
                again=retry,
                progress=said,
                begun=begun,
            )
        except KeyboardInterrupt:
            output.console.print(
                "interrupted; with --json PATH the same command goes on from there"
            )
            # 128 + SIGINT, as shells have it.
            raise typer.Exit(130) from None
    output.console.print(summary_table(found, [*CHECKS, *STRUCTURED]))
    failed = any(result.failures() for result in found)
    if failed:
        output.console.print(failure_table(found))
    # Also of a sweep with failures, which the page is there to tell of.
    if page is not None:
        write_page(page, found)
    if results or json == "-":
        output.finish(to_document(found))
    if failed:
        raise typer.Exit(1)
