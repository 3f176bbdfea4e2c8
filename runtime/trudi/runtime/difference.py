"""What differs between two bundles, field by field and exactly."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, cast

from trudi.runtime.bundle import CONTRACT, Bundle

ABSENT = "(absent)"


@dataclass(frozen=True)
class Difference:
    """One field whose values differ."""

    field: str
    """Path of the field; entries of lists are named by joint, action, element or term where they have a name."""
    one: Any
    """The first bundle's value, or (absent)."""
    other: Any
    """The second bundle's value, or (absent)."""


def differences(one: Bundle, other: Bundle) -> list[Difference]:
    """The fields of the contract and the files that differ, in the order of the contract."""
    first, second = _facts(one), _facts(other)
    fields = [*first, *(field for field in second if field not in first)]
    changed = [Difference(field, first.get(field, ABSENT), second.get(field, ABSENT)) for field in fields]
    return [entry for entry in changed if entry.one != entry.other or type(entry.one) is not type(entry.other)]


def _facts(bundle: Bundle) -> dict[str, Any]:
    facts = flatten(bundle.contract.model_dump(mode="json"))
    facts |= {f"files[{name}].sha256": info.sha256 for name, info in sorted(bundle.files.items()) if name != CONTRACT}
    if bundle.ignored_fields:
        facts[f"files[{CONTRACT}].sha256"] = bundle.files[CONTRACT].sha256
    return facts | {"signed": bundle.is_signed}


def flatten(value: Any, path: str = "", labels: Sequence[str] = ()) -> dict[str, Any]:
    """Path -> plain value. `labels` name the entries of a list of their length; the order of names is a fact of its own."""
    if isinstance(value, dict):
        return _flatten_fields(cast("dict[str, Any]", value), path)
    if not isinstance(value, list):
        return {path: value}
    items = cast("list[Any]", value)
    facts: dict[str, Any] = {} if items else {path: []}
    if items and all(isinstance(item, dict) and "name" in item for item in items):
        labels = [item["name"] for item in items]
        facts[f"{path} (order)"] = ", ".join(labels)
    for index, item in enumerate(items):
        label = labels[index] if len(labels) == len(items) else index
        facts |= flatten(item, f"{path}[{label}]")
    return facts


def _flatten_fields(fields: dict[str, Any], path: str) -> dict[str, Any]:
    labels = fields.get("names") or fields.get("element_names") or ()
    facts: dict[str, Any] = {}
    for name, value in fields.items():
        inner = f"{path}.{name}" if path else name
        facts |= {inner: ", ".join(labels)} if value is labels else flatten(value, inner, labels)
    return facts
