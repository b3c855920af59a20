"""Where commands write: the console, and one JSON document for machines."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console

from sparsify_fx.errors import ConfigError

JsonOption = Annotated[
    str | None,
    typer.Option(
        "--json", metavar="PATH", help="Write the result as JSON; - is standard output."
    ),
]


# Columns: in files and pipes a line is as long as it is, whatever the terminal beside them.
_FILE_WIDTH = 100_000


class Output:
    """Tables and lines on a console, and the JSON document that `--json` asks for.

    With `--json -` standard output holds nothing but the document; all else goes to standard error.

    Raises ConfigError when the folder of `--json PATH` does not exist, before any work is done.
    """

    def __init__(self, json_path: str | None) -> None:
        self._json_path = json_path
        self.console = Console(stderr=json_path == "-")
        if not self.console.is_terminal:
            self.console.width = _FILE_WIDTH
        if json_path is None or json_path == "-":
            return
        # Asked now, for a mistake in a path would otherwise show after hours of training.
        path = Path(json_path)
        if path.is_dir() or not path.parent.is_dir():
            missing = "lies in a folder that does not exist"
            what = "is a folder" if path.is_dir() else missing
            raise ConfigError(
                f"--json {json_path} {what}; give the path of a file, or - for standard output"
            )

    def finish(self, result: Any) -> None:
        """Write the JSON document, if one was asked for."""
        if self._json_path is None:
            return
        # Imported late: the trainer's package, where it lives, brings more than a list of methods should wait for.
        from sparsify_fx.train.files import write_text

        text = json.dumps(result, indent=2)
        # Past the console, which would color it and break its lines.
        if self._json_path == "-":
            typer.echo(text)
            return
        try:
            write_text(Path(self._json_path), text + "\n")
        except OSError as error:
            raise ConfigError(
                f"--json {self._json_path} cannot be written: {error.strerror or error}"
            ) from error
