"""Filling the contract: what the run knows, what the robot file says, what the graph is."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray

from trudi.export.errors import ExportError
from trudi.export.graph import OPSET, Precision
from trudi.export.robot_file import RobotFile
from trudi.runtime.contract import (
    SCHEMA_VERSION,
    Contract,
    Evaluation,
    Graph,
    ObservationRange,
    Provenance,
    Safety,
    Sampler,
    Student,
    Task,
    Tensor,
)
from trudi.runtime.reading import parse_contract
from trudi.train.evaluation import EvalResult
from trudi.train.export_view import ExportView
from trudi.train.trained import TrainedRun

GRAPH_FILE = "policy.onnx"
RANGE_SIGMAS = 6.0


def check_fits(robot: RobotFile, run: TrainedRun, name: str) -> None:
    """ExportError where the robot file is for another observation, action or control period."""
    policy = run.agent.denoising
    n = sum(term.total_size for term in robot.observation)
    if n != policy.observation_size:
        parts = ", ".join(f"{term.name} {term.total_size}" for term in robot.observation)
        raise ExportError(f"{name} describes {n} observations ({parts}), the policy takes {policy.observation_size}")
    if robot.action.size != policy.action_size:
        raise ExportError(f"{name} describes {robot.action.size} actions, the policy gives {policy.action_size}")
    if not np.isclose(robot.control_period_s, run.control_period_s, rtol=1e-6):
        raise ExportError(f"{name} has a control period of {robot.control_period_s} s, the task {run.control_period_s} s")


def fill_contract(
    run: TrainedRun,
    robot: RobotFile,
    sampler: Sampler,
    model: onnx.ModelProto,
    precision: Precision,
    view: ExportView,
    evaluations: tuple[Evaluation, ...],
    seen: NDArray[np.float32],
    student: Student | None = None,
) -> Contract:
    """The contract of this export. `seen` are observations from its evaluation (samples, n)."""
    backend, task = run.cfg.task.split(":", 1)
    about, safety = run.about(), robot.safety or Safety()
    if safety.observation_range is None:
        safety = safety.model_copy(update={"observation_range": observation_range(view, seen)})
    contract = Contract(
        schema_version=SCHEMA_VERSION,
        task=Task(backend=backend, id=task),
        robot=robot.robot,
        action=robot.action,
        observation=robot.observation,
        commands=robot.commands,
        control_period_s=robot.control_period_s,
        sampler=sampler,
        graph=describe_graph(model, precision),
        student=student,
        safety=safety,
        provenance=Provenance(
            run=run.folder.path.resolve().name,
            seed=run.cfg.seed,
            iteration=run.counters.iteration,
            env_steps=run.counters.env_steps,
            git_commit=about.get("git_commit"),
            git_dirty=about.get("git_dirty"),
            versions={name: value for name, value in about.get("packages", {}).items() if value},
            evaluations=evaluations,
        ),
    )
    return parse_contract(contract.model_dump(mode="json"))[0]  # `model_copy` above did not check anything.


def describe_graph(model: onnx.ModelProto, precision: Precision, file: str = GRAPH_FILE) -> Graph:
    """The graph's file, precision and ports."""
    inputs, outputs = (tuple(map(_tensor, ports)) for ports in (model.graph.input, model.graph.output))
    return Graph(file=file, opset=OPSET, precision=precision, batch=inputs[0].shape[0], inputs=inputs, outputs=outputs)


def describe_evaluation(result: EvalResult, sampler: Sampler, seed: int) -> Evaluation:
    """The score of the exported sampler, run in PyTorch."""
    prefix = "student_" if sampler.network == "student" else ""
    return Evaluation(
        sampler=f"{prefix}ode_{sampler.steps}_steps_{sampler.noise}_noise",
        return_mean=result.mean,
        return_std=result.std,
        return_ci95=result.confidence_interval(),
        episodes=len(result.returns),
        seed=seed,
    )


def observation_range(view: ExportView, seen: NDArray[np.float32]) -> ObservationRange:
    """Six standard deviations of training around its mean, widened to whatever the evaluation saw beyond."""
    reach = RANGE_SIGMAS * view.observation_bound / view.clip
    low, high = view.observation_mean - reach, view.observation_mean + reach
    wide_low, wide_high = np.minimum(low, seen.min(0)), np.maximum(high, seen.max(0))
    widened = bool((wide_low < low).any() or (wide_high > high).any())
    return ObservationRange(
        low=tuple(wide_low.tolist()), high=tuple(wide_high.tolist()), sigmas=None if widened else RANGE_SIGMAS
    )


def _tensor(port: Any) -> Tensor:
    batch, size = port.type.tensor_type.shape.dim
    return Tensor(name=port.name, shape=(batch.dim_value or "any", size.dim_value))
