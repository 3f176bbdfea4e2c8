"""The tables in the repository are what its raw results say, to the last character."""

import re
from pathlib import Path

import pytest

from trudi.train.report.published import read_published
from trudi.train.report.report import Report
from trudi.train.report.sources import gather

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"


@pytest.mark.parametrize("name", ["dmc_cpu", "ablations_cpu"])
def test_the_committed_tables_are_made_of_the_committed_results(name):
    tables = Report(gather([BENCHMARKS / f"{name}.json"]), read_published()).tables()
    assert tables == (BENCHMARKS / f"{name}.md").read_text()


@pytest.mark.parametrize("page", ["docs/results.md", "README.md"])
def test_returns_and_intervals_on_the_pages_are_those_of_the_tables(page):
    tables = "".join((BENCHMARKS / f"{name}.md").read_text() for name in ("dmc_cpu", "ablations_cpu")).replace("\\", "")
    text = (BENCHMARKS.parent / page).read_text()
    found = re.findall(r"[\d.]+ \u00b1 [\d.]+|0\.\d\d \[0\.\d\d, 0\.\d\d\]", text)
    assert len(found) >= 3 and [one for one in found if one not in tables] == []
