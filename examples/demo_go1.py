"""A quadruped that walks: the zoo's Go1 is verified, driven for a minute by a script, computed again and drawn.

make demo-go1        (and the same over ROS 2, demo_go1_ros.py; a minute each, and some for drawing the video)
"""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

BUNDLE, COURSE = Path("zoo") / "go1_flat", Path("examples") / "go1_course.yaml"
SECONDS = os.environ.get("TRUDI_DEMO_SECONDS", "60")


def trudi(*args: str | Path) -> None:
    """Runs one `trudi` command and shows it."""
    words = list(map(str, args))
    print(f"\n$ trudi {' '.join(words)}", flush=True)
    subprocess.run([sys.executable, "-m", "trudi.cli", *words], check=True)


def main() -> None:
    """Verifies, flies in real time, computes the flight again, draws it."""
    out = Path("runs") / "demo_go1" / time.strftime("%Y-%m-%d_%H-%M-%S")
    flight, video = out / "flight.mcap", out / "walk.mp4"
    out.mkdir(parents=True)
    trudi("verify", BUNDLE)
    trudi("run", BUNDLE, "--script", COURSE, "--seconds", SECONDS, "--record", flight, "--json", out / "flight.json")
    trudi("replay", flight, "--bundle", BUNDLE, "--video", video)
    print(f"\nflight: {flight}\nvideo: {video}")


if __name__ == "__main__":
    main()
