"""Configuration classes and small helpers."""

from .configclass import configclass

__all__ = ["configclass"]
