"""A model file as it was before anything in it was packed."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import onnx

from sparsify_fx.errors import ExportError, InputError, SparsifyError
from sparsify_fx.onnx_export.files.tensors import TensorReader, load_onnx
from sparsify_fx.onnx_export.storage.history import undo
from sparsify_fx.onnx_export.storage.unpacking import unpacked
from sparsify_fx.onnx_tools.constants import constants
from sparsify_fx.onnx_tools.soundness import damaged_tensor
from sparsify_fx.runtime.restore import sparse_weights, to_dense


def read_plain(file: Path) -> tuple[onnx.ModelProto, TensorReader]:
    """The model with plain constants where they were first; initializers may still lie in external data.

    Raises ExportError, which names the file, for whatever is wrong with it.
    """
    model, reader = load_onnx(file), TensorReader(file.parent)
    with told_of(file):
        # 1. Nothing is decoded before every tensor's data is known to fit its shape.
        check_tensors(model)

        # 2. Encoded weights become initializers, then sparse operators standard ones. The
        # history comes last: the positions in it are those of the plain model.
        model = unpacked(model, reader)
        has_operators = bool(sparse_weights(model))
        model = to_dense(model, reader.array) if has_operators else model
        undo(model, in_order=not has_operators)
        for each in constants(model):
            # Those of inner graphs and nodes are small; they must not refer to the old folder.
            if isinstance(each.tensor, onnx.TensorProto) and (
                each.scope or each.node is not None
            ):
                each.tensor.CopyFrom(reader.inline(each.tensor))
    return model, reader


def check_tensors(model: onnx.ModelProto) -> None:
    """ExportError for a tensor whose data does not fit its shape: libraries that believe it may take all memory."""
    if (reason := damaged_tensor(model)) is not None:
        raise ExportError(f"it is damaged: {reason}; write or download it again")


@contextmanager
def told_of(file: Path) -> Iterator[None]:
    """Errors of a damaged file in words, with its name; anything else that a file can cause is one of these."""
    try:
        yield
    except InputError:
        raise  # what a user asked of it is wrong, not the file
    except ExportError as error:
        raise ExportError(f"{file}: {error}") from error
    except SparsifyError:
        raise
    except MemoryError as error:
        raise ExportError(
            f"{file}: there is not enough memory for its tensors; it may be damaged, or needs a larger machine"
        ) from error
    except RecursionError as error:
        raise ExportError(
            f"{file}: its graphs or metadata are nested too deep to be read; write it again"
        ) from error
    except _DAMAGE as error:
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0][:300]
        raise ExportError(
            f"{file}: it is damaged ({reason}); write or download it again"
        ) from error


_DAMAGE = (
    ValueError,
    TypeError,
    KeyError,
    IndexError,
    AttributeError,
    OverflowError,
    OSError,
    RuntimeError,
)
"""What onnx, numpy, protobuf and onnxruntime raise for files with wrong contents, as fuzzing showed."""
