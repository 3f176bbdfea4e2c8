"""Reading YAML (and so JSON) files that people write: strictly, and with one line that says what is wrong."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any, cast

import yaml

from trudi.runtime.errors import TrudiRuntimeError

MAX_FILE_BYTES = 1 << 20
MERGE_TAG = "tag:yaml.org,2002:merge"


class _Loader(yaml.SafeLoader):
    """Keys are names, and none stands twice: YAML itself would take the last in silence."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen: set[str] = set()
        for key, _ in node.value:
            if key.tag == MERGE_TAG:
                continue
            name: Any = self.construct_object(key, deep=True)
            where = f"line {key.start_mark.line + 1}"
            if not isinstance(name, str):
                raise yaml.YAMLError(f"the key {name!r} is no name (YAML takes yes, no, on and off for booleans), {where}")
            if name in seen:
                raise yaml.YAMLError(f"the key '{name}' stands twice, {where}")
            seen.add(name)
        return super().construct_mapping(node, deep)


# YAML 1.1 reads 1e-3 as a word and 1.0e-3 as a number; people, and YAML 1.2, mean a number by both.
_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float", re.compile(r"[-+]?\d[\d_]*(\.[\d_]*)?[eE][-+]?\d+$"), list("-+0123456789")
)


def load_yaml(path: Path) -> Any:
    """What the file holds; TrudiRuntimeError where it cannot be read, or is not YAML."""
    try:
        if path.stat().st_size > MAX_FILE_BYTES:
            raise TrudiRuntimeError(f"{path} is larger than the {MAX_FILE_BYTES} bytes that are read")
        return parse_yaml(path.read_bytes(), str(path))
    except OSError as error:
        raise TrudiRuntimeError(f"{path} cannot be read: {error.strerror}") from None


def parse_yaml(text: str | bytes, where: str) -> Any:
    """What the text (bytes: UTF-8) holds; TrudiRuntimeError, which begins with `where`, if that is not YAML."""
    try:
        return yaml.load(text if isinstance(text, str) else text.decode(), _Loader)
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise TrudiRuntimeError(f"{where} is not valid YAML: {' '.join(str(error).split())}") from None


def read_yaml(path: Path) -> dict[str, Any]:
    """The `key: value` lines of the file; TrudiRuntimeError where it holds something else."""
    loaded = load_yaml(path)
    if not isinstance(loaded, dict):
        raise TrudiRuntimeError(f"{path} must hold `key: value` lines, not a {type(loaded).__name__}")
    return cast("dict[str, Any]", loaded)
