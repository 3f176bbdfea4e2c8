"""`trudi run BUNDLE`: a policy drives a robot, under the supervisor."""

from __future__ import annotations

import argparse
import math
import time
from pathlib import Path
from typing import Any

from trudi.runtime.bundle import Bundle
from trudi.runtime.command_words import parse_commands
from trudi.runtime.commands.common import EXIT_CHECK_FAILED, EXIT_OK, check_writable, reports_errors, say, write_json
from trudi.runtime.conduct import Conductor, Course, Plan
from trudi.runtime.contract import Contract
from trudi.runtime.controller import ControllerCfg
from trudi.runtime.errors import TrudiRuntimeError
from trudi.runtime.loop import STAGES, LoopCfg
from trudi.runtime.realtime import RealtimeCfg
from trudi.runtime.recorder import STATE_RATE_MARGIN, RecorderCfg, shadow_dtype, state_dtype, tick_dtype
from trudi.runtime.robots.base import Robot, RobotError, RobotReport
from trudi.runtime.robots.injection import Fault, read_schedule
from trudi.runtime.robots.udp import UdpRobot
from trudi.runtime.script import read_script
from trudi.runtime.session import Session, SessionCfg
from trudi.runtime.signals import Signals
from trudi.runtime.site_file import SiteFile, read_site_file
from trudi.runtime.summary import LiveTable, expired, facts, page
from trudi.runtime.viewer.choice import HELP as VIEW_HELP
from trudi.runtime.viewer.choice import with_view
from trudi.runtime.viewer.facts import SessionTeller
from trudi.runtime.viewer.link import ViewerLink

FLIGHTS = Path("runs") / "flights"
MAX_RECORDER_MIB = 512
"""Memory that the flight recorder may take; a recording that is being written takes as much again."""
DAY_S = 86_400.0
MAX_PORT = 65_535


@reports_errors("run")
def main(argv: list[str]) -> int:
    """Runs a bundle's policy on a robot, real time, with the supervisor between the two; 1 where it ended in a fault."""
    args = arguments(argv)
    for option in ("json", "record"):
        check_writable(f"--{option}", getattr(args, option))
    faults = read_schedule(args.faults) if args.faults is not None else ()
    file = read_site_file(args.site) if args.site is not None else SiteFile(joints={})
    if args.fade_in is not None:
        file = file.model_copy(update={"fade_in_s": args.fade_in})
    with Bundle.open(args.bundle, trust=args.trust) as bundle:
        cfg = session_cfg(args, bundle.contract, faults)
        given = bundle.contract.commands
        commands, record = parse_commands(args.command, given, "--command"), record_path(args, bundle)
        script = read_script(args.script, given) if args.script is not None else ()
        plan = Plan(args.seconds, commands, script, record, args.record is not None, faults)
        with make_robot(args, bundle.contract, faults) as robot, Session(bundle, robot, file, cfg) as session:
            check_recorder_fits(session, args.record_seconds)
            for line in session.log_lines():
                say(line)
            title = f"{args.bundle} on {robot.describe().name}"
            table, teller = LiveTable(session, title), teller_of(robot, session, title)
            with Signals() as signals:  # until the result is written: no Ctrl-C loses it
                course = Conductor(session, plan, signals, lambda course: refresh(course, table, teller)).run()
                report, sending = robot_report(robot), unsent(robot)
                unwritten = write_facts(args.json, facts(session, course, report, sending))
            say(table.end() + page(session, course, report, sending) + unwritten)
    return EXIT_OK if passed(course, report, plan) and not unwritten else EXIT_CHECK_FAILED


