"""Peak memory of 1024 Go1 environments, and whether training's memory stays flat.

    python benchmarks/memory.py

Each part runs in a process of its own; sizes are resident memory as the kernel reports it.
"""

from __future__ import annotations

import resource
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

HERE = Path(__file__).parent
GO1 = "MuJoCoPlayground/Go1JoystickFlatTerrain-v1"


def resident_mb() -> float:
    """Resident memory now, in MB."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * resource.getpagesize() / 1e6


def environments() -> str:
    """1024 Go1 environments for 50 steps."""
    import torch

    from trudi.train.envs.envpool import EnvPoolEnv

    before = resident_mb()
    env = EnvPoolEnv(GO1, 1024, 0)
    env.reset()
    for _ in range(50):
        env.step(2 * torch.rand(1024, 12) - 1)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e6
    env.close()
    return f"1024 Go1 environments: process peak {peak:.0f} MB, of which {before:.0f} MB before (Python and torch)"


def training() -> str:
    """200 iterations, with three checkpoints and simulator restarts among them."""
    from trudi.train.config import load_config
    from trudi.train.loop import Learner

    cfg = load_config(None, "envpool:CartpoleSwingup-v1")
    learner = Learner(replace(cfg, num_envs=32, rollout_steps=32, max_iterations=10_000))
    sizes: list[float] = []
    for iteration in range(1, 201):
        learner.iterate()
        if iteration % 50 == 0:
            learner.evaluate()
            learner.restart_simulator()
            sizes.append(resident_mb())
    learner.close()
    return f"training, resident after 50, 100, 150, 200 iterations: {', '.join(f'{size:.0f}' for size in sizes)} MB"


def main() -> None:
    """Runs both parts and writes memory.md."""
    if len(sys.argv) > 1:
        print({"environments": environments, "training": training}[sys.argv[1]]())
        return
    lines = ["# Memory", "", "`python benchmarks/memory.py`", ""]
    for part in ("environments", "training"):
        done = subprocess.run([sys.executable, __file__, part], capture_output=True, text=True, check=True)
        lines.append(f"- {done.stdout.strip().splitlines()[-1]}")
    (HERE / "memory.md").write_text("\n".join(lines) + "\n")
    print("\n".join(lines))


if __name__ == "__main__":
    main()
