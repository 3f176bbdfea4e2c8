"""`@configclass`: a dataclass whose mutable defaults are copied and whose plain class attributes are fields."""

from __future__ import annotations

import copy
import dataclasses
import inspect
import types
from collections.abc import Callable
from dataclasses import MISSING
from typing import Any, TypeVar

from typing_extensions import dataclass_transform

T = TypeVar("T")


@dataclass_transform()
def configclass(cls: type[T], **kwargs: Any) -> type[T]:
    """Turns the class into a configuration with `to_dict`, `from_dict`, `replace`, `copy` and `validate`."""
    inherited = {field.name for base in cls.__mro__[1:] for field in _fields(base)}
    annotations = inspect.get_annotations(cls)
    for name, value in list(vars(cls).items()):
        if name.startswith("__") or name in annotations:
            continue
        if name in inherited or not isinstance(value, _NOT_FIELDS):
            annotations[name] = "Any"
    for name in annotations:
        value = cls.__dict__.get(name, MISSING)
        if not isinstance(value, dataclasses.Field):
            setattr(cls, name, dataclasses.field(default_factory=_copier(value)))
    cls.__annotations__ = annotations
    for name, method in _METHODS.items():
        setattr(cls, name, method)
    return dataclasses.dataclass(cls, **kwargs)


_NOT_FIELDS = (type, types.FunctionType, property, classmethod, staticmethod)


def _fields(obj: Any) -> tuple[dataclasses.Field[Any], ...]:
    return dataclasses.fields(obj) if dataclasses.is_dataclass(obj) else ()


def _copier(value: Any) -> Callable[[], Any]:
    return lambda: value if value is MISSING else copy.deepcopy(value)


def _to_dict(self: Any) -> dict[str, Any]:
    def plain(value: Any) -> Any:
        if dataclasses.is_dataclass(value) and not isinstance(value, type):
            return {name: plain(item) for name, item in vars(value).items()}
        if isinstance(value, dict):
            return {key: plain(item) for key, item in value.items()}
        if callable(value):
            return f"{value.__module__}:{getattr(value, '__qualname__', type(value).__name__)}"
        return value

    return plain(self)


def _from_dict(self: Any, data: dict[str, Any]) -> None:
    for name, value in data.items():
        if not hasattr(self, name):
            raise KeyError(f"{type(self).__name__} has no {name!r}")
        current = getattr(self, name)
        if isinstance(value, dict) and dataclasses.is_dataclass(current):
            _from_dict(current, value)
        else:
            setattr(self, name, value)


def _replace(self: T, **kwargs: Any) -> T:
    new = copy.deepcopy(self)
    for name, value in kwargs.items():
        setattr(new, name, value)
    return new


def _validate(self: Any, prefix: str = "") -> list[str]:
    """TypeError that names every field left unset, however deep."""

    def unset(value: Any, path: str) -> list[str]:
        if value is MISSING:
            return [path]
        if not dataclasses.is_dataclass(value) or isinstance(value, type):
            return []
        return [entry for name, item in vars(value).items() for entry in unset(item, f"{path}.{name}" if path else name)]

    missing = unset(self, prefix)
    if missing:
        raise TypeError(f"{type(self).__name__} lacks values for: {', '.join(missing)}")
    return missing


_METHODS: dict[str, Callable[..., Any]] = {
    "to_dict": _to_dict,
    "from_dict": _from_dict,
    "replace": _replace,
    "copy": _replace,
    "validate": _validate,
}
