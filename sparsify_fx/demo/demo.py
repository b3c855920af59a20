"""The demo: one small net on real digits, dense, and with a fiftieth of its weights by three methods."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import onnxruntime
import torch
from rich.console import Console
from torch import Tensor, nn

from sparsify_fx.analysis.signs import sign_flips
from sparsify_fx.api import merge
from sparsify_fx.demo.setting import EPOCHS, METHODS, config_of
from sparsify_fx.demo.speed import SparseSpeed, sparse_speed
from sparsify_fx.errors import AnalysisError, ConfigError, ExportError
from sparsify_fx.figures import Look, check_look, legend, panels, save, styles_of
from sparsify_fx.onnx_export import export
from sparsify_fx.onnx_export.checks.verify import same_predictions
from sparsify_fx.programs.owners import programs
from sparsify_fx.tables.fitting import FittingTable
from sparsify_fx.tables.shown import Shown
from sparsify_fx.train import Result, train
from sparsify_fx.train.run_folder import RunFolder
from sparsify_fx.train.session import Session, build_session


@dataclass(frozen=True)
class DemoRow:
    """One method. Accuracy in [0, 1]; flips: signs that differ between initialisation and end, among kept weights."""

    method: str
    accuracy: float
    weights: int
    nonzeros: int
    flips: int
    flip_share: float
    bytes_dense: int
    bytes_sparse: int
    same_predictions: int
    onnx: str
    seconds: float
    curve: tuple[float, ...]


@dataclass(frozen=True, repr=False)
class DemoResult(Shown):
    """All rows; `digits`: how many test images onnxruntime and PyTorch agree on, which is all of them.

    `sparse_runtime`: the last row's model with this package's sparse kernels.
    """

    rows: tuple[DemoRow, ...]
    masks_equal: bool
    digits: int
    plot: str
    sparse_runtime: SparseSpeed
    seconds: float

    def headline(self) -> str:
        """The accuracy of each method."""
        told = (f"{row.method} {row.accuracy:.3f}" for row in self.rows)
        return f"{self.digits:,} digits, accuracy {', '.join(told)}"

    def to_dict(self) -> dict[str, Any]:
        """All fields, as types that json.dumps takes."""
        return {
            **asdict(self),
            "rows": [{**asdict(row), "curve": list(row.curve)} for row in self.rows],
        }

    def table(self) -> FittingTable:
        """One line per method."""
        table = FittingTable(
            "method",
            title=f"tested on {self.digits:,} real digits; dense and sparse: ONNX file sizes",
        )
        for column in (
            "accuracy",
            "non-zeros",
            "sign flips",
            "dense",
            "sparse",
            "agree",
        ):
            table.add_column(column, justify="right")
        for row in self.rows:
            table.add_row(
                row.method,
                f"{row.accuracy:.3f}",
                f"{row.nonzeros:,}",
                f"{row.flip_share:.1%}",
                f"{row.bytes_dense / 1000:.1f} kB",
                f"{row.bytes_sparse / 1000:.1f} kB",
                f"{row.same_predictions:,}",
            )
        table.caption = (
            "random and signin have the same mask and seed; sign flips: from initialisation to end, among kept weights;"
            f" agree: same prediction by onnxruntime and PyTorch. One seed: three are in docs/results. {self.plot}, "
            f"{self.seconds:.0f} s\n{self.sparse_runtime.sentence()}"
        )
        return table


def run_demo(
    out: str | Path,
    *,
    epochs: int | None = None,
    seed: int = 0,
    console: Console | None = None,
) -> DemoResult:
    """Train the four, compare them, export each, and check every prediction of onnxruntime against PyTorch.

    Args:
        out: a folder for curves.png, {method}.onnx, lrr+signin-sparse-ort.onnx and runs/; what an earlier demo left
            there is replaced.
        epochs: of each method, over all its cycles (two a cycle at least); None: 20.
        console: shows progress; None is silent.

    Raises ExportError when a prediction differs, ConfigError when matplotlib is missing or `out` cannot be written.

    Example: `run_demo("sparsify-demo").rows[0].accuracy` is the dense net's, about 0.95.
    """
    # 1. What can fail does so before any training: a missing library, a wrong value, a folder that
    # cannot be written.
    start, folder = time.perf_counter(), Path(out)
    _check_matplotlib()
    configs = {method: config_of(method, epochs or EPOCHS, seed) for method in METHODS}
    _make(folder)

    # 2. Train. `force`, since runs of an earlier demo would be found finished.
    results: dict[str, Result] = {}
    for method, config in configs.items():
        if console is not None:
            console.print(f"training {method}")
        results[method] = train(
            config,
            runs_dir=folder / "runs",
            force=True,
            progress=console is not None,
            console=console,
        )

    # 3. Compare, on fresh sessions: they hold the initial weights, which sign flips are counted from.
    sessions = {method: build_session(config) for method, config in configs.items()}
    equal = _same_masks(_masks(sessions["random"]), _masks(sessions["signin"]))
    rows = tuple(_row(sessions[method], results[method], folder) for method in METHODS)

    # 4. The last model again, for the sparse runtime. `_row` has merged it.
    last = METHODS[-1]
    speed = sparse_speed(sessions[last].model, _images(sessions[last]), folder, last)
    plot = folder / "curves.png"
    _plot(rows, plot)
    return DemoResult(
        rows,
        equal,
        len(sessions["dense"].data.test),
        str(plot),
        speed,
        time.perf_counter() - start,
    )


def _images(session: Session) -> Tensor:
    """All test images."""
    return torch.cat([x for x, _ in session.test_batches()])


def _row(session: Session, result: Result, folder: Path) -> DemoRow:
    """Export and count; `session` is fresh: its weights are the initial ones, and the trained ones afterwards."""
    # 1. Initial weights, before the checkpoint is loaded over them: its tensors are written in place.
    folder_of_run = RunFolder(result.path)
    before = {
        name: program.theta().detach().clone()
        for name, program in programs(session.model).items()
    }
    state = folder_of_run.checkpoint()
    assert state is not None  # a finished run has one

    # 2. The trained weights, merged, and exported against every test image.
    session.load_model(state)
    masks = _masks(session)
    model = merge(session.model).eval()
    after = model.state_dict()
    # One image gives the shape; all of them are what the file is compared on.
    images = _images(session)
    report = export(
        model, folder / f"{result.method}.onnx", images[:1], verify_inputs=images
    )
    flips = sign_flips(before, after, masks)
    return DemoRow(
        method=result.method,
        accuracy=result.test_accuracy,
        weights=report.weights,
        nonzeros=sum(int(torch.count_nonzero(after[name])) for name in masks),
        flips=flips.flips,
        flip_share=flips.share,
        bytes_dense=report.bytes_dense,
        bytes_sparse=report.bytes_file,
        same_predictions=_same_predictions(model, Path(report.path), images),
        onnx=report.path,
        seconds=result.seconds,
        curve=tuple(row["test_accuracy"] for row in folder_of_run.metrics()),
    )


def _masks(session: Session) -> dict[str, Tensor]:
    """The masks by weight; all ones where there is none."""
    found = {}
    for name, program in programs(session.model).items():
        whole = torch.ones_like(program.theta(), dtype=torch.uint8)
        mask = program.current_mask()
        found[name] = whole if mask is None else mask
    return found


def _same_masks(a: Mapping[str, Tensor], b: Mapping[str, Tensor]) -> bool:
    """True; a difference would make the comparison meaningless and raises."""
    # Sign-In changes signs on a given mask: on another mask, the mask could be what made the difference.
    different = [name for name in a if not torch.equal(a[name], b[name])]
    if different or a.keys() != b.keys():
        raise ConfigError(
            f"random and signin got different masks in {different}; please report this"
        )
    return True


def _same_predictions(model: nn.Module, file: Path, images: Tensor) -> int:
    """How many images get the same class from onnxruntime and PyTorch: all, or ExportError."""
    # On the CPU whatever else is there: other providers may round to another class.
    runtime = onnxruntime.InferenceSession(
        str(file), providers=["CPUExecutionProvider"]
    )
    same = same_predictions(model, runtime, images)
    if same != len(images):
        raise ExportError(
            f"{file}: onnxruntime and PyTorch predict differently on {len(images) - same} digits"
        )
    return same


def _make(folder: Path) -> None:
    """The folder, made if need be; ConfigError where it cannot be."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigError(
            f"cannot write to {folder}: {error.strerror}; choose another --out"
        ) from error


def _check_matplotlib() -> None:
    """ConfigError where it is missing, before minutes of training."""
    try:
        check_look(Look())
    except AnalysisError:
        raise ConfigError(
            "the demo draws with matplotlib; install it: pip install 'sparsify_fx[demo]'"
        ) from None


def _plot(rows: tuple[DemoRow, ...], path: Path) -> None:
    """Test accuracy by epoch."""

    def draw(figure: Any) -> None:
        (axes,), styles = panels(figure), styles_of(row.method for row in rows)
        for row in rows:
            epochs = range(1, len(row.curve) + 1)
            label = f"{row.method}, {row.nonzeros:,} weights"
            axes.plot(epochs, row.curve, label=label, **styles[row.method])
        axes.set(xlabel="epoch", ylabel="test accuracy")
        axes.set_title("LeNet-300-100, 4,000 real digits")
        axes.grid(alpha=0.3)
        legend(figure, axes, columns=2)

    save(path.with_suffix(""), draw, Look(dpi=300))
