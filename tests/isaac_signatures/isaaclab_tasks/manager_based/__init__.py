"""Tasks by kind."""
