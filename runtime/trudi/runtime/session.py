"""From a bundle and a robot to a control loop that is ready: everything that may be refused is refused here."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from trudi.runtime.bundle import Bundle
from trudi.runtime.contract import Contract
from trudi.runtime.controller import Controller, ControllerCfg
from trudi.runtime.engines.base import Engine
from trudi.runtime.engines.choose import Choice, Loader, choose_engine, self_test
from trudi.runtime.engines.faulty import FaultyEngine
from trudi.runtime.engines.onnx import OnnxCfg, OnnxEngine, Provider
from trudi.runtime.engines.tensorrt import MODULES
from trudi.runtime.errors import EngineError, TrudiRuntimeError
from trudi.runtime.golden import GOLDEN, STUDENT_GOLDEN, GoldenCases
from trudi.runtime.loop import STAGES, ControlLoop, LoopCfg
from trudi.runtime.realtime import process_age_s
from trudi.runtime.recorder import FlightRecorder, RecorderCfg
from trudi.runtime.robots.base import Robot, RobotError
from trudi.runtime.robots.injection import Fault
from trudi.runtime.shadow import Network, Shadow, check_shadow, other
from trudi.runtime.site_file import SiteFile
from trudi.runtime.supervisor import Event
from trudi.runtime.verification import NO_STUDENT_GOLDEN, STUDENT, engine_files, flavour_of, open_engine, student_golden

ONNX_PROVIDERS: dict[str, Provider] = {"onnx": "cpu", "onnx-cuda": "cuda", "onnx-tensorrt": "tensorrt"}
SPREAD_SEED = 0x7255


@dataclass(frozen=True)
class SessionCfg:
    """What a control session is made of, beside the bundle and the robot."""

    controller: ControllerCfg
    loop: LoopCfg = field(default_factory=LoopCfg)
    recorder: RecorderCfg | None = field(default_factory=RecorderCfg)
    """None records nothing."""
    engines: tuple[str, ...] = ("onnx",)
    """Engines by preference: the first that loads and passes the golden self-test is taken."""
    spread_latents: int = 0
    """Latents over which the spread of each action is measured; 0 measures none."""
    shadow: Network | None = None
    """The policy of a bundle that has two which is computed beside the other and compared, and not sent."""
    faults: tuple[Fault, ...] = ()
    """Faults of the runtime's own, for tests."""


class Session:
    """A control loop with what it needs. A context manager that damps and closes everything, the robot excepted."""

    def __init__(self, bundle: Bundle, robot: Robot, file: SiteFile, cfg: SessionCfg) -> None:
        """Configures; the supervisor is INACTIVE then. TrudiRuntimeError says what does not fit, before anything moves."""
        contract = bundle.contract
        self.sent: Network = "teacher" if cfg.shadow is None else other(cfg.shadow)
        """The policy whose actions are sent; where it is the teacher, a student may still stand in for it."""
        if cfg.shadow is not None:
            check_shadow(contract)
        if self.sent == "student" and STUDENT_GOLDEN not in bundle.files:
            raise EngineError(f"the student may not be sent: {NO_STUDENT_GOLDEN}")
        self.controller = Controller(contract, robot.describe(), file, cfg.controller)
        check_stands(contract)
        self.choice = choose(bundle, cfg.engines)
        self.student: Engine | None = None
        self.shadow: Shadow | None = None
        """The other policy, where it rides along."""
        self.engine = self.choice.engine
        """That of the policy that is sent."""
        self._student_proof = ""
        self._rides: Engine | None = None
        try:
            if contract.student is not None:
                self.student, self._student_proof = load_student(bundle)
            if self.sent == "student" and self.student is not None:
                self.engine = self.student
            engine = self.engine
            latents = spread_latents(bundle, engine, cfg.spread_latents, file)
            if cfg.shadow is not None:
                # Not the engine that stands in: the loop may need that while the shadow computes.
                self._rides = load_student(bundle)[0] if cfg.shadow == "student" else self.choice.engine
                self.shadow = Shadow(cfg.shadow, self._rides, self.controller, cfg.loop.realtime)
            if cfg.faults:
                budget_s = cfg.loop.deadline * contract.control_period_s
                engine = FaultyEngine(engine, cfg.faults, budget_s)
            self.recorder = None
            if cfg.recorder is not None:
                self.recorder = FlightRecorder(
                    cfg.recorder,
                    {"bundle": bundle.digest, "engine": self.choice.engine.info.described, "shadow": cfg.shadow or ""},
                    len(STAGES),
                )
            self.loop = ControlLoop(
                self.controller,
                robot,
                engine,
                cfg.loop,
                student=self.student if self.sent == "teacher" else None,
                recorder=self.recorder,
                spread_latents=latents,
                sends_student=self.sent == "student",
                shadow=self.shadow,
            )
        except BaseException:
            if self.shadow is not None:
                self.shadow.close()
            self._close_engines()
            raise
        refused = self.controller.request(Event.CONFIGURE, 0)
        assert refused is None, refused
        self.configured_s = process_age_s()
        """Time from the start of the process until INACTIVE; s."""

    def log_lines(self) -> list[str]:
        """A sentence for each engine that was tried, for the student, and for the shadow."""
        lines = self.choice.log_lines() + [self._student_proof] * (self.student is not None)
        if self.shadow is not None:
            lines.append(f"shadow: the {self.shadow.network} rides along, the {self.sent} is sent")
        return lines

    def close(self) -> None:
        """Damps, ends the loop and closes the engines, unless a graph that never returns still computes in one."""
        if self.loop.stop():
            self._close_engines()

    def _close_engines(self) -> None:
        self.choice.engine.close()
        for engine in (self.student, self._rides):
            if engine is not None:
                engine.close()

    def __enter__(self) -> Session:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def check_stands(contract: Contract) -> None:
    """RobotError where a robot that may fall has nothing to stand with. One that cannot (a cart on a rail) waits damped."""
    robot = contract.robot
    if robot is None or any(joint.stiffness for joint in robot.joints):
        return
    if contract.safety.max_tilt_rad is not None or contract.action.kind != "joint_effort":
        raise RobotError(
            "every joint's stiffness is 0, so the robot cannot stand: give the stiffness of the default pose in the robot "
            "file that the bundle was exported with (or, where joints take efforts and the machine cannot fall, "
            "safety.max_tilt_rad: null)"
        )


