"""Looking up and reading tasks."""

from .importer import import_packages
from .parse_cfg import load_cfg_from_registry, parse_env_cfg

__all__ = ["import_packages", "load_cfg_from_registry", "parse_env_cfg"]
