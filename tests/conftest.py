"""What holds for every test."""

import os

import pytest
import torch
from hypothesis import settings

# What CI tries is the same each time: a machine that looks for new cases is a developer's, where somebody sees them.
settings.register_profile("ci", derandomize=True)
if os.environ.get("CI"):
    settings.load_profile("ci")


@pytest.fixture(autouse=True)
def subnormals():
    """A training in an earlier test set the processor to flush them to zero; tests of exactness need them."""
    torch.set_flush_denormal(False)