def choose(bundle: Bundle, preference: Sequence[str]) -> Choice:
    """The bundle's engine that is used: warm, and proven on the golden cases. EngineError gives every reason if none is."""
    unknown = [name for name in preference if name not in (*ONNX_PROVIDERS, *MODULES)]
    if unknown:
        raise EngineError(f"unknown engine '{unknown[0]}'; available: {', '.join((*ONNX_PROVIDERS, *MODULES))}")
    contract = bundle.contract
    if GOLDEN not in bundle.files:
        raise TrudiRuntimeError(f"the bundle has no {GOLDEN}, so nothing shows that an engine is right: export it again")
    golden = GoldenCases.from_bytes(bundle.read(GOLDEN), contract).for_engine(contract)
    return choose_engine(preference, loaders(bundle), golden)


def loaders(bundle: Bundle) -> Mapping[str, Loader]:
    """How each engine of a bundle is loaded, by its name in a preference list."""
    contract = bundle.contract
    model = bundle.read(contract.graph.file)
    known: dict[str, Loader] = {
        name: _onnx_loader(model, OnnxCfg(provider=provider, precision=contract.graph.precision))
        for name, provider in ONNX_PROVIDERS.items()
    }
    for file in engine_files(bundle):
        known[flavour_of(file)] = _file_loader(bundle, file)
    return known


def spread_latents(bundle: Bundle, engine: Engine, count: int, file: SiteFile) -> NDArray[np.float32] | None:
    """Latents (count, m) of the prior for measuring how far actions differ; None where that is not asked for."""
    if count == 0:
        if file.safety.max_latent_spread is not None:
            raise TrudiRuntimeError("max_latent_spread is to be watched, and no latents are: give --spread-latents 4")
        return None
    if not engine.takes_latent:
        raise TrudiRuntimeError(
            "the spread over latents cannot be measured: this graph has its latent built in; export it with --noise seeded"
        )
    if count < 2:
        raise TrudiRuntimeError(f"--spread-latents {count}: a spread needs at least 2")
    generator = np.random.Generator(np.random.Philox(SPREAD_SEED))
    return (bundle.contract.sampler.latent_std * generator.standard_normal((count, engine.action_size))).astype(np.float32)


def load_student(bundle: Bundle) -> tuple[Engine, str]:
    """The engine of the bundle's student, warm, and a sentence of what it was proven on. EngineError where it is not right.

    A bundle without golden cases of its student is an older one: it is taken, and the sentence says so.
    No session sends it in its teacher's place.
    """
    golden, engine = student_golden(bundle), None
    try:
        engine = open_engine(bundle, STUDENT)
        proof = NO_STUDENT_GOLDEN if golden is None else f"golden error {self_test(engine, golden):.3g}"
        engine.warm_up()
    except EngineError as error:
        if engine is not None:
            engine.close()
        raise EngineError(f"the bundle's student may not be used: {error}") from None
    return engine, f"student: {proof}"


def _onnx_loader(model: bytes, cfg: OnnxCfg) -> Loader:
    return lambda: OnnxEngine(model, cfg)


def _file_loader(bundle: Bundle, file: str) -> Loader:
    return lambda: open_engine(bundle, file)
