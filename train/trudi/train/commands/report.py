"""`trudi report PATH...`: one HTML file and figures from results."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from trudi.runtime.commands.common import EXIT_OK, reports_errors
from trudi.train.commands.common import parse_arguments
from trudi.train.errors import TrainError
from trudi.train.report.denoising import Picture, read_pictures, take_picture, write_pictures
from trudi.train.report.published import listing, read_published
from trudi.train.report.sources import Gathered, gather


@dataclass(frozen=True)
class ReportArgs:
    """Make one HTML file and PNGs from results: learning curves, tables, aggregates, the trust region, how actions form."""

    paths: Annotated[tuple[Path, ...], tyro.conf.Positional] = ()
    """Results files, benchmark folders (with results.json) and run folders; several may be mixed."""
    out: Path = Path("report")
    """Folder for report.html, tables.md and figures/."""
    denoise: tuple[Path, ...] = ()
    """Run folders whose denoising is drawn (needs their simulators); by default those of PATHS that are runs of TruDi."""
    denoise_data: Path | None = None
    """File for what was sampled to draw it: written where runs are sampled, else read, so that results alone give the same
    report."""
    published: bool = False
    """Only lists the published figures that reports put beside ours."""


@reports_errors("report")
def main(argv: list[str]) -> int:
    """Writes the report; prints where it is."""
    args = parse_arguments(ReportArgs, "trudi report", argv)
    if args.published:
        print(listing(read_published()))
        return EXIT_OK
    if not args.paths:
        raise TrainError("no PATH given: a results file, a benchmark folder or a run folder (`trudi report --help`)")
    try:
        from trudi.train.report.report import Report
    except ModuleNotFoundError as error:
        if (error.name or "").startswith("trudi"):
            raise
        raise TrainError(f"`trudi report` needs the package '{error.name}': pip install 'trudi[report]'") from None
    gathered = gather(args.paths)
    pictures, notes = pictures_of(args, gathered)
    for path in Report(gathered, read_published(), pictures, notes).write(args.out):
        print(path)
    return EXIT_OK


def pictures_of(args: ReportArgs, gathered: Gathered) -> tuple[list[Picture], list[str]]:
    """Of the runs asked for, of the paths that are runs of TruDi, or from the file; and what could not be drawn."""
    wanted = list(args.denoise) or [path for path, run in gathered.folders.items() if run.algo == "trudi"]
    if not wanted:
        return (read_pictures(args.denoise_data) if args.denoise_data else []), []
    pictures: list[Picture] = []
    notes: list[str] = []
    for path in wanted:
        try:
            pictures.append(take_picture(path))
        except TrainError as error:
            if path in args.denoise:
                raise
            notes.append(f"The denoising of {path.name} is not drawn: {error}")
    if args.denoise_data is not None:
        write_pictures(pictures, args.denoise_data)
    return pictures, notes
