"""Tests over real DDS. They run in an environment of their own, with the ROS 2 wheels and without torch: `make test-ros`."""

import importlib.util
import os
import signal
import tempfile
from pathlib import Path

import pytest

if importlib.util.find_spec("rclpy") is None:
    collect_ignore_glob = ["*"]
else:
    signal.signal(signal.SIGHUP, signal.SIG_DFL)  # a runner under nohup hands on that it is ignored, and nodes heed that
    # Nothing leaves this machine, nothing from elsewhere comes in, and two runs do not hear each other.
    os.environ["ROS_AUTOMATIC_DISCOVERY_RANGE"] = "LOCALHOST"
    from harness import Bench, claim_domain, made_bundle, remove_unused, robot_parameters, segments

    if "PYTEST_XDIST_WORKER" in os.environ or "ROS_DOMAIN_ID" not in os.environ:
        claim_domain()
    os.environ.setdefault("ROS_LOG_DIR", tempfile.mkdtemp(prefix="trudi_ros_log_"))
    import rclpy

    @pytest.fixture(scope="session", autouse=True)
    def middleware():
        """Fast DDS leaves the shared memory of processes that were killed; the tests take away what came with them."""
        before = segments()
        rclpy.init()
        yield
        rclpy.shutdown()
        remove_unused(segments() - before)

    @pytest.fixture
    def bench(tmp_path):
        """Processes, and a node that looks at them; all gone after the test."""
        bench = Bench(tmp_path)
        yield bench
        bench.close()

    @pytest.fixture(scope="session")
    def cartpole():
        """CartpoleSwingup as `make demo` trained it."""
        return Path(__file__).parents[1] / "data" / "cartpole_swingup"

    @pytest.fixture(scope="session")
    def go1(tmp_path_factory):
        """A policy for Go1 that stands and sways a little."""
        return made_bundle(tmp_path_factory.mktemp("bundles") / "go1")

    @pytest.fixture(scope="session")
    def walking():
        """mjlab's Go1 from the zoo, which walks."""
        return Path(__file__).parents[2] / "zoo" / "go1_mjlab_flat"

    @pytest.fixture(scope="session")
    def standing(tmp_path_factory):
        """The same for a Go1 that estimates no velocity: its policy sees everything else."""
        folder = tmp_path_factory.mktemp("bundles")
        (folder / "quick.yaml").write_text("{stand_s: 0.3, stand_speed: 6.0, fade_in_s: 0.2}")
        return made_bundle(folder / "standing", without=["linvel"])

    @pytest.fixture
    def imu_robot(standing):
        """Parameters of a Go1 with an imu and no odometry, 100 states a second, that stands up quickly."""
        robot = robot_parameters("unitree_go1") | {"robot.odometry": False, "robot.state_rate_hz": 100.0}
        return robot | {"site_file": str(standing.parent / "quick.yaml")}
