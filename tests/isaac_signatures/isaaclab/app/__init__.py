"""Starting the application, which comes before every other import of the package."""

from .app_launcher import AppLauncher

__all__ = ["AppLauncher"]
