"""Simulators, one module each, behind the `VectorEnv` protocol."""
