"""Imports all packages below one: each registers its tasks."""

from __future__ import annotations

import importlib
import pkgutil


def import_packages(package_name: str, blacklist_pkgs: list[str] | None = None) -> None:
    """Packages, not modules; names that hold one of the blacklist's are left out with all below them."""
    package = importlib.import_module(package_name)
    for info in pkgutil.iter_modules(package.__path__, f"{package_name}."):
        if info.ispkg and not any(name in info.name for name in blacklist_pkgs or ()):
            import_packages(info.name, blacklist_pkgs)
