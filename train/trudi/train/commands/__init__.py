"""The subcommands of `trudi` that this package provides; each module has `main(argv) -> exit code`."""
