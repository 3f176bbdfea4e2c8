"""Tasks. Importing the package registers them with gymnasium, by the names and keys of the real one."""

from .utils import import_packages

__version__ = "0.11.12"

_BLACKLIST_PKGS = ["utils", ".mdp"]
import_packages(__name__, _BLACKLIST_PKGS)
