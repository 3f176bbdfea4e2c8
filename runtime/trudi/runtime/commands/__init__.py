"""The subcommands of the base install."""
