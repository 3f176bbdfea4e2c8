"""Compiling a trained policy into a bundle for a robot (the next milestone)."""