def arguments(argv: list[str]) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(prog="trudi run", description=main.__doc__)
    parser.add_argument("bundle", type=Path, help="a bundle's folder or .zip")
    parser.add_argument(
        "--robot", default="mujoco", help="`mujoco`, a simulated robot in its own process, or `udp:HOST:PORT`"
    )
    parser.add_argument("--task", help="task of the simulated robot (default: the bundle's)")
    parser.add_argument("--site", type=Path, metavar="FILE", help="limits and thresholds of this robot (YAML)")
    parser.add_argument("--seconds", type=float, default=20.0, help="time under the policy; s (default: 20)")
    parser.add_argument(
        "--rate", type=float, help="commands a second, a multiple of the policy's rate (default: four times it)"
    )
    parser.add_argument(
        "--between", choices=("hold", "linear"), default="hold", help="commands between actions (default: hold)"
    )
    parser.add_argument(
        "--command",
        action="append",
        default=[],
        metavar="NAME=VALUE",
        help="an element of a command: vx=0.5 (again for more)",
    )
    parser.add_argument(
        "--script", type=Path, metavar="FILE", help="commands over time (YAML; docs/control_loop.md), in place of --command"
    )
    parser.add_argument("--engine", action="append", help="preferred engine (again for the next); default: onnx")
    parser.add_argument(
        "--deadline", type=float, default=0.75, help="part of the control period an action may take (default: 0.75)"
    )
    parser.add_argument("--fade-in", type=float, help="time over which the policy is blended in; s (default: 1)")
    parser.add_argument(
        "--spread-latents", type=int, default=0, help="latents over which to watch the spread of actions (default: 0)"
    )
    parser.add_argument(
        "--shadow",
        choices=("student", "teacher"),
        help="policy of a bundle of both that is computed beside the other and compared, and not sent (default: none)",
    )
    parser.add_argument("--priority", type=int, default=60, help="real-time priority of the loop, 0 for none (default: 60)")
    parser.add_argument("--cpu", type=int, help="core the loop keeps to (default: any)")
    parser.add_argument("--no-lock-memory", action="store_true", help="do not lock the process's memory")
    parser.add_argument("--faults", type=Path, metavar="FILE", help="faults to inject (YAML; docs/simulated_robot.md)")
    parser.add_argument(
        "--record",
        type=Path,
        metavar="FILE.mcap",
        help=f"file for the flight (default: a new one in {FLIGHTS}, on a fault); on SIGUSR1 also one so far, FILE_1.mcap",
    )
    parser.add_argument("--record-seconds", type=float, default=120.0, help="time the recorder looks back; s (default: 120)")
    parser.add_argument("--seed", type=int, default=0, help="seed of the simulated robot (default: 0)")
    parser.add_argument(
        "--vary",
        action="append",
        default=[],
        metavar="FIELD=VALUE",
        help="how the simulated robot differs from its model: friction=0.5, push_speed=1 (again for more; docs)",
    )
    parser.add_argument("--view", default="", help=VIEW_HELP)
    parser.add_argument("--trust", type=Path, metavar="KEY.pub", help="refuse a bundle that this key did not sign")
    parser.add_argument("--json", type=Path, metavar="FILE", help="file for a machine-readable result")
    args = parser.parse_args(with_view(argv))
    if not args.seconds > 0 or not args.record_seconds > 0:
        raise TrudiRuntimeError(f"--seconds {args.seconds:g} and --record-seconds {args.record_seconds:g}: must be above 0")
    if args.record_seconds > DAY_S:
        raise TrudiRuntimeError(f"--record-seconds {args.record_seconds:g}: at most a day, {DAY_S:g}")
    if args.script is not None and args.command:
        raise TrudiRuntimeError("--script and --command: give one of them")
    if args.fade_in is not None and not args.fade_in >= 0:
        raise TrudiRuntimeError(f"--fade-in {args.fade_in:g}: must be 0 or more")
    return args


def session_cfg(args: argparse.Namespace, contract: Contract, faults: tuple[Fault, ...]) -> SessionCfg:
    """The session that the command line asks for."""
    rate = args.rate if args.rate is not None else 4.0 / contract.control_period_s
    realtime = RealtimeCfg(priority=args.priority, cpu=args.cpu, lock_memory=not args.no_lock_memory)
    return SessionCfg(
        controller=ControllerCfg(rate, between=args.between),
        loop=LoopCfg(deadline=args.deadline, realtime=realtime),
        recorder=RecorderCfg(seconds=args.record_seconds),
        engines=tuple(args.engine or ("onnx",)),
        spread_latents=args.spread_latents,
        shadow=args.shadow,
        faults=faults,
    )


