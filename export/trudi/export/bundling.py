"""From a run to a bundle: graph, golden cases, engines and contract, proven to agree before anything is written."""

from __future__ import annotations

import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import onnx

from trudi.export.contracts import GRAPH_FILE, check_fits, describe_evaluation, fill_contract
from trudi.export.errors import ExportError
from trudi.export.graph import Precision, build_graph
from trudi.export.recording import Reference, golden_cases, record_episodes
from trudi.export.robot_file import (
    RobotFile,
    find_robot_file,
    generic_robot_file,
    load_robot_file,
    run_robot_file,
    with_safety,
)
from trudi.export.students import STUDENT_FILE, open_student, stand_in, student_sampler
from trudi.export.tensorrt import BuildCfg, HardwareCompatibility, build_engine
from trudi.runtime.contract import Contract, Sampler
from trudi.runtime.engines.choose import self_test
from trudi.runtime.engines.onnx import OnnxEngine
from trudi.runtime.engines.tensorrt import Flavour
from trudi.runtime.golden import GOLDEN, STUDENT_GOLDEN, GoldenCases
from trudi.runtime.latents import fixed_latent
from trudi.runtime.metadata import csv_metadata
from trudi.runtime.signing import signer
from trudi.runtime.writing import check_target, write_bundle
from trudi.train.distill.settings import read_settings
from trudi.train.export_view import export_view
from trudi.train.trained import TrainedRun

ENGINE_FOLDER = "engines"
Noise = Literal["zero", "fixed", "seeded", "input"]
EngineChoice = Literal["none", "tensorrt", "tensorrt-rtx"]


@dataclass(frozen=True)
class ExportCfg:
    """What is exported, and how."""

    checkpoint: str = "last"
    """`last`, `best` or an iteration's number."""
    steps: int | None = None
    """Denoising steps of the graph, a divisor or a multiple of the policy's; its own by default."""
    noise: Noise = "zero"
    """The latent each chain starts from: `zero` and `fixed` (one draw) are constants of the graph; `seeded` (the runtime
    draws one each control step) and `input` (the caller gives it) make it an input."""
    noise_seed: int = 0
    """Seed of `fixed` and `seeded` noise."""
    student: Path | None = None
    """Run of the policy's student (`trudi distill`), to stand in where the policy misses its deadline."""
    precision: Precision = "fp32"
    """Of the graph. `int8` is for ONNX Runtime on a CPU, `fp16` and `bf16` for TensorRT."""
    batch: int = 1
    """Observations per call; 0 leaves it free."""
    engine: tuple[EngineChoice, ...] = ("none",)
    """Engines to build beside the graph: `tensorrt-rtx` builds without a GPU, `tensorrt` on the robot's own."""
    compute_capabilities: tuple[str, ...] = ()
    """GPUs to build a TensorRT-RTX engine for, such as 8.9 and 12.0."""
    hardware_compatibility: HardwareCompatibility = "none"
    """Other GPUs that a TensorRT engine must run on, at some cost: `ampere_plus` or `same_compute_capability`."""
    version_compatible: bool = False
    """Whether later versions of TensorRT must run its engine too."""
    timing_cache: Path | None = None
    """File with kernel timings that TensorRT builds share; read and extended."""
    robot: str | None = None
    """Robot file, a preset of configs/robots or a path. By default the run's own robot.yaml, which its simulator wrote, else
    the preset made for the task."""
    safety: tuple[str, ...] = ()
    """KEY=VALUE thresholds of the supervisor in the place of the robot file's (docs/bundle.md has all): what this policy was
    measured to bear, such as state_age_warn_s=0.03."""
    episodes: int = 10
    """Evaluation episodes that golden cases are recorded in."""
    seed: int = 1_000_000
    """Seed of the first of them."""
    sign: Path | None = None
    """Private key file to sign the bundle with (`trudi keygen`)."""
    overwrite: bool = False
    """Replace the bundle that is there."""

    def __post_init__(self) -> None:
        flavours = self.flavours()
        if self.batch < 0 or self.episodes < 1:
            raise ExportError(f"--batch {self.batch} and --episodes {self.episodes}: 0 (free) or more, and at least 1")
        if self.precision == "int8" and flavours:
            raise ExportError(f"int8 is for ONNX Runtime on a CPU; export {', '.join(flavours)} with --precision fp16")
        for_tensorrt = self.hardware_compatibility != "none" or self.version_compatible or self.timing_cache is not None
        if for_tensorrt and "tensorrt" not in flavours:
            raise ExportError(
                "--hardware-compatibility, --version-compatible and --timing-cache are TensorRT's; add --engine tensorrt"
            )
        if self.compute_capabilities and "tensorrt-rtx" not in flavours:
            raise ExportError(
                "--compute-capabilities are for --engine tensorrt-rtx; tensorrt builds for the robot's own GPU"
            )
        if self.precision == "bf16" and not flavours:
            raise ExportError("ONNX Runtime cannot run bf16 on a CPU; add --engine tensorrt-rtx, or use fp16 or int8")

    def flavours(self) -> list[Flavour]:
        """The engines to build."""
        return [one for one in self.engine if one != "none"]


@dataclass(frozen=True)
class Exported:
    """A finished export."""

    path: Path
    contract: Contract
    golden_error: float | None
    """Largest error of the graph in ONNX Runtime over the golden cases; None where it cannot run it (bf16)."""
    cases: int
    """Golden cases."""
    robot_file: str
    """Where the robot and the terms come from."""


