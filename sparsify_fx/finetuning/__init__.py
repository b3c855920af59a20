"""Fine-tuning: from a trained model to a sparse one in a few epochs."""

from sparsify_fx.finetuning.distillation import Distillation
from sparsify_fx.finetuning.folding import fold_masks, folded_state_dict
from sparsify_fx.finetuning.loop import (
    FinetuneReport,
    finetune,
    reestimate_batch_norm,
)
from sparsify_fx.finetuning.lora import LoraReport, mask_lora, merge_lora

__all__ = [
    "Distillation",
    "FinetuneReport",
    "LoraReport",
    "finetune",
    "fold_masks",
    "folded_state_dict",
    "mask_lora",
    "merge_lora",
    "reestimate_batch_norm",
]
