"""`python -m trudi.train`: `trudi train` as Isaac Lab's users start a training.

./isaaclab.sh -p -m trudi.train --task Isaac-Velocity-Flat-Unitree-Go2-v0 --num_envs 4096 --headless
./isaaclab.sh -p -m trudi.train isaaclab:Isaac-Velocity-Flat-Unitree-Go2-v0 --num-envs 4096 --headless
"""

from __future__ import annotations

import sys

from trudi.train.commands.train import main


def with_task_first(argv: list[str]) -> list[str]:
    """`--task NAME` (or `--task=NAME`) as the first argument; a name without a backend is Isaac Lab's."""
    for index, argument in enumerate(argv):
        flag, equals, value = argument.partition("=")
        if flag != "--task" or (not equals and index + 1 == len(argv)):
            continue
        name, after = (value, index + 1) if equals else (argv[index + 1], index + 2)
        return [name if ":" in name else f"isaaclab:{name}", *argv[:index], *argv[after:]]
    return argv


if __name__ == "__main__":
    sys.exit(main(with_task_first(sys.argv[1:])))
