"""sparsify_fx: train neural networks sparse, and ship them small.

model = sparsify_fx.apply(model, method="signin", sparsity=0.9)
scheduler = sparsify_fx.Scheduler(model, optimizer, epochs=100, steps_per_epoch=len(loader))
...
sparsify_fx.merge(model)
sparsify_fx.export(model, "model.onnx", example_inputs)
"""

from importlib import import_module as _import_module
from importlib.metadata import version as _version
from importlib.util import find_spec as _find_spec
from typing import TYPE_CHECKING

from sparsify_fx.acceleration import accelerate, decelerate
from sparsify_fx.api import apply, dense_state_dict, merge
from sparsify_fx.moved import find_old_paths as _find_old_paths
from sparsify_fx.programs.parameter_groups import parameter_groups
from sparsify_fx.programs.sharing import shared_weights
from sparsify_fx.scheduler.scheduler import Scheduler
from sparsify_fx.transfer import masked_state_dict, take_from

if TYPE_CHECKING:
    from sparsify_fx.finetuning import finetune, fold_masks, folded_state_dict
    from sparsify_fx.onnx_export import (
        ExportReport,
        check_file,
        export,
        inspect_file,
        pack_onnx,
        unpack_onnx,
    )
    from sparsify_fx.previews import sensitivity, summary
    from sparsify_fx.shrinking import Shrunk, shrink
    from sparsify_fx.training_cost import bench

__version__ = _version("sparsify_fx")

_find_old_paths()

# onnx, onnxruntime and sympy take longer to import than all the rest of this package, and training needs none of them:
# what is of onnx_export is imported when it is first asked for, and so is what nobody needs in a training.
_LATER = {
    "ExportReport": "onnx_export",
    "Shrunk": "shrinking",
    "bench": "training_cost",
    "check_file": "onnx_export",
    "export": "onnx_export",
    "finetune": "finetuning",
    "fold_masks": "finetuning",
    "folded_state_dict": "finetuning",
    "inspect_file": "onnx_export",
    "pack_onnx": "onnx_export",
    "sensitivity": "previews",
    "shrink": "shrinking",
    "summary": "previews",
    "unpack_onnx": "onnx_export",
}

__all__ = [
    "ExportReport",
    "Scheduler",
    "Shrunk",
    "__version__",
    "accelerate",
    "apply",
    "bench",
    "check_file",
    "decelerate",
    "dense_state_dict",
    "export",
    "finetune",
    "fold_masks",
    "folded_state_dict",
    "inspect_file",
    "masked_state_dict",
    "merge",
    "pack_onnx",
    "parameter_groups",
    "sensitivity",
    "shared_weights",
    "shrink",
    "summary",
    "take_from",
    "unpack_onnx",
]

# Hidden from type checkers, which would take every misspelled name for one that is found here.
if not TYPE_CHECKING:

    def __getattr__(name):
        """The names that come later, and modules of this package that nothing has imported yet (PEP 562)."""
        # Stored in the module, so that the next access does not come here.
        if name in _LATER:
            value = globals()[name] = getattr(
                _import_module(f"sparsify_fx.{_LATER[name]}"), name
            )
            return value
        if not name.startswith("_") and _find_spec(f"sparsify_fx.{name}"):
            return _import_module(f"sparsify_fx.{name}")
        raise AttributeError(f"module 'sparsify_fx' has no attribute {name!r}")

    def __dir__():
        """Those that are imported later, too."""
        return sorted({*globals(), *__all__})
