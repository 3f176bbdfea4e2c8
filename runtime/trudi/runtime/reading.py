"""From bytes to a contract and back. The bytes are a stranger's: bounded before they are parsed."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from typing import Any, NoReturn, cast, get_args

from pydantic import BaseModel, ValidationError

from trudi.runtime.contract import SCHEMA_VERSION, Contract
from trudi.runtime.errors import BundleError, near_matches, quoted
from trudi.runtime.model import MAX_NAME, NAME

MAX_JSON_BYTES = 1 << 20
MAX_JSON_DEPTH = 32
STRUCTURE = re.compile(r'["\\\[\]{}]')
VERSION = re.compile(r"(\d{1,4})\.(\d{1,4})", re.ASCII)

Values = dict[str, Any]


def parse_json(data: bytes, where: str) -> Values:
    """The JSON object in `data`; BundleError where it is too large or deep, not UTF-8, or not strictly JSON.

    Refused too: keys that stand twice and the numbers NaN and Infinity, which JSON readers understand differently.
    """
    if len(data) > MAX_JSON_BYTES:
        raise BundleError(f"{where} has {len(data)} bytes; at most {MAX_JSON_BYTES} are read")
    try:
        text = data.decode("utf-8")
    except UnicodeDecodeError as error:
        raise BundleError(f"{where} is not UTF-8 text (byte {error.start}); it may be damaged") from None
    if (depth := _nesting(text)) > MAX_JSON_DEPTH:
        raise BundleError(f"{where} is nested {depth} deep; at most {MAX_JSON_DEPTH} are read")

    def refuse_constant(word: str) -> NoReturn:
        raise BundleError(f"{where} holds {word}; every number must be finite")

    def refuse_duplicates(pairs: list[tuple[str, Any]]) -> Values:
        values = dict(pairs)
        if len(values) < len(pairs):
            names = [name for name, _ in pairs]
            twice = next(name for index, name in enumerate(names) if name in names[:index])
            raise BundleError(f"{where}: the key {quoted(twice)} stands twice")
        return values

    try:
        loaded = json.loads(text, parse_constant=refuse_constant, object_pairs_hook=refuse_duplicates)
    except ValueError as error:  # JSONDecodeError, and an integer of thousands of digits
        raise BundleError(f"{where} is not JSON: {error}") from None
    if not isinstance(loaded, dict):
        raise BundleError(f"{where} must hold a JSON object, not {quoted(loaded)}")
    return cast("Values", loaded)


def _nesting(text: str) -> int:
    """Depth of brackets outside strings, found without recursion, before anything is parsed."""
    depth = deepest = 0
    in_string = False
    escaped_at = -1
    for match in STRUCTURE.finditer(text):
        char, at = match.group(), match.start()
        if in_string:
            if at == escaped_at:
                continue
            if char == "\\":
                escaped_at = at + 1
            elif char == '"':
                in_string = False
        elif char == '"':
            in_string = True
        elif char in "[{":
            depth += 1
            deepest = max(deepest, depth)
        elif char in "]}":
            depth -= 1
    return deepest


def read_contract(data: bytes, where: str = "bundle.json") -> tuple[Contract, tuple[str, ...]]:
    """The contract in the JSON text `data`, and the fields of a newer minor schema that were left out."""
    return parse_contract(parse_json(data, where), where)


def parse_contract(values: Values, where: str = "contract") -> tuple[Contract, tuple[str, ...]]:
    """The contract that nested plain values spell, and the fields of a newer minor schema that were left out.

    BundleError on a newer major schema, an unknown field of this or an older schema, a wrong type, a value out of
    bounds, and parts that contradict each other.
    """
    newer = is_newer_schema(values.get("schema_version"), where)
    known, unknown = split_unknown(Contract, values, "")
    if unknown and not newer:
        raise BundleError(f"{where}: {unknown[0].explain()}")
    try:
        contract = Contract.model_validate(known)
    except ValidationError as error:
        raise BundleError(f"{where}: {explain(error)}") from None
    return contract, tuple(field.path for field in unknown)


def contract_json(contract: Contract) -> bytes:
    """The contract as JSON text: floats round-trip exactly, lists of plain values stand on one line."""
    return (_pretty(contract.model_dump(mode="json"), "") + "\n").encode()


def explain(error: ValidationError) -> str:
    """The first of pydantic's findings as a half-sentence."""
    first = error.errors(include_url=False, include_context=False)[0]
    key = ".".join(str(part) for part in first["loc"])
    reason = first["msg"].removeprefix("Value error, ")
    if first["type"] == "missing":
        return f"the field {key} is missing"
    shown = f" (got {quoted(first['input'])})" if not isinstance(first["input"], (dict, BaseModel)) else ""
    return f"{key}: {reason}{shown}" if key else f"{reason}{shown}"


