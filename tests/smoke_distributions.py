"""Builds the wheel and the sdist and tries what they install: run by `make check`.

Each is unpacked to a folder of its own and used from there, with the environment's dependencies beside it.
"""

import os
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).parents[1]

TRY = """
import sys
sys.path = [sys.argv[1], *(path for path in sys.path if "/lib/" in path)]  # without the editable install's three roots
import trudi.cli, trudi.runtime.doctor, trudi.export, trudi.train.config as config
assert all(module.__file__.startswith(sys.argv[1]) for module in (trudi.cli, config)), (trudi.cli.__file__, config.__file__)
assert config.presets_folder().is_relative_to(sys.argv[1]), config.presets_folder()
assert "cartpole_swingup" in config.presets()
assert config.load_config(None, "envpool:CartpoleSwingup-v1").critic.bins == 251
from trudi.export.robot_file import load_robot_file
assert load_robot_file("unitree_go1").observation_size == 48
from pathlib import Path
for part in ("train", "export", "runtime"):
    assert (Path(sys.argv[1]) / "trudi" / part / "py.typed").is_file(), part
assert not (Path(sys.argv[1]) / "trudi" / "__init__.py").exists()
assert trudi.cli.main(["--help"]) == 0
"""


def run(*command: str | Path) -> None:
    subprocess.run([sys.executable, *map(str, command)], check=True, cwd=ROOT, env=os.environ | {"PYTHONPATH": ""})


def main() -> None:
    with tempfile.TemporaryDirectory() as name:
        scratch = Path(name)
        run("-m", "build", "--no-isolation", "--outdir", scratch / "dist", ".")
        (scratch / "try.py").write_text(TRY)
        for path in sorted((scratch / "dist").iterdir()):
            installed = scratch / f"installed_{path.suffix[1:]}"
            pip = ("-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--no-deps", "--no-build-isolation")
            run(*pip, "--target", installed, path)
            run(scratch / "try.py", installed)
            size = path.stat().st_size
            assert size < 3_000_000, f"{path.name} has {size} bytes"
            print(f"{path.name}: installs and works ({size / 1e3:.0f} kB)")


if __name__ == "__main__":
    main()
