"""The models of the page: real digits learned sparse, and a resnet18 for its size, each dense and packed.

    npm install                                      # onnxruntime-web, whose size the page tells too
    python examples/web/make_models.py               # half a minute of one core
    python examples/web/make_models.py --resnet18    # also the large one, a minute more

Writes `models/` beside the page, or the folder that `--out` names: ONNX files, digits as pictures, and a manifest.
"""

import argparse
import json
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
import torchvision
from torch import Tensor, nn
from torch.nn import functional as F
from torchvision.transforms.functional import to_pil_image

import sparsify_fx
from sparsify_fx.onnx_export import pack_onnx
from sparsify_fx.zoo.data import load_data
from sparsify_fx.zoo.models import build_model

HERE = Path(__file__).parent
WASM = HERE / "node_modules/onnxruntime-web/dist/ort-wasm-simd-threaded.wasm"
SPARSITY, BATCH = {"digits": 0.95, "resnet18": 0.9}, 128
# Title, encoding and kind of values of each file; the first is what the others are compared with.
FORMS = (
    ("dense", "dense", "fp32"),
    ("packed", "auto", "fp32"),
    ("coo", "coo", "fp32"),
    ("int8", "auto", "int8"),
)


class FromPixels(nn.Module):
    """A model of images that takes pixels from 0 to 1, so that a page needs to know no means."""

    mean: Tensor
    std: Tensor

    def __init__(
        self, model: nn.Module, mean: Sequence[float], std: Sequence[float]
    ) -> None:
        super().__init__()
        self.model = model
        self.register_buffer("mean", torch.tensor(mean).view(-1, 1, 1))
        self.register_buffer("std", torch.tensor(std).view(-1, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        return self.model((x - self.mean) / self.std)


def digits(epochs: int) -> tuple[nn.Module, float, Tensor, Tensor]:
    """A LeNet-5 trained sparse, its accuracy, and test images from 0 to 1 with their labels."""
    data = load_data("mnist5k")
    torch.manual_seed(0)
    model = build_model("lenet5-bn", num_classes=10, in_channels=1, image_size=28)
    sparsify_fx.apply(model, "signin", sparsity=SPARSITY["digits"])
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    scheduler = sparsify_fx.Scheduler(
        model, optimizer, epochs=epochs, steps_per_epoch=data.steps_per_epoch(BATCH)
    )
    for epoch in range(scheduler.epochs):
        model.train()
        for x, y in data.epoch(BATCH, train=True, epoch=epoch):
            optimizer.zero_grad()
            (F.cross_entropy(model(x), y) + scheduler.penalty()).backward()
            optimizer.step()
            scheduler.step()
    sparsify_fx.merge(model).eval()
    images, labels = next(data.epoch(data.facts.test_size, train=False))
    with torch.no_grad():
        accuracy = float((model(images).argmax(1) == labels).float().mean())
    wrapped = FromPixels(model, data.mean, data.std)
    return wrapped, accuracy, images * wrapped.std + wrapped.mean, labels


def resnet18() -> nn.Module:
    """Fresh weights, pruned by magnitude: what it answers means nothing, its size and speed do."""
    torch.manual_seed(0)
    model = sparsify_fx.apply(
        torchvision.models.resnet18(), "magnitude", sparsity=SPARSITY["resnet18"],
        schedule="at-init", allocation="uniform",
    )  # fmt: skip
    merged = sparsify_fx.merge(model).eval()
    return FromPixels(merged, [0.485, 0.456, 0.406], [0.229, 0.224, 0.225]).eval()


def write_forms(
    model: nn.Module, name: str, out: Path, x: Tensor
) -> list[dict[str, Any]]:
    """All files of a model; what the manifest says of them."""
    dense, rows = out / f"{name}-dense.onnx", []
    sparsify_fx.export(model.eval(), dense, x, encoding="dense", target="web")
    for title, encoding, values in FORMS:
        file = out / f"{name}-{title}.onnx"
        if file != dense:
            pack_onnx(dense, file, encoding=encoding, values=values, target="web")
        rows.append({"title": title, "file": file.name})
    for row, sizes in zip(
        rows, compressed([out / row["file"] for row in rows]), strict=True
    ):
        row |= sizes
    return rows


def compressed(files: list[Path]) -> list[dict[str, int]]:
    """`bytes` and `brotli` of each file, by Node, which npm has brought."""
    command = ["node", str(HERE / "brotli.mjs"), "9", *map(str, files)]
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=True)
    except FileNotFoundError:
        raise SystemExit(
            "there is no `node`, which compresses the files; install Node.js"
        ) from None
    found: list[dict[str, int]] = json.loads(done.stdout)
    return found


def write_pictures(images: Tensor, labels: Tensor, out: Path) -> list[str]:
    """One test image of each class, as PNG."""
    names = []
    for label in range(10):
        first = int((labels == label).nonzero()[0])
        names.append(f"digit-{label}.png")
        to_pil_image(images[first]).save(out / names[-1])
    return names


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--resnet18", action="store_true")
    parser.add_argument("--epochs", type=int, default=8)
    parser.add_argument("--out", type=Path, default=HERE / "models")
    options = parser.parse_args()
    if not WASM.is_file():
        raise SystemExit(
            f"there is no {WASM.name} in node_modules; run `npm install` in examples/web"
        )
    options.out.mkdir(parents=True, exist_ok=True)

    model, accuracy, images, labels = digits(options.epochs)
    zeros, right = (100 * each for each in (SPARSITY["digits"], accuracy))
    about = f"LeNet-5 with batch norm, {zeros:.0f} % zeros, {right:.1f} % of 1,000 test digits right"
    models = [{"name": "digits", "about": about, "side": 28, "channels": 1}]
    models[0]["files"] = write_forms(model, "digits", options.out, images[:2])
    if options.resnet18:
        about = f"resnet18, {100 * SPARSITY['resnet18']:.0f} % zeros, not trained: see sizes and times, not answers"
        models.append({"name": "resnet18", "about": about, "side": 224, "channels": 3})
        models[1]["files"] = write_forms(
            resnet18(), "resnet18", options.out, torch.rand(1, 3, 224, 224)
        )
    pictures = write_pictures(images, labels, options.out)
    manifest = {
        "runtime": compressed([WASM])[0],
        "models": models,
        "pictures": pictures,
    }
    # The last file: a page that finds it finds all the others.
    (options.out / "manifest.json").write_text(
        json.dumps(manifest, indent=1) + "\n", encoding="utf-8"
    )
    for each in models:
        for row in each["files"]:
            print(
                f"{row['file']}: {row['bytes']:,} bytes, {row['brotli']:,} with brotli"
            )


if __name__ == "__main__":
    main()
