"""ONNX files in the runtime of this interpreter: load them, run them, save outputs, print times as JSON.

    python benchmarks/runtime_runners.py openvino input.npy outputs.npz dense.onnx packed.onnx

Needs numpy and that runtime alone; `benchmarks.runtimes` makes an environment for each. To add a runtime, write a
function here that takes the file and its input, prepares the model, and returns what runs it once.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import sysconfig
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

Run = Callable[[], Any]

SECONDS = 4.0
"""To run all files in turn."""


def openvino(file: str, given: np.ndarray) -> Run:
    import openvino

    options = {"INFERENCE_NUM_THREADS": 1, "INFERENCE_PRECISION_HINT": "f32"}
    compiled = openvino.Core().compile_model(file, "CPU", options)
    return lambda: compiled([given])[compiled.output(0)]


def tract(file: str, given: np.ndarray) -> Run:
    import tract

    model = tract.onnx().load(file).into_model().into_runnable()
    return lambda: model.run([given])[0].to_numpy()


def mnn(file: str, given: np.ndarray) -> Run:
    import MNN

    converted = str(Path(file).with_suffix(".mnn"))
    tool = [sys.executable, "-m", "MNN.tools.mnnconvert"]
    _quietly([*tool, "-f", "ONNX", "--modelFile", file, "--MNNModel", converted, "--bizCode", "x"])  # fmt: skip
    net = MNN.nn.load_module_from_file(converted, ["x"], ["y"], thread_num=1)
    expr = MNN.expr

    def run() -> Any:
        # Fed anew each time: MNN keeps the result of an input that has not changed.
        value = expr.placeholder(list(given.shape), expr.NCHW)
        value.write(given)
        return np.array(expr.convert(net.forward(value), expr.NCHW).read())

    return run


def ncnn(file: str, given: np.ndarray) -> Run:
    import ncnn

    # The program itself: its wrapper in Python needs torch.
    pnnx = Path(sysconfig.get_path("purelib")) / "pnnx" / "pnnx"
    shape = "[" + ",".join(map(str, given.shape)) + "]"
    _quietly([str(pnnx), file, f"inputshape={shape}", "fp16=0"], Path(file).parent)
    stem = str(Path(file).with_suffix(""))
    net = ncnn.Net()
    net.opt.num_threads = 1
    net.opt.use_fp16_packed = net.opt.use_fp16_storage = False
    net.opt.use_fp16_arithmetic = False
    if net.load_param(f"{stem}.ncnn.param") or net.load_model(f"{stem}.ncnn.bin"):
        raise RuntimeError("ncnn cannot load what pnnx wrote")

    def run() -> Any:
        extractor = net.create_extractor()
        extractor.input("in0", ncnn.Mat(given[0]).clone())
        return np.array(extractor.extract("out0")[1])[None]

    return run


def iree(file: str, given: np.ndarray) -> Run:
    import iree.compiler
    import iree.runtime

    bin_ = Path(sysconfig.get_path("scripts"))
    text = str(Path(file).with_suffix(".mlir"))
    _quietly([str(bin_ / "iree-import-onnx"), file, "-o", text])
    options = ["--iree-llvmcpu-target-cpu=host"]
    module = iree.compiler.compile_file(
        text, target_backends=["llvm-cpu"], input_type="onnx", extra_args=options
    )
    config = iree.runtime.Config("local-sync")
    loaded = iree.runtime.load_vm_module(
        iree.runtime.VmModule.copy_buffer(config.vm_instance, module), config
    )
    function = next(
        name for name in loaded.vm_module.function_names if not name.startswith("__") and "$" not in name
    )  # fmt: skip
    return lambda: np.asarray(loaded[function](given))


def tvm(file: str, given: np.ndarray) -> Run:
    import onnx
    import tvm
    from tvm import relax
    from tvm.relax.frontend.onnx import from_onnx

    module = from_onnx(onnx.load(file), keep_params_in_input=False)
    built = tvm.compile(module, target="llvm")
    machine = relax.VirtualMachine(built, tvm.cpu())
    value = tvm.runtime.tensor(given)

    def run() -> Any:
        found = machine["main"](value)
        found = found if hasattr(found, "numpy") else found[0]
        return found.numpy()

    return run


def onnxruntime(file: str, given: np.ndarray) -> Run:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(
        file, options, providers=["CPUExecutionProvider"]
    )
    return lambda: session.run(None, {"x": given})[0]


RUNNERS: dict[str, Callable[[str, np.ndarray], Run]] = {
    each.__name__: each for each in (onnxruntime, openvino, tract, iree, tvm, mnn, ncnn)
}
"""By the names of profiles."""


def _quietly(command: list[str], folder: Path | None = None) -> None:
    """Run a converter; its last lines are the error when it fails."""
    done = subprocess.run(command, capture_output=True, text=True, cwd=folder)
    if done.returncode:
        said = " ".join((done.stderr or done.stdout).strip().splitlines()[-3:])
        raise RuntimeError(f"{Path(command[0]).name} failed ({done.returncode}): {said}")  # fmt: skip


def measured(
    name: str, files: list[Path], given: np.ndarray
) -> tuple[list[np.ndarray], list[dict[str, float]]]:
    """For each file the output, seconds to load, and milliseconds of the fastest of many runs."""
    runs, outputs, loads = [], [], []
    # Once for nothing: what a runtime sets up for the first file counts for none.
    RUNNERS[name](str(files[0]), given)
    for file in files:
        start = time.perf_counter()
        run = RUNNERS[name](str(file), given)
        outputs.append(np.asarray(run()))
        loads.append(time.perf_counter() - start)
        runs.append(run)
    # In turn and in one process: of two processes on a busy machine the faster file may
    # well be the slower one.
    times: list[list[float]] = [[] for _ in runs]
    until = time.perf_counter() + SECONDS
    while time.perf_counter() < until or len(times[0]) < 15:
        for run, found in zip(runs, times, strict=True):
            start = time.perf_counter()
            run()
            found.append(time.perf_counter() - start)
    facts = [
        {"load_s": round(load, 3), "run_ms": round(1e3 * min(found), 3)}
        for load, found in zip(loads, times, strict=True)
    ]
    return outputs, facts


def main() -> None:
    name, source, target, *files = sys.argv[1:]
    with tempfile.TemporaryDirectory() as folder:
        copies = []
        for number, file in enumerate(files):
            # Converters write beside the file, under its name.
            place = Path(folder) / str(number)
            place.mkdir()
            copies.append(Path(shutil.copy(file, place / "model.onnx")))
        outputs, facts = measured(name, copies, np.load(source))
    np.savez(target, *outputs)
    print(json.dumps(facts))


if __name__ == "__main__":
    main()
