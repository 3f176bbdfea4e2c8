"""What holds for every test."""

import gc
import os

import pytest
import torch
from hypothesis import settings

# What CI tries is the same each time: a machine that looks for new cases is a developer's, where somebody sees them.
settings.register_profile("ci", derandomize=True)
if os.environ.get("CI"):
    settings.load_profile("ci")

torch.set_num_threads(1)  # two workers share two cores, and these networks are small


@pytest.fixture(scope="module", autouse=True)
def imported():
    """What is there by now stays: EnvPool's adapter collects garbage at each close, and need not look through torch."""
    gc.collect()
    gc.freeze()


@pytest.fixture(autouse=True)
def subnormals():
    """A training in an earlier test set the processor to flush them to zero; tests of exactness need them."""
    torch.set_flush_denormal(False)