def check_recorder_fits(session: Session, seconds: float) -> None:
    """TrudiRuntimeError where the flight recorder would take too much memory; before any is taken."""
    controller, robot = session.controller, session.controller.robot
    state_rate_hz = STATE_RATE_MARGIN / robot.state_period_s
    bytes_a_second = tick_dtype(controller, len(STAGES)).itemsize * controller.cfg.rate_hz
    bytes_a_second += state_dtype(robot.value_count).itemsize * state_rate_hz
    if session.shadow is not None:
        bytes_a_second += shadow_dtype(controller).itemsize / controller.contract.control_period_s
    wanted_mib, longest_s = seconds * bytes_a_second / 2**20, MAX_RECORDER_MIB * 2**20 / bytes_a_second
    if wanted_mib > MAX_RECORDER_MIB:
        raise TrudiRuntimeError(
            f"recording {seconds:g} s at {controller.cfg.rate_hz:g} Hz takes {wanted_mib:.0f} MiB of memory, and may take "
            f"{MAX_RECORDER_MIB}: give --record-seconds {math.floor(longest_s * 10) / 10:g} at most"
        )


def record_path(args: argparse.Namespace, bundle: Bundle) -> Path:
    """Where a flight goes."""
    if args.record is not None:
        return args.record
    return FLIGHTS / f"{time.strftime('%Y-%m-%d_%H-%M-%S')}_{bundle.contract.task.id.split('/')[-1]}.mcap"


def make_robot(args: argparse.Namespace, contract: Contract, faults: tuple[Fault, ...]) -> Robot:
    """The robot that `--robot` names."""
    if args.robot == "mujoco":
        from trudi.runtime.robots.mujoco import MujocoCfg, MujocoRobot
        from trudi.runtime.robots.variation import Variation

        task = args.task or f"{contract.task.backend}:{contract.task.id}"
        # Of the runtime's own faults the robot only notes the time.
        varied = Variation.parse(args.vary, "--vary")
        cfg = MujocoCfg(task=task, faults=faults, variation=varied, seed=args.seed, view=args.view, priority=args.priority)
        return MujocoRobot(cfg)
    kind, _, address = args.robot.partition(":")
    host, _, port = address.rpartition(":")
    if kind != "udp" or not host or not (port.isascii() and port.isdigit()):
        raise RobotError(f"--robot {args.robot}: available: mujoco, udp:HOST:PORT")
    if not 1 <= int(port[:6]) <= MAX_PORT:
        raise RobotError(f"--robot {args.robot}: a port is 1 to {MAX_PORT}")
    if args.task or args.view or args.vary or any(fault.by_robot for fault in faults):
        raise RobotError("--task, --view, --vary and the robot's faults are for --robot mujoco; this robot runs by itself")
    return UdpRobot(int(port), host)


def teller_of(robot: Robot, session: Session, title: str) -> SessionTeller | None:
    """What tells the page that shows the robot, if there is one, of the session; says where the page is."""
    address = getattr(robot, "viewer", None)
    if address is None:
        return None
    say(f"view: {address.url}")
    return SessionTeller(session, title, ViewerLink(address.port))


def refresh(course: Course, table: LiveTable, teller: SessionTeller | None) -> None:
    """What is seen of the flight; the page first, since a terminal may stall."""
    if teller is not None:
        teller.refresh(course)
    table.refresh(course)


def write_facts(path: Path | None, content: dict[str, Any]) -> str:
    """Writes the result for machines; a line for the page where the disk fails after the flight."""
    try:
        write_json(path, content)
    except TrudiRuntimeError as error:
        return f"\nresult  {error}"
    return ""


def robot_report(robot: Robot) -> RobotReport | None:
    """What a simulated robot saw; None of one that is gone or does not say."""
    try:
        return robot.report() if isinstance(robot, UdpRobot) else None
    except RobotError:
        return None


def unsent(robot: Robot) -> dict[str, int]:
    """Commands that did not leave, and refusals: what a robot behind a port that listens no more shows."""
    return {"unsent": robot.unsent, "refused": robot.refused} if isinstance(robot, UdpRobot) else {}


def passed(course: Course, report: RobotReport | None, plan: Plan) -> bool:
    """Whether the robot was driven as planned, no command was unsafe, and a recording that was asked for is there."""
    unsafe = report is not None and report.violation_count > expired(report)
    return not (course.fault or course.refusal or unsafe or (plan.record_end and course.unsaved))
