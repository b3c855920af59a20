"""The whole of sparsify_fx in one script: rewrite a model, train it sparse, merge it, ship it as sparse ONNX.

python examples/plain_loop.py                 # 5 epochs of Sign-In at 0.9 on 4,000 real digits
python examples/plain_loop.py --epochs 1      # what CI runs
"""

import argparse

import torch
from torch import nn
from torch.nn import functional as F

import sparsify_fx
from sparsify_fx.zoo.data import load_data

parser = argparse.ArgumentParser(
    description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
)
parser.add_argument("--epochs", type=int, default=5)
parser.add_argument("--out", default="digits.onnx")
args = parser.parse_args()

torch.manual_seed(0)
data = load_data("mnist5k")
model = nn.Sequential(
    nn.Conv2d(1, 16, 5, padding=2, bias=False), nn.BatchNorm2d(16), nn.ReLU(), nn.MaxPool2d(2),
    nn.Conv2d(16, 32, 5, bias=False), nn.BatchNorm2d(32), nn.ReLU(), nn.MaxPool2d(2),
    nn.Flatten(), nn.Linear(800, 10),
)  # fmt: skip

# In place: weights become m * w * mask.
sparsify_fx.apply(model, method="signin", sparsity=0.9)
# Built after `apply`, since it trains m and w, which were not there before.
optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
scheduler = sparsify_fx.Scheduler(
    model,
    optimizer,
    epochs=args.epochs,
    steps_per_epoch=data.steps_per_epoch(128),
    learning_rate="triangular",
)
print(scheduler.timeline())

for epoch in range(scheduler.epochs):
    model.train()
    for x, y in data.epoch(128, train=True, epoch=epoch):
        loss = F.cross_entropy(model(x), y) + scheduler.penalty()
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        scheduler.step()
    model.eval()
    with torch.no_grad():
        right = sum(
            int((model(x).argmax(1) == y).sum())
            for x, y in data.epoch(500, train=False)
        )
    print(
        f"epoch {epoch}: loss {loss.detach():.3f}, test accuracy {right / data.facts.test_size:.3f}"
    )

# Plain weights and classes again, exact zeros.
sparsify_fx.merge(model)
x, _ = next(data.epoch(500, train=False))
# The file is checked in onnxruntime before it takes its name.
report = sparsify_fx.export(model, args.out, x)
print(
    f"{args.out}: {report.bytes_file} bytes, {report.ratio:.1f}x smaller than dense; {report.verdict}"
)
