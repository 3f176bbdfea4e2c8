"""Names by regular expression."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any


def resolve_matching_names(
    keys: str | Sequence[str], list_of_strings: Sequence[str], preserve_order: bool = False
) -> tuple[list[int], list[str]]:
    """Indices and names that a key matches whole: in the strings' order, or in the keys' where that is asked for."""
    keys = [keys] if isinstance(keys, str) else list(keys)
    pairs = [(k, i) for i, name in enumerate(list_of_strings) for k, key in enumerate(keys) if re.fullmatch(key, name)]
    indices = [i for _, i in (sorted(pairs) if preserve_order else pairs)]
    if len(set(indices)) != len(indices):
        raise ValueError(f"more than one of {keys} matches the same of {list(list_of_strings)}")
    if unmatched := [key for k, key in enumerate(keys) if k not in {pair[0] for pair in pairs}]:
        raise ValueError(f"no string matches {unmatched}. Available: {list(list_of_strings)}")
    return indices, [list_of_strings[i] for i in indices]


def resolve_matching_names_values(
    data: dict[str, Any], list_of_strings: Sequence[str], preserve_order: bool = False, strict: bool = True
) -> tuple[list[int], list[str], list[Any]]:
    """As `resolve_matching_names`, with the value of the key that matched; keys that match nothing pass if not strict."""
    keys = [key for key in data if strict or any(re.fullmatch(key, name) for name in list_of_strings)]
    indices, names = resolve_matching_names(keys, list_of_strings, preserve_order)
    return indices, names, [next(value for key, value in data.items() if re.fullmatch(key, name)) for name in names]
