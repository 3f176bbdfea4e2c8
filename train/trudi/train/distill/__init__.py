"""Distilling a trained policy into one of fewer steps that acts alike."""
