"""Pack and unpack an ONNX model of more than 2 GB with little memory.

    python benchmarks/large_model.py                       # 2.3 GB of weights, 90 % zeros, 2 GB of memory
    python benchmarks/large_model.py --gigabytes 0.3       # the same in small

Writes a model with external data, packs it in a process whose data segment is limited to --memory gigabytes, unpacks it
again with as much more as the model holds, and compares every byte. Takes 2.2 times --gigabytes of disk.
"""

from __future__ import annotations

import argparse
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper

ROWS, COLUMNS = 4096, 8192  # 128 MB a layer


def write(file: Path, layers: int) -> None:
    """Matrix products in a row; the weights are made and written one at a time."""
    rng, nodes, tensors = np.random.default_rng(0), [], []
    shapes = [
        (ROWS, COLUMNS) if place % 2 == 0 else (COLUMNS, ROWS)
        for place in range(layers)
    ]
    with file.with_suffix(".data").open("wb") as stream:
        for place, shape in enumerate(shapes):
            weight = rng.standard_normal(shape, dtype=np.float32)
            weight[rng.random(shape, dtype=np.float32) < 0.9] = 0
            tensor = TensorProto(
                name=f"w{place}", dims=shape, data_type=TensorProto.FLOAT
            )
            tensor.data_location = TensorProto.EXTERNAL
            place_of = {
                "location": file.with_suffix(".data").name,
                "offset": stream.tell(),
                "length": weight.nbytes,
            }
            for key, value in place_of.items():
                tensor.external_data.add(key=key, value=str(value))
            stream.write(weight.data)
            tensors.append(tensor)
            nodes.append(
                helper.make_node(
                    "MatMul", [f"x{place}", f"w{place}"], [f"x{place + 1}"]
                )
            )
    ends = [
        helper.make_tensor_value_info("x0", TensorProto.FLOAT, ["n", shapes[0][0]]),
        helper.make_tensor_value_info(
            f"x{layers}", TensorProto.FLOAT, ["n", shapes[-1][1]]
        ),
    ]
    graph = helper.make_graph(nodes, "large", ends[:1], ends[1:], tensors)
    onnx.save(
        helper.make_model(
            graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9
        ),
        str(file),
    )


def limited(code: str, memory: float) -> tuple[float, float]:
    """Run Python code with a limit on its data segment: (seconds, gigabytes of its highest resident set)."""
    size = int(memory * 2**30)
    tail = "\nimport re; print(re.search(r'VmHWM:\\s*(\\d+)', open('/proc/self/status').read())[1])"
    start = time.perf_counter()
    done = subprocess.run(
        [sys.executable, "-c", code + tail],
        capture_output=True,
        text=True,
        check=False,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_DATA, (size, size)),
    )
    if done.returncode != 0:
        raise SystemExit(f"failed within {memory:g} GB:\n{done.stderr[-2000:]}")
    return time.perf_counter() - start, int(done.stdout.split()[-1]) / 2**20


def same(first: Path, second: Path) -> bool:
    """Whether both models hold the same bytes for every weight, in whatever order."""
    models = [
        onnx.load(str(file), load_external_data=False) for file in (first, second)
    ]
    arrays = []
    for file, model in zip((first, second), models, strict=True):
        entries = {
            t.name: {e.key: e.value for e in t.external_data}
            for t in model.graph.initializer
        }
        arrays.append(
            {
                name: np.memmap(
                    file.with_name(e["location"]),
                    np.uint8,
                    "r",
                    int(e["offset"]),
                    (int(e["length"]),),
                )
                for name, e in entries.items()
            }
        )
    names = arrays[0].keys() == arrays[1].keys()
    return names and all(
        np.array_equal(arrays[0][name], arrays[1][name]) for name in arrays[0]
    )


def main() -> None:
    """Write, pack, unpack, compare."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--gigabytes", type=float, default=2.3)
    parser.add_argument(
        "--memory",
        type=float,
        default=2.0,
        help="limit of the data segment in gigabytes",
    )
    parser.add_argument("--values", default="fp32")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        source, packed, back = (
            Path(name) / f"{part}.onnx" for part in ("large", "packed", "back")
        )
        write(source, max(1, round(options.gigabytes * 1e9 / (4 * ROWS * COLUMNS))))
        size = source.with_suffix(".data").stat().st_size
        arguments = (
            f"{str(source)!r}, {str(packed)!r}, values={options.values!r}, verify=False"
        )
        seconds, peak = limited(
            f"import sparsify_fx; sparsify_fx.pack_onnx({arguments})", options.memory
        )
        small = packed.stat().st_size
        print(
            f"pack: {size:,} -> {small:,} bytes ({size / small:.2f}x), {seconds:.0f} s, peak {peak:.2f} GB"
        )
        code = f"import sparsify_fx; sparsify_fx.unpack_onnx({str(packed)!r}, {str(back)!r})"
        if options.gigabytes < 2:  # below 2 GB one file would hold everything
            code = f"from sparsify_fx.passes.onnx_graph import outside; outside.MAX_BYTES = 10**6; {code}"
        memory = (
            options.memory + size / 2**30
        )  # what is decoded is held until it is written
        seconds, peak = limited(code, memory)
        print(f"unpack: {seconds:.0f} s, peak {peak:.2f} GB")
        if not same(source, back):
            raise SystemExit("the unpacked weights differ")
        print("every byte is the same")


if __name__ == "__main__":
    main()
