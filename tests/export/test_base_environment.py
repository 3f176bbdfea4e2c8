"""What a robot installs: the base package alone, in an environment of its own, reads, verifies and flies a bundle."""

import json
import os
import subprocess
import sys
from pathlib import Path

from trudi.runtime.robots.mujoco import MujocoCfg, MujocoRobot

ROOT = Path(__file__).parents[2]


def test_the_base_package_alone_inspects_verifies_and_flies_a_bundle(bundle, tmp_path):
    environment = tmp_path / "robot"
    subprocess.run([sys.executable, "-m", "venv", environment], check=True)
    python = environment / "bin" / "python"
    quiet = ("--quiet", "--disable-pip-version-check")
    subprocess.run([python, "-m", "pip", "install", *quiet, "-c", ROOT / "constraints.txt", ROOT], check=True)
    clean = {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}

    def trudi(*argv):
        command = [environment / "bin" / "trudi", *map(str, argv)]
        return subprocess.run(command, capture_output=True, text=True, env=clean, cwd=tmp_path, check=False)

    others = ("torch", "onnx", "tyro", "scipy", "mujoco")
    found = f"import importlib.util as u; print([name for name in {others} if u.find_spec(name)])"
    assert subprocess.check_output([python, "-c", found], text=True, env=clean).strip() == "[]"
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

    missing_robot = trudi("run", bundle)
    assert missing_robot.returncode == 2 and "pip install 'trudi[mujoco]'" in missing_robot.stderr
    with MujocoRobot(MujocoCfg(task="CartpoleSwingup-v1")) as robot:  # in this environment, as on another machine
        options = ("--seconds", "1.5", "--rate", "100", "--record", tmp_path / "flight.mcap")
        for _ in range(3):  # A shared machine may take its cores away for longer than this bundle's five control periods.
            flown = trudi("run", bundle, "--robot", f"udp:127.0.0.1:{robot.port}", *options)
            if "OVERRUN" not in flown.stdout:
                break
        assert flown.returncode == 0, flown.stdout + flown.stderr
        assert robot.report().commands > 100 and robot.report().violation_count == 0
    again = trudi("replay", tmp_path / "flight.mcap", "--bundle", bundle)
    assert again.returncode == 0 and "to the last bit" in again.stdout, again.stdout + again.stderr
