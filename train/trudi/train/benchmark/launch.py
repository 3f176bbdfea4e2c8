"""Becomes another program, on chosen cores, that nothing stops but SIGKILL, and that gets it when its parent ends.

    python launch.py PARENT CORES PROGRAM ARGUMENTS...       CORES: 0,3 or - for all

A training that is asked to stop writes a checkpoint where it is and restarts its simulator there, which changes its result.
One that is killed goes on from its last periodic checkpoint as if nothing had been. So a benchmark's runs hear neither
SIGTERM nor SIGINT, not even where a service manager or a scheduler sends them to everything there is. Linux alone.
"""

from __future__ import annotations

import ctypes
import os
import signal
import sys
from collections.abc import Sequence

PR_SET_PDEATHSIG = 1  # linux/prctl.h


def launched(command: Sequence[str], cores: Sequence[int] = ()) -> list[str]:
    """The command line that runs `command` (with an absolute path) so; call it in the thread that lives as long as we do."""
    where = ",".join(map(str, cores)) or "-"
    return [sys.executable, "-I", "-S", __file__, str(os.getpid()), where, *command]


def main(argv: list[str]) -> None:
    """Never returns."""
    parent, cores, *command = argv
    signal.pthread_sigmask(signal.SIG_BLOCK, (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1, signal.SIGUSR2))
    if ctypes.CDLL(None, use_errno=True).prctl(PR_SET_PDEATHSIG, int(signal.SIGKILL), 0, 0, 0) != 0:
        sys.exit(f"prctl: {os.strerror(ctypes.get_errno())}")
    if os.getppid() != int(parent):  # It ended before it could be asked for, and the signal will never come.
        sys.exit("the parent is gone")
    if cores != "-":
        os.sched_setaffinity(0, {int(core) for core in cores.split(",")})
    os.execv(command[0], command)


if __name__ == "__main__":
    main(sys.argv[1:])
