"""Mutated bundles against the reader: nothing but BundleError, no hang, nothing written outside, memory bounded.

    python benchmarks/fuzz_bundle.py [--count 100000] [--seed 0] [--case-limit-s 30]

Every case runs in this process. An audit hook sees each file that Python opens for writing, makes, moves or removes.
A bundle that is accepted must also be shown, must survive a round trip, and where its hashes were left alone must hold
the very content of the original. Writes fuzz_bundle.md; exits with 1 on any violation.
"""

from __future__ import annotations

import argparse
import os
import random
import resource
import shutil
import signal
import sys
import tempfile
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

HERE = Path(__file__).parent
sys.path[:0] = [str(HERE), str(HERE.parent / "tests")]

import fuzz_mutations as mutations  # noqa: E402
from bundles import cheetah_values, contract, go1_files, go1_values  # noqa: E402

from trudi.runtime.bundle import CONTRACT, Bundle  # noqa: E402
from trudi.runtime.errors import BundleError  # noqa: E402
from trudi.runtime.metadata import csv_metadata  # noqa: E402
from trudi.runtime.npz import read_npz  # noqa: E402
from trudi.runtime.page import bundle_page  # noqa: E402
from trudi.runtime.reading import contract_json, read_contract  # noqa: E402

FOLDER, ARRAYS = "folder", "arrays (npz)"
REHASHED = {"contract, hashes fitting", "contract of another version", "entries of the zip"}
WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND
MOVING = {"os.mkdir", "os.rename", "os.remove", "os.rmdir", "os.symlink", "os.link", "os.truncate", "os.chmod", "os.mkfifo"}
MEMORY_LIMIT_MB = 400
ADDRESS_SPACE = 4 << 30


class HangError(Exception):
    """A case took longer than its limit. Not an OSError or ValueError, which a reader might catch."""


@dataclass
class Report:
    """What came out."""

    accepted: Counter[str] = field(default_factory=Counter)
    refused: Counter[str] = field(default_factory=Counter)
    reasons: set[str] = field(default_factory=set)
    violations: list[str] = field(default_factory=list)
    slowest_s: float = 0.0
    grown_mb: float = 0.0

    @property
    def count(self) -> int:
        return self.accepted.total() + self.refused.total() + len(self.violations)


class Watch:
    """Notes every path that Python writes to outside the allowed folder while it is on."""

    def __init__(self, allowed: Path) -> None:
        self.allowed, self.on, self.seen = str(allowed), False, list[str]()
        sys.addaudithook(self._note)

    def _note(self, event: str, args: tuple[object, ...]) -> None:
        if not self.on:
            return
        writes = event == "open" and isinstance(args[2], int) and args[2] & WRITING
        if (writes or event in MOVING) and not self._full_path(args).startswith(self.allowed):
            self.seen.append(f"{event} {args[0]}")
        if event in ("subprocess.Popen", "os.system", "os.exec", "socket.connect", "pickle.find_class"):
            self.seen.append(event)

    def _full_path(self, args: tuple[object, ...]) -> str:
        """The path of an event; a bare name stands beside the descriptor of its folder."""
        folder = args[-1]
        if isinstance(folder, int) and folder > 2 and not str(args[0]).startswith("/"):
            return f"{Path(f'/proc/self/fd/{folder}').readlink()}/{args[0]}"
        return str(args[0])


def good_bundles() -> list[mutations.Files]:
    """Two small bundles to spoil."""
    files = go1_files()
    return [
        mutations.listed({CONTRACT: contract_json(contract(go1_values())), **files}),
        mutations.listed({CONTRACT: contract_json(contract(cheetah_values())), "policy.onnx": files["policy.onnx"]}),
    ]


def check_accepted(bundle: Bundle, kind: str, original: mutations.Files) -> None:
    """What must hold of a bundle that was not refused."""
    bundle_page(bundle).encode()
    csv_metadata(bundle.contract)
    if not bundle.ignored_fields and bundle.contract.schema_version == "1.0":
        assert read_contract(contract_json(bundle.contract))[0] == bundle.contract, "the round trip is not exact"
    content = {name: bundle.path(name).read_bytes() for name in bundle.files}
    if kind not in REHASHED:
        untouched = {name: data for name, data in original.items() if name != "manifest.json"}
        assert content == untouched, "altered content was accepted"


def prepare(kind: str, rng: random.Random, original: mutations.Files, target: Path) -> None:
    """Writes one mutated bundle (or .npz)."""
    if kind == ARRAYS:
        spoil = rng.choice((mutations.spoil_bytes, mutations.spoil_headers))
        target.write_bytes(spoil(rng, original["golden.npz"]))
    elif kind == FOLDER:
        target.mkdir()
        mutations.write_spoiled_folder(rng, original, target)
    else:
        target.write_bytes(mutations.ZIPS[kind](rng, original))


