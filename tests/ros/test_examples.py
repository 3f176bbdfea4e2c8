"""The example that drives the zoo's Go1 over ROS 2, as a user starts it."""

import os
import subprocess
import sys
from pathlib import Path

EXAMPLE = Path(__file__).parents[2] / "examples" / "demo_go1_ros.py"


def test_the_demo_over_ros_walks_and_ends_on_its_feet():
    """Its own domain is this process's: nobody else hears it."""
    done = subprocess.run(
        [sys.executable, str(EXAMPLE)],
        env=os.environ | {"TRUDI_DEMO_SECONDS": "5"},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "~/stop: ACTIVE, halting" in done.stdout
    assert "under the policy, STAND at the end, no fault" in done.stdout
