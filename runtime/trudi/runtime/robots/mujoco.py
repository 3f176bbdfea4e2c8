"""The simulated robot as the runtime uses it: starts the process, speaks to it over UDP, and ends it."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import tempfile
from dataclasses import asdict, dataclass, field
from typing import IO, Any, cast

from trudi.runtime.child import environment, read_line
from trudi.runtime.errors import near_matches, quoted
from trudi.runtime.robots.base import RobotError, RobotReport
from trudi.runtime.robots.injection import Fault, parse_schedule
from trudi.runtime.robots.simulation import DEFAULT_TIMEOUT_S, GO1_TASK, task_name
from trudi.runtime.robots.udp import UdpRobot, report_from
from trudi.runtime.robots.variation import Variation
from trudi.runtime.viewer.choice import parse_view
from trudi.runtime.viewer.link import START_S, ViewerAddress

PROCESS = "trudi.runtime.robots.mujoco_process"
_END_S = 3.0


@dataclass(frozen=True)
class MujocoCfg:
    """The simulated robot."""

    task: str = GO1_TASK
    """Whose robot it is: a task with a MJCF, with or without the prefix `envpool:` or `mjlab:`."""
    model: str | None = None
    """Another scene in MJCF for a robot like Go1; None takes the task's own."""
    state_period_s: float | None = None
    """Time between two states, a multiple of the physics step; s. None: every physics step."""
    command_timeout_s: float = DEFAULT_TIMEOUT_S
    """Time without a command after which the robot damps by itself; s."""
    faults: tuple[Fault, ...] = ()
    """What goes wrong, and when."""
    noise: float = 0.0
    """Sensor noise as a factor on that of Go1's training; 0 is none."""
    quantise: float = 0.0
    """Step to whose multiples every measured number is rounded; its unit. 0 is none."""
    dropout: float = 0.0
    """Probability that a state is lost."""
    command_latency_s: float = 0.0
    """Time from the arrival of a command until it takes effect; s."""
    variation: Variation = field(default_factory=Variation)
    """How the robot differs from its model, and pushes."""
    base_contact: bool = True
    """Whether the floor carries the base of Playground's Go1, of which only the feet meet it in training."""
    engage_distance: float = 0.15
    """Farthest that the first target of STAND may be from the measured position; rad or m."""
    stand_speed: float = 6.0
    """Fastest that targets may move during STAND; rad/s or m/s."""
    seed: int = 0
    """Of initial states and noise."""
    priority: int = 0
    """SCHED_FIFO priority of the process, 1 to 99; 0 asks for none."""
    cpu: int | None = None
    """The core the process keeps to; None lets the scheduler choose."""
    view: str = ""
    """What shows the robot: `window`, `browser[:[HOST:]PORT]` or `auto`, a window where there is a display; empty: none."""
    start_timeout_s: float = 20.0
    """How long the process may take to be ready; s."""

    def __post_init__(self) -> None:
        own_task = task_name(self.task)
        for name in ("noise", "quantise", "command_latency_s"):
            if not getattr(self, name) >= 0.0:
                raise RobotError(f"{name} is {getattr(self, name)}: must be 0 or more")
        for name in ("command_timeout_s", "engage_distance", "stand_speed", "start_timeout_s"):
            if not getattr(self, name) > 0.0:
                raise RobotError(f"{name} is {getattr(self, name)}: must be above 0")
        parse_view(self.view)
        if not 0.0 <= self.dropout <= 1.0:
            raise RobotError(f"dropout is {self.dropout}: a probability is 0 to 1")
        if self.state_period_s is not None and not self.state_period_s > 0.0:
            raise RobotError(f"state_period_s is {self.state_period_s}: must be above 0")
        if self.model is not None and own_task != GO1_TASK:
            raise RobotError(f"model {self.model}: only {GO1_TASK} takes a scene of your own, not {self.task}")

    def to_json(self) -> str:
        """For the process's `--config`."""
        return json.dumps(asdict(self))

    @classmethod
    def from_json(cls, text: str) -> MujocoCfg:
        """The inverse of `to_json`; fields may be absent. RobotError where it is not understood."""
        try:
            values = json.loads(text)
        except ValueError as error:
            raise RobotError(f"--config is not valid JSON: {error}") from error
        if not isinstance(values, dict):
            raise RobotError(f"--config must be a JSON object, not {quoted(values)}")
        given = cast("dict[str, Any]", values)
        fields = cls.__dataclass_fields__
        for key in given:
            if key not in fields:
                raise RobotError(f"--config: unknown field {quoted(key)}; {near_matches(key, fields)}")
        try:
            given["faults"] = parse_schedule(given.get("faults", []), "--config")
            given["variation"] = Variation.from_values(given.get("variation", {}), "--config")
            return cls(**given)
        except TypeError as error:
            raise RobotError(f"--config: {error}") from error


