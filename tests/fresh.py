"""Processes of their own that start at once, forked from one that has imported torch but nothing of ours.

To import torch takes seconds of each new interpreter. What is tested here is what comes after that.
"""

from __future__ import annotations

import atexit
import contextlib
import functools
import importlib
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
COMMAND = "from sparsify_fx.cli import main; main()"
_READY = "ready"
# onnxruntime is not among them: it has a thread of its own, which a forked process waits for when it ends.
_PACKAGES = "torch", "torchvision", "timm", "onnx"


def run_fresh(
    code: str,
    *arguments: str | Path,
    folder: Path | None = None,
    environment: Mapping[str, str] = os.environ,
) -> subprocess.CompletedProcess[str]:
    """What `python -c CODE ARGUMENTS...` gives: exit status, output and errors."""
    with tempfile.TemporaryDirectory() as kept:
        out, err = Path(kept) / "out", Path(kept) / "err"
        request = {
            "code": code,
            "arguments": list(map(str, arguments)),
            "folder": str(folder or Path.cwd()),
            "environment": dict(environment),
            "out": str(out),
            "err": str(err),
        }
        status = _asked(request)
        return subprocess.CompletedProcess(
            [code, *request["arguments"]], status, out.read_text(), err.read_text()
        )


def _asked(request: dict[str, Any]) -> int:
    server = _server()
    assert server.stdin is not None
    assert server.stdout is not None
    server.stdin.write(json.dumps(request) + "\n")
    server.stdin.flush()
    return int(server.stdout.readline())


@functools.cache
def _server() -> subprocess.Popen[str]:
    """One for each process that tests; it ends with it, when its input does."""
    server = subprocess.Popen(
        [sys.executable, "-m", "tests.fresh"],
        cwd=ROOT,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert server.stdout is not None
    assert server.stdout.readline().strip() == _READY
    atexit.register(server.wait)
    atexit.register(close, server)
    return server


def close(process: subprocess.Popen[str]) -> None:
    """Close the pipes of a process, which ends when its input does."""
    for pipe in (process.stdin, process.stdout):
        assert pipe is not None
        with contextlib.suppress(BrokenPipeError):
            pipe.close()


def _serve() -> None:
    for package in _PACKAGES:
        importlib.import_module(package)
    assert not any(name.startswith("sparsify_fx") for name in sys.modules)
    print(_READY, flush=True)
    for line in sys.stdin:
        child = os.fork()
        if not child:
            # An exception, SystemExit among them, ends the child as it ends any interpreter.
            _become(json.loads(line))
            return
        _, status = os.waitpid(child, 0)
        print(os.waitstatus_to_exitcode(status), flush=True)


def _become(request: dict[str, Any]) -> None:
    """Be the interpreter that was asked for."""
    for descriptor, key in ((1, "out"), (2, "err")):
        file = os.open(request[key], os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        os.dup2(file, descriptor)
        os.close(file)
    sys.stdin = open(os.devnull, encoding="utf-8")  # noqa: SIM115
    os.chdir(request["folder"])
    os.environ.clear()
    os.environ.update(request["environment"])
    paths = os.environ.get("PYTHONPATH", "").split(os.pathsep)
    sys.path[:0] = ["", *filter(None, paths)]
    sys.argv = ["-c", *request["arguments"]]
    exec(compile(request["code"], "<string>", "exec"), {"__name__": "__main__"})


if __name__ == "__main__":
    _serve()
