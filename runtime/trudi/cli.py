"""The `trudi` command. A subcommand's module is imported when it is called, so a robot never imports torch."""

from __future__ import annotations

import importlib
import os
import sys
from collections.abc import Callable
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from types import ModuleType
from typing import NoReturn, cast

EXIT_BAD_INPUT = 2


@dataclass(frozen=True)
class Command:
    """Where a subcommand lives and what it needs."""

    module: str
    """Module with `main(argv) -> exit code`."""
    extra: str | None
    """The extra whose packages the module imports; None for the base install."""
    summary: str


COMMANDS: dict[str, Command] = {
    "train": Command("trudi.train.commands.train", "train", "train a policy in a parallel simulator"),
    "eval": Command("trudi.train.commands.evaluate", "train", "measure the policy of a run"),
    "distill": Command(
        "trudi.train.commands.distill", "train", "distill a policy into one of fewer steps, and compare them"
    ),
    "export": Command("trudi.export.commands.export", "export", "compile a run into a bundle for a robot"),
    "verify": Command("trudi.runtime.commands.verify", None, "check a bundle and that its engines compute the policy"),
    "bench": Command("trudi.runtime.commands.bench", None, "measure the latency of a bundle's engines"),
    "run": Command("trudi.runtime.commands.run", None, "drive a robot with a bundle, under the supervisor"),
    "replay": Command("trudi.runtime.commands.replay", None, "compute a recorded flight again, bit for bit"),
    "report": Command("trudi.train.commands.report", "report", "one HTML file with curves, tables and figures from results"),
    "tasks": Command("trudi.train.commands.tasks", "train", "list the tasks of the installed simulators"),
    "benchmark": Command("trudi.train.commands.benchmark", "train", "train a grid of tasks, variants and seeds, resumably"),
    "conform": Command("trudi.train.commands.conform", "train", "check that a simulator keeps what training relies on"),
    "inspect": Command("trudi.runtime.commands.inspect", None, "check a bundle and show what it says, or what differs"),
    "keygen": Command("trudi.runtime.commands.keygen", None, "make a key pair to sign bundles with"),
    "doctor": Command("trudi.runtime.doctor", None, "say what is installed, what works, and what to do about the rest"),
}

# What commands of the base install can do more of where an extra is there.
EXTENSIONS: dict[str, Command] = {
    "replay": Command("trudi.export.replay", "export", "episodes with PyTorch and with the artefact"),
    "baselines": Command("trudi.export.baselines", "export", "eager PyTorch, a plain export and the matrix products alone"),
}


def extension(name: str) -> ModuleType:
    """The module of an extension; TrudiRuntimeError names the extra where it cannot be imported."""
    from trudi.runtime.errors import TrudiRuntimeError

    wanted = EXTENSIONS[name]
    try:
        return importlib.import_module(wanted.module)
    except ModuleNotFoundError as error:
        if (error.name or "").startswith("trudi."):
            raise
        raise TrudiRuntimeError(
            f"{wanted.summary}: needs the package '{error.name}': pip install 'trudi[{wanted.extra}]'"
        ) from error


def usage() -> str:
    """The overview that `trudi --help` prints."""
    width = max(map(len, COMMANDS))
    lines = [f"  {name:<{width}}  {command.summary}" for name, command in COMMANDS.items()]
    return "usage: trudi COMMAND ...\n\n" + "\n".join(lines) + "\n\n`trudi COMMAND --help` explains one command."


def main(argv: list[str] | None = None) -> int:
    """Runs one subcommand; returns 0 for success, 1 where a check failed, 2 for bad input."""
    args = sys.argv[1:] if argv is None else argv
    if not args or args[0] in ("-h", "--help"):
        print(usage())
        return 0 if args else EXIT_BAD_INPUT
    if args[0] in ("-V", "--version"):
        print(f"trudi {installed_version()}")
        return 0
    name, rest = args[0], args[1:]
    if name not in COMMANDS:
        return _fail(f"unknown command '{name}'; available: {', '.join(COMMANDS)}")
    command = COMMANDS[name]
    try:
        module = importlib.import_module(command.module)
    except ModuleNotFoundError as error:
        if command.extra is None or (error.name or "").startswith("trudi."):
            raise
        return _fail(f"`trudi {name}` needs the package '{error.name}': pip install 'trudi[{command.extra}]'")
    try:
        return cast("Callable[[list[str]], int]", module.main)(rest)
    except BrokenPipeError:  # The reader of our output, such as `head`, has had enough.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0


def installed_version() -> str:
    """The version of the installed distribution, or a word that says there is none."""
    try:
        return version("trudi")
    except PackageNotFoundError:
        return "(not installed)"


def _fail(message: str) -> int:
    print(f"trudi: error: {message}", file=sys.stderr)
    return EXIT_BAD_INPUT


def run() -> NoReturn:
    """Entry point for `python -m trudi.cli`."""
    sys.exit(main())


if __name__ == "__main__":
    run()
