"""The vocabulary of the contract's models: frozen data, bounded lists, finite numbers, printable names."""

from __future__ import annotations

import re
from collections.abc import Sized
from typing import Annotated

from pydantic import AfterValidator, AllowInfNan, BaseModel, ConfigDict, Field, Strict

MAX_ELEMENTS = 4096
MAX_ITEMS = 256
MAX_NAME, MAX_TEXT = 128, 1024
NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.:/+\-]*", re.ASCII)


def _check_name(value: str) -> str:
    if not NAME.fullmatch(value):
        raise ValueError("a name is letters, digits and _ . : / + -, and starts with one of the first three")
    return value


def _check_text(value: str) -> str:
    if not value.isprintable():
        raise ValueError("text may not hold line breaks or control characters")
    return value


Name = Annotated[str, Strict(), Field(min_length=1, max_length=MAX_NAME), AfterValidator(_check_name)]
Text = Annotated[str, Strict(), Field(min_length=1, max_length=MAX_TEXT), AfterValidator(_check_text)]
Float = Annotated[float, Strict(), AllowInfNan(False)]
NonNegative = Annotated[Float, Field(ge=0)]
Positive = Annotated[Float, Field(gt=0)]
Int = Annotated[int, Strict()]
Size = Annotated[Int, Field(ge=1, le=MAX_ELEMENTS)]
Seed = Annotated[Int, Field(ge=0, lt=2**63)]
Range = tuple[Float, Float]
Elements = Field(min_length=1, max_length=MAX_ELEMENTS, fail_fast=True)
Floats = Annotated[tuple[Float, ...], Elements]
Ranges = Annotated[tuple[Range, ...], Elements]
Names = Annotated[tuple[Name, ...], Elements]
Units = Annotated[tuple[Text, ...], Elements]


class Model(BaseModel):
    """Frozen data whose unknown fields are errors and whose field docstrings are its documentation."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)


def distinct(what: str, names: tuple[str, ...]) -> None:
    """ValueError where a name stands twice."""
    seen: set[str] = set()
    for name in names:
        if name in seen:
            raise ValueError(f"{what}: {name} stands twice")
        seen.add(name)


def ordered(what: str, limits: tuple[float, float]) -> None:
    """ValueError where the lower bound is above the upper one."""
    if limits[0] > limits[1]:
        raise ValueError(f"{what}: the lower bound {limits[0]} is above the upper bound {limits[1]}")


def same_length(one: str, first: Sized, other: str, second: Sized | None) -> None:
    """ValueError where two lists that belong together differ in length; None is no list."""
    if second is not None and len(first) != len(second):
        raise ValueError(f"{one} has {len(first)}, {other} has {len(second)}")
