"""The package's terms and these tasks' own."""

from isaaclab.envs.mdp import *  # noqa: F403

from .curriculums import *  # noqa: F403
