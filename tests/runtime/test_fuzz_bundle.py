"""A fast part of benchmarks/fuzz_bundle.py: mutated bundles give BundleError or the original content, nothing else."""

import importlib.util
import sys
from pathlib import Path

SCRIPT = Path(__file__).parents[2] / "benchmarks" / "fuzz_bundle.py"


def test_two_thousand_mutated_bundles():
    spec = importlib.util.spec_from_file_location("fuzz_bundle", SCRIPT)
    assert spec is not None and spec.loader is not None
    module = sys.modules["fuzz_bundle"] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    report = module.fuzz(count=2000, seed=20260101, case_limit_s=120.0)
    assert report.violations == []
    assert report.count == 2000
    assert len(report.reasons) > 80, "the mutations no longer reach the checks"
