"""What a robot installs: the base package alone, in an environment of its own, reads and verifies a bundle."""

import json
import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]


def test_the_base_package_alone_inspects_and_verifies_a_bundle(bundle, tmp_path):
    environment = tmp_path / "robot"
    subprocess.run([sys.executable, "-m", "venv", environment], check=True)
    python = environment / "bin" / "python"
    quiet = ("--quiet", "--disable-pip-version-check")
    subprocess.run([python, "-m", "pip", "install", *quiet, "-c", ROOT / "constraints.txt", ROOT], check=True)
    clean = {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}

    def trudi(*argv):
        command = [environment / "bin" / "trudi", *map(str, argv)]
        return subprocess.run(command, capture_output=True, text=True, env=clean, cwd=tmp_path, check=False)

    missing = "import importlib.util as u; print([n for n in ('torch', 'onnx', 'tyro', 'scipy') if u.find_spec(n)])"
    assert subprocess.check_output([python, "-c", missing], text=True, env=clean).strip() == "[]"
    page = trudi("inspect", bundle)
    assert page.returncode == 0 and "CartpoleSwingup-v1" in page.stdout, page.stderr
    report = tmp_path / "report.json"
    done = trudi("verify", bundle, "--json", report)
    assert done.returncode == 0, done.stdout + done.stderr
    verdicts = {check["engine"]: (check["verdict"], check["detail"]) for check in json.loads(report.read_text())["engines"]}
    assert verdicts.pop("onnx")[0] == "ok"
    ((verdict, detail),) = verdicts.values()  # the TensorRT-RTX engine, whose library is not here
    assert verdict == "not run" and "pip install 'trudi[tensorrt-rtx]'" in detail
    replay = trudi("verify", bundle, "--run", bundle)
    assert replay.returncode == 2 and "pip install 'trudi[export]'" in replay.stderr
    bench = trudi("bench", bundle, "--calls", "50", "--engine", "onnx")
    assert bench.returncode == 0 and "ours, onnx" in bench.stdout, bench.stderr
