#!/usr/bin/env bash
# peft 0.21.2: LoRA makes the two adapters of a convolution of the class of the convolution that they adapt. timm's
# convolutions with standardized weights (ScaledStdConv2d in its normalizer-free nets, StdConv2d in its BiT nets) are
# subclasses of Conv2d and so are accepted, and then standardize the adapters' weights too, and the weight that the
# merge writes. The adapted model is therefore no low-rank change, and `merge_and_unload` gives another model than the
# one that was trained, without an error or a warning; `safe_merge=True` does not notice. A plain convolution of the
# same shape merges to 1e-5. Seen with timm 1.0.31, torch 2.14.1, transformers 5.24.0.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/env"
"$folder/env/bin/pip" install -q torch==2.14.1 torchvision==0.29.1 timm==1.0.31 peft==0.21.2 transformers==5.24.0
cd "$folder"
HF_HUB_OFFLINE=1 "$folder/env/bin/python" -W ignore - <<'PYTHON' 2>/dev/null
import timm
import torch
from peft import LoraConfig, get_peft_model


def merged_difference(name, layer):
    """How far the merged model's outputs are from the adapted model's, of their largest."""
    torch.manual_seed(0)
    net, images = timm.create_model(name), torch.randn(2, 3, 64, 64)
    plain = dict(net.named_modules())[layer]
    adapted = get_peft_model(net, LoraConfig(r=4, target_modules=[layer])).eval()
    with torch.no_grad():
        # As after some training: neither adapter is zero.
        for parameter in adapted.parameters():
            if parameter.requires_grad:
                parameter.copy_(0.05 * torch.randn(parameter.shape))
        wanted = adapted(images)
        merged = adapted.merge_and_unload(safe_merge=True).eval()
        return type(plain).__name__, float((merged(images) - wanted).abs().max() / wanted.abs().max())


kind, usual = merged_difference("resnet18", "conv1")
print(kind, f"{usual:.1e}")
assert kind == "Conv2d" and usual < 1e-4
kind, odd = merged_difference("nf_regnet_b0", "stem.conv")
print(kind, f"{odd:.1e}")
assert kind == "ScaledStdConv2d" and odd > 1e-3
PYTHON