def read(kind: str, original: mutations.Files, target: Path) -> None:
    """Returns where the case was accepted, raises BundleError where it was refused."""
    if kind == ARRAYS:
        for array in read_npz(target.read_bytes()).values():
            array.sum()
        return
    with Bundle.open(target) as bundle:
        check_accepted(bundle, kind, original)


def fuzz(count: int, seed: int, case_limit_s: float = 30.0) -> Report:
    """`count` cases; the same seed gives the same cases."""
    report, bundles = Report(), good_bundles()
    kinds = [*mutations.ZIPS, FOLDER, ARRAYS]
    scratch = Path(tempfile.mkdtemp(prefix="fuzz-bundle-"))
    watch = Watch(scratch)

    def hang(*_: object) -> None:
        raise HangError(f"no answer after {case_limit_s} s")

    previous_tempdir, previous_alarm = tempfile.tempdir, signal.signal(signal.SIGALRM, hang)
    tempfile.tempdir = str(scratch)
    try:
        for index in range(count):
            rng = random.Random(f"{seed} {index}")
            kind = kinds[index % len(kinds)]
            original = bundles[0] if kind == ARRAYS else rng.choice(bundles)
            prepare(kind, rng, original, scratch / "case")
            started, memory = time.perf_counter(), _reset_peak_mb()
            signal.setitimer(signal.ITIMER_REAL, case_limit_s)
            watch.on = True
            try:
                read(kind, original, scratch / "case")
                report.accepted[kind] += 1
            except BundleError as error:
                report.refused[kind] += 1
                report.reasons.add(_reason(str(error)))
                if "\n" in str(error) or not str(error).isprintable():
                    report.violations.append(f"case {index} ({kind}): the message is not one printable line")
            except BaseException as error:
                if isinstance(error, KeyboardInterrupt):
                    raise
                report.violations.append(f"case {index} ({kind}): {type(error).__name__}: {str(error)[:200]!r}")
            finally:
                watch.on = False
                signal.setitimer(signal.ITIMER_REAL, 0)
            report.slowest_s = max(report.slowest_s, time.perf_counter() - started)
            report.grown_mb = max(report.grown_mb, _peak_mb() - memory)
            _clear(scratch)
    finally:
        tempfile.tempdir = previous_tempdir
        signal.signal(signal.SIGALRM, previous_alarm)
        shutil.rmtree(scratch, ignore_errors=True)
    report.violations += [f"written outside: {entry}" for entry in watch.seen]
    if report.grown_mb > MEMORY_LIMIT_MB:
        report.violations.append(f"a case took {report.grown_mb:.1f} MB")
    return report


def _reason(message: str) -> str:
    """The message without what is particular to a case, to count how many checks were reached."""
    return " ".join(word for word in message.split() if word.isalpha())[:60]


def _reset_peak_mb() -> float:
    """Forgets the process's peak memory (Linux) and returns what is used now."""
    Path("/proc/self/clear_refs").write_text("5")
    return _peak_mb()


def _peak_mb() -> float:
    status = Path("/proc/self/status").read_text()
    return int(status.split("VmHWM:")[1].split()[0]) / 1024


def _clear(scratch: Path) -> None:
    for entry in scratch.iterdir():
        if entry.is_dir() and not entry.is_symlink():
            shutil.rmtree(entry, ignore_errors=True)
        else:
            entry.unlink()


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--count", type=int, default=100_000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--case-limit-s", type=float, default=30.0)
    args = parser.parse_args()
    resource.setrlimit(resource.RLIMIT_AS, (ADDRESS_SPACE, ADDRESS_SPACE))
    report = fuzz(args.count, args.seed, args.case_limit_s)
    rows = "\n".join(
        f"| {kind} | {report.refused[kind]} | {report.accepted[kind]} |" for kind in [*mutations.ZIPS, FOLDER, ARRAYS]
    )
    listed = "".join(f"\n- {entry}" for entry in report.violations[:50]) or " none."
    (HERE / "fuzz_bundle.md").write_text(
        "# Mutated bundles\n\n"
        f"`python benchmarks/fuzz_bundle.py --count {args.count} --seed {args.seed}`\n\n"
        f"{report.count} cases; {report.refused.total()} refused with a BundleError of one line "
        f"({len(report.reasons)} different wordings), {report.accepted.total()} accepted. An accepted case is one whose "
        "change does not matter (a time stamp in the zip, white space in JSON) or gives another valid contract with "
        "fitting hashes; its content is compared with the original, shown and written again.\n\n"
        f"| what was changed | refused | accepted |\n|---|---|---|\n{rows}\n\n"
        f"Slowest case {report.slowest_s:.2f} s; most memory taken by one case {report.grown_mb:.1f} MB.\n\n"
        f"Violations (another exception, a hang over {args.case_limit_s:g} s, a file written outside, altered content "
        f"accepted, memory over {MEMORY_LIMIT_MB} MB):{listed}\n"
    )
    print((HERE / "fuzz_bundle.md").read_text())
    return 1 if report.violations else 0


if __name__ == "__main__":
    sys.exit(main())