def export_run(path: Path, out: Path, cfg: ExportCfg) -> Exported:
    """Exports the run in `path` to the bundle `out` (a folder, or one .zip).

    ExportError, TrainError, EngineError or BundleError say what is wrong; then nothing was written.
    """
    check_target(out, cfg.overwrite)
    sign = signer(cfg.sign) if cfg.sign is not None else None
    run = TrainedRun.open(path, cfg.checkpoint)
    if run.counters.best_return is None:
        raise ExportError(
            f"{path} was never evaluated, so nobody knows what it would do: resume it with --evaluation.every above 0"
        )
    robot, robot_source = choose_robot(cfg.robot, run)
    robot = with_safety(robot, cfg.safety)
    policy = run.agent.denoising
    sampler = choose_sampler(cfg, run)
    student = open_student(cfg.student, run) if cfg.student is not None else None
    if student is not None:
        student_sampler(student, sampler)  # refuses what it was not distilled for, before the work
    steps = sampler.steps
    view = export_view(policy, run.agent.actor_norm, steps)
    latent = None if sampler.needs_latent else fixed_latent(sampler, policy.action_size)
    model = build_graph(view, latent=latent, batch=cfg.batch or None, precision=cfg.precision)

    reference = Reference(policy, run.agent.actor_norm, steps)
    recording = record_episodes(run, reference, sampler, cfg.episodes, cfg.seed)
    golden = golden_cases(reference, view, recording, sampler)
    evaluation = describe_evaluation(recording.result, sampler, cfg.seed)
    files: dict[str, bytes] = {}
    evaluations, beside = (evaluation,), None
    if student is not None:
        found = stand_in(student, reference, sampler, recording, cfg.batch or None, cfg.seed)
        files |= {STUDENT_FILE: found.graph, STUDENT_GOLDEN: found.golden.to_bytes()}
        evaluations, beside = (evaluation, found.evaluation), found.contract
    contract = fill_contract(run, robot, sampler, model, cfg.precision, view, evaluations, recording.observations, beside)
    onnx.helper.set_model_props(model, csv_metadata(contract))
    graph = model.SerializeToString()
    error = prove(graph, golden, contract)
    files |= {GRAPH_FILE: graph, GOLDEN: golden.to_bytes(), **build_engines(graph, cfg)}
    written = write_bundle(out, contract, files, overwrite=cfg.overwrite, signer=sign)
    return Exported(written, contract, error, len(golden.observation), robot_source)


def choose_sampler(cfg: ExportCfg, run: TrainedRun) -> Sampler:
    """How the exported policy draws actions; ExportError where a student was not distilled for it."""
    policy, path = run.agent.denoising, run.folder.path
    steps = policy.cfg.steps if cfg.steps is None else cfg.steps
    if run.folder.is_student:
        settings = read_settings(run.folder)
        if steps != policy.cfg.steps:
            raise ExportError(f"{path} is a student of {policy.cfg.steps} step(s); --steps {steps} is for teachers")
        if settings.latent == "zero" and cfg.noise != "zero":
            raise ExportError(
                f"{path} is a student distilled from the zero latent; --noise {cfg.noise} needs one distilled with "
                "--latent seeded"
            )
    return Sampler(
        network="student" if run.folder.is_student else "teacher",
        steps=steps,
        ode=True,
        noise=cfg.noise,
        seed=cfg.noise_seed if cfg.noise in ("fixed", "seeded") else None,
        latent_std=policy.cfg.init_std,
    )


def choose_robot(name: str | None, run: TrainedRun) -> tuple[RobotFile, str]:
    """(robot file, where it is from): the one asked for, the run's own, the task's preset, or a plain one without names.

    ExportError where it does not fit the policy.
    """
    task, policy = run.cfg.task, run.agent.denoising
    if name is not None:
        robot, source = load_robot_file(name), name
    elif (own := run_robot_file(run.folder, task)) is not None:
        robot, source = own[0], str(own[1])
    elif (preset := find_robot_file(task)) is not None:
        robot, source = preset, f"the preset made for {task}"
    else:
        robot = generic_robot_file(task, policy.observation_size, policy.action_size, run.control_period_s)
        source = "none: elements have no names"
    check_fits(robot, run, f"the robot file ({source})")
    return robot, source


def prove(graph: bytes, golden: GoldenCases, contract: Contract) -> float | None:
    """The graph's largest error in ONNX Runtime over the golden cases; EngineError where it is another policy."""
    if contract.graph.precision == "bf16":
        return None
    with OnnxEngine(graph) as engine:
        return self_test(engine, golden.for_engine(contract))


def build_engines(graph: bytes, cfg: ExportCfg) -> dict[str, bytes]:
    """The files of every engine asked for: engine, sidecar and build log."""
    files: dict[str, bytes] = {}
    with tempfile.TemporaryDirectory(prefix="trudi-engines-") as folder:
        for flavour in cfg.flavours():
            built = build_engine(graph, Path(folder), build_settings(flavour, cfg)).path
            for path in (built, built.with_suffix(".json"), built.with_suffix(".log")):
                files[f"{ENGINE_FOLDER}/{path.name}"] = path.read_bytes()
    return files


def build_settings(flavour: Flavour, cfg: ExportCfg) -> BuildCfg:
    """The builder's options, as far as the flavour has them."""
    if flavour == "tensorrt-rtx":
        return BuildCfg(flavour, cfg.precision, cfg.compute_capabilities, max_batch=cfg.batch or 1)
    return BuildCfg(
        flavour,
        cfg.precision,
        hardware_compatibility=cfg.hardware_compatibility,
        version_compatible=cfg.version_compatible,
        timing_cache=cfg.timing_cache,
        max_batch=cfg.batch or 1,
    )
