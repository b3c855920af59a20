"""Led strengths of l1 and spred against constant ones, on digits: docs/results/strengths.json and .md.

    python benchmarks/strengths.py                # what the JSON lacks; about 8 s of one core for each training
    python benchmarks/strengths.py --only l1      # one method

LeNet-300-100 on 4,000 digits, tested on 1,000 others, 20 epochs of batch 256, SGD at rate 0.1 with cosine and warm-up,
seed 0. Each result is written when it is there, so the command can be stopped at any time.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import torch
from torch.nn import functional as F

import sparsify_fx
from sparsify_fx.initializations import INITIALIZATIONS
from sparsify_fx.lab.imp_lenet5.runs import Digits, accuracy, load_digits
from sparsify_fx.zoo.models import build_model

JSON = Path("docs/results/strengths.json")
PAGE = Path("docs/results/strengths.md")
SPARSITIES = (0.8, 0.95, 0.98)
PENALTY = {"l1": "l1", "spred": "factors"}
FORMER = {
    "l1": {"strength": 1e-5, "reach": 100.0, "floor": 0.0},
    "spred": {"strength": 2e-4, "reach": 100.0, "floor": 0.3},
}
NOW = {
    "l1": {"strength": 1e-4, "reach": 30.0, "floor": 0.0},
    "spred": {"strength": 1e-3, "reach": 10.0, "floor": 0.5},
}
CONSTANT = {"l1": (1e-4, 3e-4, 1e-3), "spred": (5e-4, 1e-3, 2e-3, 5e-3)}
EPOCHS, BATCH, STEPS = 20, 256, 15


def variants(method: str) -> dict[str, dict[str, float]]:
    """What is compared, by name."""
    found = {"led, as before": FORMER[method], "led, default": NOW[method]}
    for strength in CONSTANT[method]:
        found[f"constant {strength:g}"] = {"strength": strength, "reach": 1.0}
    return found


def trained(
    method: str, sparsity: float, options: dict[str, float], digits: Digits
) -> tuple[float, float]:
    """Test accuracy, and the largest strength that was applied."""
    torch.manual_seed(0)
    model = build_model("lenet300", num_classes=10, in_channels=1, image_size=28)
    INITIALIZATIONS["kaiming_normal"](model, torch.Generator().manual_seed(0))
    penalty: dict[str, Any] = {"name": PENALTY[method], **options}
    sparsify_fx.apply(model, method=method, sparsity=sparsity, penalty=penalty)
    groups = sparsify_fx.parameter_groups(model, weight_decay=1e-4)
    optimizer = torch.optim.SGD(groups, lr=0.1, momentum=0.9)
    scheduler = sparsify_fx.Scheduler(
        model, optimizer, epochs=EPOCHS, steps_per_epoch=STEPS
    )
    generator = torch.Generator().manual_seed(0)
    for _ in range(EPOCHS):
        order = torch.randperm(len(digits.images), generator=generator)
        for step in range(STEPS):
            batch = order[step * BATCH : (step + 1) * BATCH]
            loss = F.cross_entropy(model(digits.images[batch]), digits.labels[batch])
            (loss + scheduler.penalty()).backward()
            optimizer.step()
            optimizer.zero_grad()
            scheduler.step()
    largest = max(strength for _, strength in scheduler.strengths)
    return accuracy(model.eval(), digits), largest


def page(found: dict[str, Any]) -> str:
    """The page of the results: a table for each method."""
    lines = [
        "# Led and constant strengths",
        "",
        "Test accuracy in per cent, with the largest strength that was applied: LeNet-300-100 on 4,000 digits,",
        "tested on 1,000 others, 20 epochs, one pruning after 16 of them. One seed: two points say little.",
        "",
        "Made by `python benchmarks/strengths.py`.",
    ]
    for method in PENALTY:
        heads = " | ".join(f"s = {sparsity:g}" for sparsity in SPARSITIES)
        lines += ["", f"## {method}", "", f"| strength | {heads} |"]
        lines.append("|---" * (len(SPARSITIES) + 1) + "|")
        for name in variants(method):
            keys = [f"{method}, {name}, {sparsity:g}" for sparsity in SPARSITIES]
            lines.append(
                f"| {name} | " + " | ".join(_cell(found, k) for k in keys) + " |"
            )
    return "\n".join(lines) + "\n"


def _cell(found: dict[str, Any], key: str) -> str:
    if key not in found:
        return "not run"
    return f"{100 * found[key]['accuracy']:.1f} ({found[key]['largest']:.2g})"


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--only", choices=PENALTY, default=None)
    chosen = parser.parse_args().only
    torch.set_num_threads(1)
    found = json.loads(JSON.read_text()) if JSON.is_file() else {}
    digits = load_digits("mnist5k")
    for method in [chosen] if chosen else PENALTY:
        for name, options in variants(method).items():
            for sparsity in SPARSITIES:
                key = f"{method}, {name}, {sparsity:g}"
                if key not in found:
                    correct, largest = trained(method, sparsity, options, digits)
                    found[key] = {"accuracy": correct, "largest": largest, **options}
                    JSON.write_text(json.dumps(found, indent=2, sort_keys=True) + "\n")
                    print(f"{key}: {correct:.4f}", flush=True)
    PAGE.write_text(page(found), encoding="utf-8")


if __name__ == "__main__":
    main()
