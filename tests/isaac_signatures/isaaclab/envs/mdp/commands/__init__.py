"""Command terms."""

from .velocity_command import UniformVelocityCommand, UniformVelocityCommandCfg

__all__ = ["UniformVelocityCommand", "UniformVelocityCommandCfg"]