class MujocoRobot(UdpRobot):
    """A simulated robot in a process of its own, which ends with this object or with this process."""

    def __init__(self, cfg: MujocoCfg | None = None, timeout_s: float = 2.0) -> None:
        """Starts the process and waits until it is ready; `timeout_s` is how long a later request may take."""
        self.cfg = cfg or MujocoCfg()
        self._errors = tempfile.TemporaryFile()  # noqa: SIM115 (closed by close)
        self._process = self._start()
        self.final_report: RobotReport | None = None
        """What the process said at its end, once `close` has ended it."""
        self.viewer: ViewerAddress | None = None
        """Where the page is that shows the robot, if there is one."""
        try:
            port = self._wait_ready()
            super().__init__(port, timeout_s=timeout_s)
        except BaseException:
            self._end()
            raise

    def _start(self) -> subprocess.Popen[bytes]:
        command = [sys.executable, "-m", PROCESS, "--with-parent", "--config", self.cfg.to_json()]
        try:
            # The process watches the pipe at its standard input: it closes when this process ends, however it ends.
            return subprocess.Popen(
                command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self._errors, env=environment()
            )
        except OSError as error:
            self._errors.close()
            raise RobotError(f"the robot's process cannot be started: {error}") from error

    def _wait_ready(self) -> int:
        """The port that the process listens at."""
        timeout_s = self.cfg.start_timeout_s + (START_S if self.cfg.view else 0.0)
        line = read_line(self._stdout, timeout_s)
        if line is None:
            raise RobotError(f"the robot's process was not ready within {timeout_s:g} s; is the machine loaded?")
        try:
            said = json.loads(line)
            self.viewer = ViewerAddress(**said["viewer"]) if said.get("viewer") else None
            return int(said["port"])
        except (ValueError, KeyError, TypeError):
            pass
        try:
            code: object = self._process.wait(timeout=_END_S)
        except subprocess.TimeoutExpired:
            code = "none yet"
        self._errors.seek(0)
        said = self._errors.read().decode(errors="replace").strip().splitlines()
        why = said[-1].removeprefix("error: ") if said else f"exit code {code}, and it said nothing"
        raise RobotError(f"the robot's process did not start: {why}")

    @property
    def _stdout(self) -> IO[bytes]:
        return cast("IO[bytes]", self._process.stdout)

    @property
    def pid(self) -> int:
        """Of the robot's process."""
        return self._process.pid

    @property
    def alive(self) -> bool:
        """Whether the robot's process runs."""
        return self._process.poll() is None

    def report(self) -> RobotReport:
        """What the robot saw of the run so far. RobotError where its process has ended."""
        if not self.alive:
            raise RobotError(f"the robot's process has ended ({_how(self._process.returncode)}): it reports nothing")
        return super().report()

    def close(self) -> None:
        """Ends the process: asked first, then killed."""
        super().close()
        self._end()

    def _end(self) -> None:
        process = self._process
        if self._errors.closed:
            return
        if process.poll() is None:
            process.terminate()
        try:
            process.wait(timeout=_END_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        self.final_report = _last_report(self._stdout.read())
        for stream in (process.stdin, process.stdout, self._errors):
            if stream is not None:
                stream.close()


def _last_report(said: bytes) -> RobotReport | None:
    lines = said.strip().splitlines()
    try:
        return report_from(json.loads(lines[-1])["report"]) if lines else None
    except (ValueError, KeyError, TypeError):
        return None


def _how(code: int | None) -> str:
    return f"signal {signal.Signals(-code).name}" if code is not None and code < 0 else f"exit code {code}"
