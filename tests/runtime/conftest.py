"""Bundles on disk that several tests start from."""

import pytest
from bundles import contract, go1_files, go1_values

from trudi.runtime.writing import write_bundle


@pytest.fixture
def go1():
    return contract(go1_values())


@pytest.fixture
def folder(tmp_path, go1):
    return write_bundle(tmp_path / "go1", go1, go1_files())


@pytest.fixture
def archived(tmp_path, go1):
    return write_bundle(tmp_path / "go1.zip", go1, go1_files())
