"""What holds for every test."""

import pytest
import torch


@pytest.fixture(autouse=True)
def subnormals():
    """A training in an earlier test set the processor to flush them to zero; tests of exactness need them."""
    torch.set_flush_denormal(False)
