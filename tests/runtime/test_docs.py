"""docs/bundle.md says what the models say."""

import importlib.util
from pathlib import Path

SCRIPT = Path(__file__).parents[2] / "docs" / "bundle_fields.py"


def test_the_tables_of_fields_are_those_of_the_models():
    spec = importlib.util.spec_from_file_location("bundle_fields", SCRIPT)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    assert module.page() == module.PAGE.read_text(), "run python docs/bundle_fields.py"
