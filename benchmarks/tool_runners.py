"""One tool on many ONNX files, in this interpreter: a line of JSON for each, written as soon as it is known.

    python benchmarks/tool_runners.py onnxsim results.jsonl a.onnx b.onnx

Beside each file lies its input, `given.npy`. What a tool gives goes beside it too: `TOOL.onnx` (or another ending), or
`TOOL.npy`, the output. Needs that tool alone; `benchmarks.tools` makes an environment for each, notices at which file
the process died, and starts another one behind it. To add a tool, write a function here that takes the file, a path
without an ending to write to, and the input, and returns the path of the model that it wrote, the output, or None.
"""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

Result = Path | np.ndarray | None


def onnxruntime(file: Path, _: Path, given: np.ndarray) -> Result:
    return _session(file).run(None, {"x": given})[0]


def onnxruntime_graph(file: Path, stem: Path, _: np.ndarray) -> Result:
    target = stem.with_suffix(".onnx")
    _session(file, target)
    return target


def onnxruntime_ort(file: Path, stem: Path, _: np.ndarray) -> Result:
    target = stem.with_suffix(".ort")
    _session(file, target)
    return target


def _session(file: Path, saved: Path | None = None) -> Any:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.log_severity_level = 3
    if saved is not None:
        options.optimized_model_filepath = str(saved)
        if saved.suffix == ".ort":
            options.add_session_config_entry("session.save_model_format", "ORT")
    return onnxruntime.InferenceSession(
        str(file), options, providers=["CPUExecutionProvider"]
    )


def onnxsim(file: Path, stem: Path, _: np.ndarray) -> Result:
    import onnxsim

    return _saved(onnxsim.simplify(str(file))[0], stem)


def onnxslim(file: Path, stem: Path, _: np.ndarray) -> Result:
    import onnxslim

    return _saved(onnxslim.slim(str(file)), stem)


def onnxoptimizer(file: Path, stem: Path, _: np.ndarray) -> Result:
    import onnx
    import onnxoptimizer

    return _saved(onnxoptimizer.optimize(onnx.load(str(file))), stem)


def infer_shapes(file: Path, stem: Path, _: np.ndarray) -> Result:
    import onnx

    return _saved(onnx.shape_inference.infer_shapes(onnx.load(str(file))), stem)


def full_check(file: Path, _: Path, __: np.ndarray) -> Result:
    import onnx

    onnx.checker.check_model(str(file), full_check=True)
    return None


def version_converter(file: Path, stem: Path, _: np.ndarray) -> Result:
    import onnx

    model = onnx.load(str(file))
    opset = next(each.version for each in model.opset_import if not each.domain)
    return _saved(onnx.version_converter.convert_version(model, opset + 1), stem)


def extract_model(file: Path, stem: Path, _: np.ndarray) -> Result:
    import onnx

    target = stem.with_suffix(".onnx")
    onnx.utils.extract_model(str(file), str(target), ["x"], ["y"])
    return target


def compose(file: Path, stem: Path, _: np.ndarray) -> Result:
    """The model, renamed, and an Identity behind it."""
    import onnx
    from onnx import helper

    model = onnx.compose.add_prefix(onnx.load(str(file)), "first_")
    end = model.graph.output[0]
    shape = [dim.dim_value for dim in end.type.tensor_type.shape.dim]
    ends = [helper.make_tensor_value_info(name, 1, shape) for name in ("v", "w")]
    node = helper.make_node("Identity", ["v"], ["w"])
    graph = helper.make_graph([node], "second", ends[:1], ends[1:])
    second = helper.make_model(
        graph, opset_imports=model.opset_import, ir_version=model.ir_version
    )
    merged = onnx.compose.merge_models(model, second, io_map=[(end.name, "v")])
    return _saved(merged, stem)


def reference_evaluator(file: Path, _: Path, given: np.ndarray) -> Result:
    from onnx.reference import ReferenceEvaluator

    return ReferenceEvaluator(str(file)).run(None, {"x": given})[0]


def save_external(file: Path, stem: Path, _: np.ndarray) -> Result:
    import onnx

    target = stem.with_suffix(".onnx")
    data = f"{target.name}.data"
    onnx.save(
        onnx.load(str(file)), target,
        save_as_external_data=True, location=data, size_threshold=256,
    )  # fmt: skip
    return target


def quant_pre_process(file: Path, stem: Path, _: np.ndarray) -> Result:
    from onnxruntime.quantization.shape_inference import quant_pre_process

    target = stem.with_suffix(".onnx")
    quant_pre_process(str(file), str(target))
    return target


def quantize_dynamic(file: Path, stem: Path, _: np.ndarray) -> Result:
    from onnxruntime.quantization import quantize_dynamic

    target = stem.with_suffix(".onnx")
    quantize_dynamic(str(file), str(target))
    return target


def quantize_static(file: Path, stem: Path, given: np.ndarray) -> Result:
    from onnxruntime.quantization import CalibrationDataReader, quantize_static

    class Readings(CalibrationDataReader):
        def __init__(self) -> None:
            self.left = iter([{"x": given}, {"x": given * np.float32(0.5)}])

        def get_next(self) -> dict[str, Any] | None:
            return next(self.left, None)

    target = stem.with_suffix(".onnx")
    quantize_static(str(file), str(target), Readings())
    return target


