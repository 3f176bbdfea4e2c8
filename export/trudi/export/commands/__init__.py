"""The subcommands of the `trudi` command that export."""
