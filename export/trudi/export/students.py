"""A student beside its teacher in one bundle: proven like the teacher, and measured against it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from trudi.export.contracts import describe_evaluation, describe_graph
from trudi.export.errors import ExportError
from trudi.export.graph import build_graph
from trudi.export.recording import Recording, Reference, golden_cases, latent_rows, latent_source, record_episodes
from trudi.runtime.contract import Divergence, Evaluation, Sampler, Student
from trudi.runtime.engines.choose import self_test
from trudi.runtime.engines.onnx import OnnxEngine
from trudi.runtime.golden import GoldenCases
from trudi.runtime.latents import fixed_latent
from trudi.train.distill.settings import kept_teacher, read_settings
from trudi.train.export_view import export_view
from trudi.train.trained import TrainedRun

STUDENT_FILE = "student.onnx"


@dataclass(frozen=True)
class StandIn:
    """What a bundle holds of a student."""

    contract: Student
    graph: bytes
    golden: GoldenCases
    evaluation: Evaluation
    """The student's score on the episodes of the teacher's."""


def open_student(path: Path, teacher: TrainedRun) -> TrainedRun:
    """The student's run; ExportError where it is none, or was distilled from something else than `teacher`."""
    student = TrainedRun.open(path)
    if not student.folder.is_student:
        raise ExportError(f"{path} is no student's run: make one with `trudi distill {teacher.folder.path}`")
    if teacher.folder.is_student:
        raise ExportError(f"{teacher.folder.path} is a student itself: export its teacher with --student, or it alone")
    if student.cfg.task != teacher.cfg.task:
        raise ExportError(f"{path} is a student of {student.cfg.task}, {teacher.folder.path} is a run of {teacher.cfg.task}")
    kept = kept_teacher(student.folder)
    wanted, found = teacher.agent.state_dict(), kept.agent.state_dict()
    if any(key not in found or not torch.equal(value, found[key]) for key, value in wanted.items()):
        raise ExportError(
            f"{path} was distilled from another policy (iteration {kept.counters.iteration}) than {teacher.folder.path} at "
            f"iteration {teacher.counters.iteration}: name that checkpoint, or distill this one"
        )
    return student


def student_sampler(student: TrainedRun, teacher: Sampler) -> Sampler:
    """The teacher's latents, in the student's steps; ExportError where it was not distilled for them."""
    if read_settings(student.folder).latent == "zero" and teacher.noise != "zero":
        raise ExportError(
            f"{student.folder.path} was distilled from the zero latent, --noise is {teacher.noise}: "
            "use --noise zero, or distill with --latent seeded"
        )
    return teacher.model_copy(update={"network": "student", "steps": student.agent.denoising.cfg.steps})


def stand_in(
    student: TrainedRun, teacher: Reference, sampler: Sampler, recording: Recording, batch: int | None, seed: int
) -> StandIn:
    """The student's graph, in fp32 since it stands in on the CPU, and how far its actions are from the teacher's.

    `sampler` and `recording` are the teacher's. EngineError where the graph does not compute the student.
    """
    own = student_sampler(student, sampler)
    policy = student.agent.denoising
    reference = Reference(policy, student.agent.actor_norm, own.steps)
    view = export_view(policy, student.agent.actor_norm, own.steps)
    latent = None if own.needs_latent else fixed_latent(own, policy.action_size)
    model = build_graph(view, latent=latent, batch=batch)
    graph = model.SerializeToString()
    contract = Student(
        sampler=own,
        graph=describe_graph(model, "fp32", STUDENT_FILE),
        divergence=divergence(teacher, reference, sampler, recording),
    )
    golden = golden_cases(reference, view, recording, own)
    with OnnxEngine(graph) as engine:
        self_test(engine, golden.for_engine(contract))
    result = record_episodes(student, reference, own, len(recording.result.returns), seed).result
    return StandIn(
        contract,
        graph,
        golden,
        describe_evaluation(result, own, seed),
    )


def divergence(teacher: Reference, student: Reference, sampler: Sampler, recording: Recording) -> Divergence:
    """How far the student's actions are from the teacher's where the teacher goes, for the same latents."""
    observation = torch.from_numpy(recording.observations)
    size = teacher.policy.action_size
    rows = latent_rows(sampler, latent_source(sampler, size), len(observation), size)
    latent = torch.from_numpy(rows).to(observation.dtype)
    away = np.abs((student.act(observation, latent) - teacher.act(observation, latent)).double().numpy())
    return Divergence(
        action_rms=float(np.sqrt(np.square(away).mean())),
        action_p99=float(np.percentile(away.max(1), 99)),
        action_max=float(away.max()),
        observations=len(away),
    )