def float16_onnxruntime(file: Path, stem: Path, _: np.ndarray) -> Result:
    import onnx
    from onnxruntime.transformers.float16 import convert_float_to_float16

    return _saved(convert_float_to_float16(onnx.load(str(file))), stem)


def float16_onnxconverter(file: Path, stem: Path, _: np.ndarray) -> Result:
    import onnx
    from onnxconverter_common.float16 import convert_float_to_float16

    return _saved(convert_float_to_float16(onnx.load(str(file))), stem)


def onnx2torch(file: Path, _: Path, given: np.ndarray) -> Result:
    import onnx
    import torch
    from onnx2torch import convert

    model = convert(onnx.load(str(file))).eval()
    with torch.no_grad():
        return model(torch.from_numpy(given)).numpy()


def coremltools(file: Path, stem: Path, _: np.ndarray) -> Result:
    import coremltools

    coremltools.convert(str(file)).save(str(stem.with_suffix(".mlpackage")))
    return None


WEB = """
const ort = require('onnxruntime-web'), fs = require('fs');
const [file, source, target, shape] = process.argv.slice(1);
ort.env.wasm.numThreads = 1;
(async () => {
  const beside = file.replace(/onnx$/, 'data');
  const read = name => new Uint8Array(fs.readFileSync(name));
  const externalData = fs.existsSync(beside) ? [{path: 'model.data', data: read(beside)}] : [];
  const session = await ort.InferenceSession.create(read(file), {externalData});
  const bytes = fs.readFileSync(source);
  const values = new Float32Array(bytes.buffer.slice(bytes.byteOffset, bytes.byteOffset + bytes.length));
  const found = await session.run({x: new ort.Tensor('float32', values, shape.split(',').map(Number))});
  fs.writeFileSync(target, Buffer.from(found[session.outputNames[0]].data.buffer));
})().catch(error => { console.error(String(error).slice(0, 500)); process.exit(1); });
"""


def onnxruntime_web(file: Path, stem: Path, given: np.ndarray) -> Result:
    """In node, with the package that npm put beside this interpreter; it reads no folder, so external data is given."""
    source, target = stem.with_suffix(".in"), stem.with_suffix(".out")
    given.tofile(source)
    modules = Path(sys.prefix) / "node_modules"
    shape = ",".join(map(str, given.shape))
    done = subprocess.run(
        ["node", "-e", WEB, file, source, target, shape],
        capture_output=True,
        text=True,
        env={**os.environ, "NODE_PATH": str(modules)},
    )
    if done.returncode:
        raise RuntimeError(done.stderr.strip()[:500])
    return np.fromfile(target, np.float32)


def _saved(model: Any, stem: Path) -> Path:
    import onnx

    target = stem.with_suffix(".onnx")
    onnx.save(model, str(target))
    return target


def _runtime(name: str) -> Callable[[Path, Path, np.ndarray], Result]:
    def run(file: Path, _: Path, given: np.ndarray) -> Result:
        # As a program this file has its folder on the path; as a module of the tests it has not.
        import runtime_runners

        return np.asarray(runtime_runners.RUNNERS[name](str(file), given)())

    return run


TOOLS: dict[str, Callable[[Path, Path, np.ndarray], Result]] = {
    "onnxruntime": onnxruntime,
    "onnxruntime-graph": onnxruntime_graph,
    "onnxruntime-ort": onnxruntime_ort,
    "onnxruntime-web": onnxruntime_web,
    "onnxsim": onnxsim,
    "onnxslim": onnxslim,
    "onnxoptimizer": onnxoptimizer,
    "onnx-infer-shapes": infer_shapes,
    "onnx-full-check": full_check,
    "onnx-version-converter": version_converter,
    "onnx-extract-model": extract_model,
    "onnx-compose": compose,
    "onnx-reference": reference_evaluator,
    "onnx-save-external": save_external,
    "quant-pre-process": quant_pre_process,
    "quantize-dynamic": quantize_dynamic,
    "quantize-static": quantize_static,
    "float16-onnxruntime": float16_onnxruntime,
    "float16-onnxconverter": float16_onnxconverter,
    **{
        name: _runtime(name) for name in ("openvino", "tract", "iree", "tvm", "mnn", "ncnn")
    },
    "onnx2torch": onnx2torch,
    "coremltools": coremltools,
}  # fmt: skip


def result_of(tool: str, file: Path) -> dict[str, Any]:
    """What became of one file: `model`, `output` or neither, or the last words of an error."""
    stem = file.parent / tool
    try:
        found = TOOLS[tool](file, stem, np.load(file.parent / "given.npy"))
    except Exception as error:
        # Tools raise a hundred classes; all mean that the file was refused.
        said = " ".join(str(error).split()) or repr(error)
        # A converter that is a program of its own may have died in the stead of this process.
        if killed := re.search(r"failed \((-\d+)\)", said):
            return {"died": signal.Signals(-int(killed[1])).name}
        return {"refused": f"{type(error).__name__}: {said}"}
    if isinstance(found, np.ndarray):
        np.save(stem.with_suffix(".npy"), found)
        return {"output": f"{tool}.npy"}
    return {"model": found.name} if found is not None else {}


def main() -> None:
    tool, results, *files = sys.argv[1:]
    for file in files:
        found = {"file": file, **result_of(tool, Path(file))}
        with open(results, "a", encoding="utf-8") as lines:
            lines.write(json.dumps(found) + "\n")


if __name__ == "__main__":
    main()
