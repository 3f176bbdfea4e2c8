"""`trudi verify BUNDLE`: is it whole, and does every engine in it compute the same policy?"""

from __future__ import annotations

import argparse
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from trudi.cli import extension
from trudi.runtime.bundle import Bundle
from trudi.runtime.commands.common import EXIT_CHECK_FAILED, EXIT_OK, reports_errors, write_json
from trudi.runtime.errors import BundleError, TrudiRuntimeError, near_matches
from trudi.runtime.verification import EngineCheck, check_metadata, engines_in, verify_engines

RETURN_TOLERANCE = {"fp32": 0.005, "fp16": 0.01, "bf16": 0.01, "int8": 0.01}
"""How far the mean return of the artefact may be from PyTorch's on the same seeds, relative to it."""


@dataclass(frozen=True)
class PairedReturns:
    """The same episodes, once with PyTorch and once with the artefact."""

    torch_mean: float
    artefact_mean: float
    episodes: int
    relative_difference: float
    threshold: float

    @property
    def passed(self) -> bool:
        """Whether the artefact's return is PyTorch's."""
        return self.relative_difference <= self.threshold


@reports_errors("verify")
def main(argv: list[str]) -> int:
    """Checks hashes, schema, signature, metadata, every engine's golden cases and, with --run, paired episodes."""
    args = arguments(argv)
    try:
        bundle = Bundle.open(args.bundle, trust=args.trust)
    except BundleError as error:
        print(f"FAILED  {error}")
        write_json(args.json, {"bundle": str(args.bundle), "passed": False, "error": str(error)})
        return EXIT_CHECK_FAILED
    with bundle:
        names = chosen(bundle, args.engine)
        drift = check_metadata(bundle)
        checks = verify_engines(args.bundle, names)
        paired = None if args.run is None else replay(bundle, args.run, args.episodes, args.seed)
        print(table(bundle, drift, checks, paired))
        passed = not drift and all(check.verdict != "failed" for check in checks) and (paired is None or paired.passed)
        if passed and not any(check.verdict == "ok" for check in checks):
            print("FAILED  no engine of this bundle could be run here, so nothing shows that it is the policy")
            passed = False
        write_json(args.json, facts(bundle, drift, checks, paired, passed))
    return EXIT_OK if passed else EXIT_CHECK_FAILED


def arguments(argv: list[str]) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(prog="trudi verify", description=main.__doc__)
    parser.add_argument("bundle", type=Path, help="a bundle's folder or .zip")
    parser.add_argument("--run", type=Path, help="the run it was exported from: replays episodes with PyTorch and the graph")
    parser.add_argument("--engine", action="append", help="check this engine only (may be given again); default: all")
    parser.add_argument("--trust", type=Path, metavar="KEY.pub", help="refuse a bundle that this key did not sign")
    parser.add_argument("--episodes", type=int, default=10, help="episodes of the replay (default: 10)")
    parser.add_argument("--seed", type=int, default=2_000_000, help="seed of the first of them (default: 2000000)")
    parser.add_argument("--json", type=Path, metavar="FILE", help="file for a machine-readable result")
    return parser.parse_args(argv)


def chosen(bundle: Bundle, wanted: list[str] | None) -> list[str]:
    """The engines to check: those named, in full or by their flavour, or all of them."""
    names = engines_in(bundle)
    if wanted is None:
        return names
    for one in wanted:
        if not any(matches(one, name) for name in names):
            raise TrudiRuntimeError(f"the bundle has no engine '{one}'; {near_matches(one, names)}")
    return [name for name in names if any(matches(one, name) for one in wanted)]


def matches(wanted: str, name: str) -> bool:
    """Whether `wanted` is the engine's file, its name or its flavour."""
    stem = Path(name).stem
    return wanted in (name, stem) or stem.rpartition("-")[0] == wanted


def replay(bundle: Bundle, run: Path, episodes: int, seed: int) -> PairedReturns:
    """Whole episodes in the simulator, with PyTorch and with the bundle's graph; needs the `export` extra."""
    torch_mean, artefact_mean = extension("replay").paired_returns(run, bundle, episodes, seed)
    difference = abs(artefact_mean - torch_mean) / max(abs(torch_mean), 1e-9)
    threshold = RETURN_TOLERANCE[bundle.contract.graph.precision]
    return PairedReturns(torch_mean, artefact_mean, episodes, difference, threshold)


def table(bundle: Bundle, drift: str, checks: list[EngineCheck], paired: PairedReturns | None) -> str:
    """What was checked, a line each."""
    signed = f"signed by {bundle.trusted_key}" if bundle.trusted_key else "signature not checked (--trust KEY.pub)"
    unsigned = signed if bundle.is_signed else "not signed"
    lines = [
        f"files     {len(bundle.files)} match their SHA-256; {unsigned}",
        f"schema    {bundle.contract.schema_version}",
        f"metadata  {drift or 'the contract inside the graph is the same'}",
        "",
        f"{'engine':<42} {'max error':>10} {'mean error':>10} {'threshold':>10}  verdict",
    ]
    for check in checks:
        numbers = (check.max_error, check.mean_error, check.threshold)
        cells = " ".join(f"{'-' if number is None else format(number, '.2e'):>10}" for number in numbers)
        lines.append(f"{check.engine:<42} {cells}  {check.verdict}{': ' + check.detail if check.detail else ''}")
    if paired is not None:
        verdict = "ok" if paired.passed else "failed"
        lines += [
            "",
            f"return of {paired.episodes} episodes on the same seeds: PyTorch {paired.torch_mean:.3f}, "
            f"graph {paired.artefact_mean:.3f}, "
            f"difference {100 * paired.relative_difference:.3f} % (at most {100 * paired.threshold:g} %)  {verdict}",
        ]
    return "\n".join(lines)


def facts(
    bundle: Bundle, drift: str, checks: list[EngineCheck], paired: PairedReturns | None, passed: bool
) -> dict[str, Any]:
    """The same for machines."""
    return {
        "bundle": str(bundle.path_given),
        "digest": bundle.digest,
        "passed": passed,
        "signed": bundle.is_signed,
        "trusted_key": bundle.trusted_key,
        "metadata": drift or "same",
        "engines": [asdict(check) for check in checks],
        "paired_returns": None if paired is None else asdict(paired),
    }