def is_newer_schema(version: object, where: str) -> bool:
    """Whether the schema is a newer minor one; BundleError where it is a newer major one or none."""
    match = VERSION.fullmatch(version) if isinstance(version, str) else None
    if match is None:
        raise BundleError(
            f'{where}: schema_version is {quoted(version)}; it must be MAJOR.MINOR, such as "{SCHEMA_VERSION}"'
        )
    major, minor = int(match[1]), int(match[2])
    own_major, own_minor = (int(part) for part in SCHEMA_VERSION.split("."))
    if major > own_major:
        raise BundleError(f"{where}: schema {version} is newer than {SCHEMA_VERSION}, which this TruDi reads; update TruDi")
    if major < own_major:
        raise BundleError(f"{where}: schema {version} is older than {SCHEMA_VERSION}; export the policy again")
    return minor > own_minor


@dataclass(frozen=True)
class UnknownField:
    """A field that no model has."""

    parent: str
    """Path of the field it stands in; empty at the top."""
    name: str
    known: tuple[str, ...]
    """Names of the fields beside which it stands."""

    @property
    def path(self) -> str:
        """Where it stands, fit to be shown: the name is a stranger's."""
        name = self.name if NAME.fullmatch(self.name) and len(self.name) <= MAX_NAME else quoted(self.name)
        return f"{self.parent}.{name}" if self.parent else name

    def explain(self) -> str:
        """The field, and what it may have been meant to be, as a half-sentence."""
        inside = f" in {self.parent}" if self.parent else ""
        return f"unknown field {quoted(self.name)}{inside}; {near_matches(self.name, self.known)}"


def split_unknown(model: type[BaseModel], values: Values, path: str) -> tuple[Values, list[UnknownField]]:
    """`values` without the fields that the models do not have, and those fields; `path` is empty for a whole file."""
    kept: Values = {}
    unknown: list[UnknownField] = []
    for name, value in values.items():
        field = model.model_fields.get(name)
        if field is None:
            unknown.append(UnknownField(path, name, tuple(model.model_fields)))
            continue
        kept[name] = value
        place = f"{path}.{name}" if path else name
        inner = _model_in(field.annotation)
        if inner is None:
            continue
        if isinstance(value, dict):
            kept[name], more = split_unknown(inner, cast("Values", value), place)
            unknown += more
        elif isinstance(value, list):
            kept[name] = items = list(cast("list[Any]", value))
            for index, item in enumerate(items):
                if isinstance(item, dict):
                    items[index], more = split_unknown(inner, cast("Values", item), f"{place}[{index}]")
                    unknown += more
    return kept, unknown


def _model_in(annotation: Any) -> type[BaseModel] | None:
    """The model that a field holds: itself, optional, or in a tuple."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    return next((found for part in get_args(annotation) if (found := _model_in(part)) is not None), None)


def _pretty(value: Any, indent: str) -> str:
    inner = indent + "  "
    if isinstance(value, dict) and value:
        items = [f"{inner}{json.dumps(key)}: {_pretty(item, inner)}" for key, item in cast("Values", value).items()]
        return "{\n" + ",\n".join(items) + f"\n{indent}}}"
    if isinstance(value, list) and any(isinstance(item, dict) for item in cast("list[Any]", value)):
        return "[\n" + ",\n".join(inner + _pretty(item, inner) for item in cast("list[Any]", value)) + f"\n{indent}]"
    return json.dumps(value, allow_nan=False)
