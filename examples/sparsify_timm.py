"""Sparsify a timm model: every convolution and linear layer but the classifier, uniformly, and run it.

python examples/sparsify_timm.py                          # mobilenetv3_small_100
python examples/sparsify_timm.py --model deit_tiny_patch16_224
"""

import argparse

import timm
import torch

import sparsify_fx
from sparsify_fx.programs.owners import programs

parser = argparse.ArgumentParser(
    description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
)
parser.add_argument("--model", default="mobilenetv3_small_100")
parser.add_argument("--sparsity", type=float, default=0.8)
args = parser.parse_args()

torch.manual_seed(0)
model = timm.create_model(args.model, num_classes=10)
size = model.default_cfg["input_size"]
head = model.default_cfg["classifier"]
sparsify_fx.apply(
    model, method="random", sparsity=args.sparsity, allocation="uniform", exclude=head
)

weights = {name: program.effective() for name, program in programs(model).items()}
kept = sum(int((weight != 0).sum()) for weight in weights.values())
total = sum(weight.numel() for weight in weights.values())
print(
    f"{args.model}: {len(weights)} sparse weights, {kept} of {total} kept (density {kept / total:.4f})"
)

optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
x, y = torch.randn(4, *size), torch.tensor([0, 1, 2, 3])
loss = torch.nn.functional.cross_entropy(model(x), y)
loss.backward()
optimizer.step()
print(
    f"one training step: loss {loss.detach():.3f}; features {tuple(model.forward_features(x).shape)}"
)

sparsify_fx.merge(model)
report = sparsify_fx.export(model, f"{args.model}.onnx", x)
print(
    f"{args.model}.onnx: {report.bytes_file} bytes, {report.ratio:.1f}x smaller than dense"
)
