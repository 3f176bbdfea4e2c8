"""The package's terms and this task's own."""

from isaaclab.envs.mdp import *  # noqa: F403

from .rewards import *  # noqa: F403
