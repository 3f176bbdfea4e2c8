"""`trudi export RUN --out BUNDLE`: compile a trained policy into a bundle for a robot."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated

import tyro

from trudi.export.bundling import ExportCfg, Exported, export_run
from trudi.runtime.commands.common import EXIT_OK, reports_errors, write_json
from trudi.train.commands.common import parse_arguments
from trudi.train.envs.registry import finish


@dataclass(frozen=True)
class ExportArgs:
    """Compile a trained policy into a bundle: graph, contract, golden cases and engines, proven to be the same policy."""

    run: Annotated[Path, tyro.conf.Positional]
    """Run folder."""
    out: Path
    """The bundle: a folder, or one file where it ends in .zip."""
    cfg: Annotated[ExportCfg, tyro.conf.arg(name="")] = field(default_factory=ExportCfg)
    json: Path | None = None
    """File for a machine-readable summary."""


@reports_errors("export")
def main(argv: list[str]) -> int:
    """Exports, proves and writes."""
    args = parse_arguments(ExportArgs, "trudi export", argv)
    exported = export_run(args.run, args.out, args.cfg)
    print(summary(exported))
    evaluation = exported.contract.provenance.evaluations[0]
    content = {
        "bundle": str(exported.path),
        "golden_cases": exported.cases,
        "golden_max_error": exported.golden_error,
        "robot_file": exported.robot_file,
        "evaluation": evaluation.model_dump(mode="json"),
    }
    write_json(args.json, content)
    finish()
    return EXIT_OK


def summary(exported: Exported) -> str:
    """What was exported, in a few lines."""
    contract = exported.contract
    score = contract.provenance.evaluations[0]
    proof = "not run here" if exported.golden_error is None else f"largest error {exported.golden_error:.2g}"
    robot = contract.robot.name if contract.robot else "no robot (actuators only)"
    beside = ""
    if (student := contract.student) is not None and (away := student.divergence) is not None:
        own = contract.provenance.evaluations[1]
        beside = (
            f"student: {student.sampler.steps} step(s), return {own.return_mean:.1f} +- {own.return_std:.1f}; its actions "
            f"are {away.action_rms:.3g} (rms) from the policy's, at most {away.action_max:.3g}\n"
        )
    return (
        f"{contract.task.id}: {contract.observation_size} observations, {contract.action.size} actions, "
        f"{contract.sampler.steps} steps, {contract.sampler.noise} noise, {contract.graph.precision}, {robot}\n"
        f"robot file: {exported.robot_file}\n"
        f"golden cases: {exported.cases}, {proof}; return {score.return_mean:.1f} +- {score.return_std:.1f} "
        f"in {score.episodes} episodes\n{beside}"
        f"bundle: {exported.path}"
    )
