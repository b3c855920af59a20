"""The errors that sparsify_fx raises: each says what was wrong, what was expected and what to do."""

from __future__ import annotations

import difflib
import os
import sys
import warnings
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

from sparsify_fx.moved import old_names

_HERE = str(Path(__file__).parent) + os.sep


class SparsifyError(Exception):
    """Base of every error that sparsify_fx raises on purpose.

    Attributes:
        told_elsewhere: whether another process of the same training shows this error, or the one that it comes of.
    """

    told_elsewhere: bool = False


class UnknownNameError(SparsifyError, ValueError):
    """A name (method, criterion, model, ...) that no registry holds."""


class SparsityError(SparsifyError, ValueError):
    """A sparsity or a budget of non-zeros that cannot be reached."""


class LayerError(SparsifyError, ValueError):
    """A layer selection that is empty, or a weight that cannot be rewritten."""


class MethodError(SparsifyError, ValueError):
    """Axes of a method that contradict each other or miss an input."""


class PluginError(SparsifyError, RuntimeError):
    """An installed plugin that cannot be imported, or a plugin file that cannot be run."""


class TakenNameError(SparsifyError, ValueError):
    """A name that is registered twice."""


class MissingPackageError(SparsifyError, ImportError):
    """A package that is not installed and that this part of sparsify_fx needs, with the line that installs it."""


class PassError(SparsifyError, RuntimeError):
    """A pass whose pre- or postcondition does not hold."""


class SchedulerError(SparsifyError, RuntimeError):
    """A Scheduler that does not fit its model, optimizer or saved state."""


class DistributedError(SparsifyError, RuntimeError):
    """Processes that train one model together and do not agree, or one of which failed."""


class TrainingError(SparsifyError, RuntimeError):
    """A training that diverged."""


class PreemptedError(SparsifyError, RuntimeError):
    """A training that saved and left because a signal (SIGTERM, SIGUSR1) asked it to; it can go on later."""


class ConfigError(SparsifyError, ValueError):
    """A training configuration with an unknown key or a value of the wrong kind."""


class DataError(SparsifyError, ValueError):
    """A data set that is missing or malformed."""


class CheckpointError(SparsifyError, RuntimeError):
    """A checkpoint or run folder that cannot be read or written, or belongs to another training."""


class ExportError(SparsifyError, RuntimeError):
    """An ONNX export that failed or whose result does not match PyTorch."""


class InputError(PassError, ExportError):
    """Inputs, shapes or lengths of axes that an ONNX model does not have or take."""


class LabError(SparsifyError, RuntimeError):
    """A laboratory experiment that cannot run, or whose numbers cannot be trusted."""


class SweepError(SparsifyError, RuntimeError):
    """A sweep that cannot be run, or runs that cannot be compared."""


class AnalysisError(SparsifyError, RuntimeError):
    """An analysis that the given runs do not allow."""


class LawError(SparsifyError, AssertionError):
    """A law of `sparsify_fx.testing` that a method, criterion or other axis value does not keep."""


class CoverageError(SparsifyError, RuntimeError):
    """A model that does not pass a check of `sparsify-fx coverage`."""


class SparsifyWarning(UserWarning):
    """Base of every warning that sparsify_fx gives."""


class OptimizerStateWarning(SparsifyWarning):
    """An optimizer whose state cannot be made wholly fresh for weights that come back."""


class LearningRateWarning(SparsifyWarning):
    """A learning rate that something beside the Scheduler changes."""


class StepCountWarning(SparsifyWarning):
    """A Scheduler that is not called once after each optimizer step, or saved between the two."""


class UnfinishedWarning(SparsifyWarning):
    """A model that is merged or exported before its schedule has brought it to the sparsity that was asked for."""


class PassWarning(SparsifyWarning):
    """A pass over an ONNX graph that was left out, or outputs that rounding decides, so that they prove nothing."""


class RuntimeLibraryError(SparsifyError, RuntimeError):
    """The library of sparse kernels, which a C++ compiler builds at installation, is missing."""


class CollapseWarning(SparsifyWarning):
    """Masks that leave a layer without weights, or the net without a path from input to output."""


class TiesWarning(SparsifyWarning):
    """Scores so equal that the order of the weights, not the criterion, decides which stay."""


class OvershootWarning(SparsifyWarning):
    """A method that made more zeros than were asked for, so that weights had to be reopened."""


def warn(message: str, category: type[SparsifyWarning]) -> None:
    """Give a warning that points at the line outside this package from which the call came."""
    # Warnings of a library are shown once for a line: all would share one if they pointed in here.
    frame, level = sys._getframe(1), 2
    while frame.f_back is not None and frame.f_code.co_filename.startswith(_HERE):
        frame, level = frame.f_back, level + 1
    warnings.warn(message, category, stacklevel=level)


def unknown(kind: str, name: str, known: Iterable[str]) -> UnknownNameError:
    """The error for an unknown name, with the nearest known one.

    Args:
        kind: what the name should be one of: "method".
        known: every name that would do.

    >>> raise unknown("method", "sing-in", ["signin", "lrr"])
    Traceback (most recent call last):
    sparsify_fx.errors.UnknownNameError: unknown method 'sing-in'; did you mean 'signin'? Known: lrr, signin
    """
    names = sorted(known)
    # Below the default of 0.6, since many names are short: one wrong letter of two makes 0.5.
    close = difflib.get_close_matches(name, names, n=1, cutoff=0.5)
    hint = f"did you mean {close[0]!r}? " if close else ""
    return UnknownNameError(
        f"unknown {kind} {name!r}; {hint}Known: {', '.join(names) or 'none'}"
    )


# Type checkers tell of the old name, as they do of a misspelled one.
if not TYPE_CHECKING:
    __getattr__ = old_names(__name__, {"RecipeError": "MethodError"})
