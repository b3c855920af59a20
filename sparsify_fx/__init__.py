"""sparsify_fx: train neural networks sparse, and ship them small.

model = sparsify_fx.apply(model, method="signin", sparsity=0.9)
scheduler = sparsify_fx.Scheduler(model, optimizer, epochs=100, steps_per_epoch=len(loader))
...
sparsify_fx.merge(model)
sparsify_fx.export(model, "model.onnx", example_inputs)
"""

from importlib.metadata import version as _version

from sparsify_fx.api import apply, dense_state_dict, merge
from sparsify_fx.onnx_export import ExportReport, export, inspect_file, pack_onnx, unpack_onnx
from sparsify_fx.parameter_groups import parameter_groups
from sparsify_fx.scheduler import Scheduler
from sparsify_fx.sharing import shared_weights
from sparsify_fx.taking import masked_state_dict, take_from

__version__ = _version("sparsify_fx")

__all__ = [
    "ExportReport",
    "Scheduler",
    "__version__",
    "apply",
    "dense_state_dict",
    "export",
    "inspect_file",
    "masked_state_dict",
    "merge",
    "pack_onnx",
    "parameter_groups",
    "shared_weights",
    "take_from",
    "unpack_onnx",
]
