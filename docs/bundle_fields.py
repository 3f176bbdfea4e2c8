"""Writes the tables of fields in bundle.md from the contract's models: python docs/bundle_fields.py"""

from __future__ import annotations

import re
import typing
from pathlib import Path
from types import UnionType
from typing import Any

from pydantic import BaseModel
from pydantic.fields import FieldInfo

from trudi.runtime.contract import Contract

PAGE = Path(__file__).with_name("bundle.md")
START, END = "<!-- fields: written by bundle_fields.py -->", "<!-- end of fields -->"
PLAIN = {str: "text", int: "integer", float: "number", bool: "true or false", type(None): "null"}


def tables() -> str:
    """One table a model, in the order in which bundle.json mentions them."""
    return "\n\n".join(_table(model) for model in _models(Contract, []))


def page() -> str:
    """bundle.md with its tables replaced by those of the models."""
    before, rest = PAGE.read_text().split(START)
    return before + START + "\n\n" + tables() + "\n\n" + END + rest.split(END)[1]


def _models(model: type[BaseModel], seen: list[type[BaseModel]]) -> list[type[BaseModel]]:
    seen.append(model)
    for field in model.model_fields.values():
        for inner in _inner_models(field.annotation):
            if inner not in seen:
                _models(inner, seen)
    return seen


def _inner_models(annotation: Any) -> list[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [annotation]
    return [model for part in typing.get_args(annotation) for model in _inner_models(part)]


def _table(model: type[BaseModel]) -> str:
    rows = [
        f"| `{name}` | {_type(field.annotation)}{_default(field)} | {_cell(field)} |"
        for name, field in model.model_fields.items()
    ]
    title = "bundle.json" if model is Contract else model.__name__
    summary = "" if model is Contract else f"{_one_line(model.__doc__ or '')}\n\n"
    return f"### {title}\n\n{summary}| field | type | meaning, unit, frame |\n|---|---|---|\n" + "\n".join(rows)


def _type(annotation: Any) -> str:
    origin, parts = typing.get_origin(annotation), typing.get_args(annotation)
    if origin is typing.Annotated:
        return _type(parts[0])
    if origin is typing.Literal:
        return " \\| ".join(f"`{part}`" for part in parts)
    if origin is tuple:
        many = parts[-1] is Ellipsis
        return f"list of {_type(parts[0])}" if many else "[" + ", ".join(map(_type, parts)) + "]"
    if origin is dict:
        return f"{_type(parts[0])} to {_type(parts[1])}"
    if origin in (UnionType, typing.Union):
        return " or ".join(_type(part) for part in parts)
    return PLAIN.get(annotation) or f"[{annotation.__name__}](#{annotation.__name__.lower()})"


def _default(field: FieldInfo) -> str:
    if field.is_required():
        return ""
    value = field.get_default(call_default_factory=True)
    if isinstance(value, bool):
        return f"; default `{str(value).lower()}`"
    shown = {None: "null", (): "[]"}.get(value, value) if not isinstance(value, dict) else "{}"
    return f"; default `{shown}`"


def _cell(field: FieldInfo) -> str:
    return _one_line(field.description or "").replace("|", "\\|")


def _one_line(text: str) -> str:
    return re.sub(r"\s+", " ", text).strip()


if __name__ == "__main__":
    PAGE.write_text(page())
