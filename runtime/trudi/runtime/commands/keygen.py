"""`trudi keygen`: a key pair to sign bundles with."""

from __future__ import annotations

import argparse
from pathlib import Path

from trudi.runtime.commands.common import EXIT_OK, reports_errors
from trudi.runtime.signing import make_key_pair, public_key_path


@reports_errors("keygen")
def main(argv: list[str]) -> int:
    """Writes KEY, which stays where bundles are exported, and KEY.pub, which goes to the robots."""
    parser = argparse.ArgumentParser(prog="trudi keygen", description="Make an Ed25519 key pair to sign bundles with.")
    parser.add_argument("key", type=Path, help="file for the private key; the public one is written beside it as KEY.pub")
    path: Path = parser.parse_args(argv).key
    identity = make_key_pair(path)
    print(f"key {identity}: keep {path} secret, and give {public_key_path(path)} to the robots that shall trust it")
    return EXIT_OK
