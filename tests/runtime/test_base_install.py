"""What a robot gets: the base install imports neither torch nor anything else of the training side."""

import subprocess
import sys
from importlib.metadata import requires
from pathlib import Path

ROOT = Path(__file__).parents[2]
ROOTS = ("train", "export", "runtime")

NO_TORCH = """
import sys
BLOCKED = "torch envpool tyro rich scipy cryptography onnx tensorrt_rtx cuda mujoco".split()
class Block:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in BLOCKED:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)
sys.meta_path.insert(0, Block())
import trudi.cli
import trudi.runtime.doctor, trudi.runtime.writing, trudi.runtime.signing
import trudi.runtime.engines.choose, trudi.runtime.engines.files, trudi.runtime.flight.recording, trudi.runtime.flight.ring
import trudi.runtime.commands.verify, trudi.runtime.commands.bench, trudi.runtime.commands.inspect
import trudi.runtime.commands.run, trudi.runtime.commands.replay, trudi.runtime.session, trudi.runtime.robots.udp
"""


def run(code):
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)


def test_the_command_and_doctor_import_without_the_training_packages():
    done = run(NO_TORCH + "sys.exit(trudi.cli.main(['doctor']))")
    assert done.returncode == 0, done.stderr
    for extra in ("train", "export", "tensorrt-rtx", "cuda"):
        assert f"pip install 'trudi[{extra}]'" in done.stdout
    assert "CPU" in next(line for line in done.stdout.splitlines() if line.startswith("ok       onnxruntime"))


def test_a_missing_extra_is_named():
    done = run(NO_TORCH + "sys.exit(trudi.cli.main(['train', 'envpool:CheetahRun-v1']))")
    assert done.returncode == 2
    assert done.stderr.splitlines()[-1].endswith("pip install 'trudi[train]'")


def test_the_command_alone_imports_no_torch():
    done = run("import sys, trudi.cli; trudi.cli.main(['--help']); assert 'torch' not in sys.modules")
    assert done.returncode == 0, done.stderr


def test_an_unknown_command_lists_the_known_ones():
    done = run("import sys, trudi.cli; sys.exit(trudi.cli.main(['trian']))")
    assert done.returncode == 2
    assert "unknown command 'trian'; available: train, eval" in done.stderr


def test_trudi_is_a_namespace_over_three_roots():
    """An `__init__.py` in any of them would hide the other two."""
    assert [str(path) for root in ROOTS for path in (ROOT / root / "trudi").glob("__init__.py")] == []
    for root in ROOTS:
        assert (ROOT / root / "trudi" / root / "py.typed").is_file()


def test_the_base_install_is_light():
    base = " ".join(line.split(">")[0] for line in requires("trudi") or [] if "extra ==" not in line)
    assert base == "mcap numpy onnxruntime protobuf pydantic pyyaml zstandard"


def test_imports_run_one_way():
    """export may import train and runtime; train may import runtime's contract; runtime imports neither."""
    for path in (ROOT / "runtime").rglob("*.py"):
        if path.name == "cli.py":
            continue
        text = path.read_text()
        assert "trudi.train" not in text and "trudi.export" not in text, path
    for path in (ROOT / "train").rglob("*.py"):
        assert "trudi.export" not in path.read_text(), path
