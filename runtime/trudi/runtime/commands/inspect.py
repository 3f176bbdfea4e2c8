"""`trudi inspect`: a bundle as a readable page, or what differs between two."""

from __future__ import annotations

import argparse
from dataclasses import asdict
from pathlib import Path
from typing import Any

from trudi.runtime.bundle import Bundle
from trudi.runtime.commands.common import EXIT_CHECK_FAILED, EXIT_OK, reports_errors, write_json
from trudi.runtime.difference import Difference, differences
from trudi.runtime.page import bundle_page


@reports_errors("inspect")
def main(argv: list[str]) -> int:
    """Shows a bundle after checking it whole; with --diff, 1 where the two differ."""
    parser = argparse.ArgumentParser(
        prog="trudi inspect", description="Check a bundle and show what it says, at full precision."
    )
    parser.add_argument("bundle", type=Path, help="a bundle's folder or .zip")
    parser.add_argument("--diff", type=Path, metavar="OTHER", help="show only what differs from this bundle (exit code 1)")
    parser.add_argument("--trust", type=Path, metavar="KEY.pub", help="refuse bundles that this key did not sign")
    parser.add_argument(
        "--json", type=Path, metavar="FILE", help="file for the whole contract, the files and the differences"
    )
    args = parser.parse_args(argv)
    with Bundle.open(args.bundle, trust=args.trust) as bundle:
        if args.diff is None:
            print(bundle_page(bundle))
            write_json(args.json, facts(bundle))
            return EXIT_OK
        with Bundle.open(args.diff, trust=args.trust) as other:
            found = differences(bundle, other)
            show_differences(found, args.bundle, args.diff)
            write_json(
                args.json, {**facts(bundle), "other": facts(other), "differences": [asdict(entry) for entry in found]}
            )
    return EXIT_CHECK_FAILED if found else EXIT_OK


def facts(bundle: Bundle) -> dict[str, Any]:
    """A bundle for machines."""
    return {
        "bundle": str(bundle.path_given),
        "digest": bundle.digest,
        "signed": bundle.is_signed,
        "trusted_key": bundle.trusted_key,
        "ignored_fields": list(bundle.ignored_fields),
        "files": {name: asdict(info) for name, info in sorted(bundle.files.items())},
        "contract": bundle.contract.model_dump(mode="json"),
    }


def show_differences(found: list[Difference], one: Path, other: Path) -> None:
    """Prints each differing field with its two values."""
    if not found:
        print(f"no difference between {one} and {other}")
        return
    print(f"--- {one}\n+++ {other}")
    for entry in found:
        print(f"{entry.field}\n  - {entry.one}\n  + {entry.other}")
    print(f"{len(found)} field{'s' if len(found) > 1 else ''} differ{'s' if len(found) == 1 else ''}")
