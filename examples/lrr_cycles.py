"""Learning rate rewinding by hand: prune to 80 %, rewind the learning rate, train again, and again.

python examples/lrr_cycles.py                            # to sparsity 0.9 in 11 cycles
python examples/lrr_cycles.py --epochs 1 --sparsity 0.36 # what CI runs
"""

import argparse

import torch
from torch.nn import functional as F

import sparsify_fx
from sparsify_fx.zoo.data import load_data
from sparsify_fx.zoo.models import build_model

parser = argparse.ArgumentParser(
    description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
)
parser.add_argument("--epochs", type=int, default=3, help="of one cycle")
parser.add_argument("--sparsity", type=float, default=0.9)
parser.add_argument(
    "--method", default="lrr", help="lrr, lrr-bn, wr, imp, lrr+signin, ..."
)
args = parser.parse_args()

torch.manual_seed(0)
data = load_data("mnist5k")
model = build_model("lenet5-bn", num_classes=10, in_channels=1, image_size=28)
sparsify_fx.apply(model, method=args.method, sparsity=args.sparsity)
optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
scheduler = sparsify_fx.Scheduler(
    model, optimizer, epochs=args.epochs, steps_per_epoch=data.steps_per_epoch(128)
)

for epoch in range(scheduler.epochs):
    for x, y in data.epoch(128, train=True, epoch=epoch):
        (F.cross_entropy(model.train()(x), y) + scheduler.penalty()).backward()
        optimizer.step()
        optimizer.zero_grad()
        # The step that follows prunes for the next cycle: this one is measured before it.
        if scheduler.ends_run:
            with torch.no_grad():
                right = sum(
                    int((model.eval()(x).argmax(1) == y).sum())
                    for x, y in data.epoch(500, train=False)
                )
            accuracy = right / data.facts.test_size
            print(
                f"cycle {scheduler.run}: density {scheduler.density():.4f}, test accuracy {accuracy:.3f}"
            )
        scheduler.step()
