"""The tables in the repository are what its raw results say, to the last character."""

from pathlib import Path

import pytest

from trudi.train.report.published import read_published
from trudi.train.report.report import Report
from trudi.train.report.sources import gather

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"


@pytest.mark.parametrize("name", ["dmc_cpu"])
def test_the_committed_tables_are_made_of_the_committed_results(name):
    tables = Report(gather([BENCHMARKS / f"{name}.json"]), read_published()).tables()
    assert tables == (BENCHMARKS / f"{name}.md").read_text()
