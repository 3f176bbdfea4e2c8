"""Structured numpy rows as protobuf messages, exactly.

Only protobuf's fixed-width types are used, so all messages of a channel have one length and one layout, which is a numpy
dtype again: rows are encoded and decoded by copying columns. No value passes through a Python float, which would quiet
signalling NaNs, and none is left out for being zero, which would lose -0.0.

    i1 i2 i4: sfixed32    i8: sfixed64    u1 u2 u4: fixed32    u8: fixed64    f4: float    f8: double    b1: bool
    S:        string (bytes where a value is not ASCII), with its trailing zeros
    A field of several values is `repeated`, in C order; its shape is in the row's description, see `describe`.
"""

from __future__ import annotations

import json
import math
import re
from dataclasses import dataclass
from typing import Any

import numpy as np
from google.protobuf import descriptor_pb2
from numpy.typing import NDArray

from trudi.runtime.errors import TrudiRuntimeError, quoted

PACKAGE = "trudi"
MAX_FIELDS = 1000
MAX_ROW_BYTES = 1 << 20
MAX_DESCRIPTION = 1 << 18
NAME = re.compile(r"[A-Za-z][A-Za-z0-9_]{0,63}")
_FORMAT = re.compile(r"<[iu][248]|<f[48]|\|[iu]1|\|b1|\|S[1-9][0-9]{0,5}")
_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5
_TYPES = descriptor_pb2.FieldDescriptorProto


class RecordingError(TrudiRuntimeError):
    """A recording that cannot be written, or is not read: damaged, cut off, from the future, or no recording."""


@dataclass(frozen=True)
class _Field:
    name: str
    format: str
    """As numpy writes it, as "<f8"."""
    shape: tuple[int, ...]

    @property
    def wire_format(self) -> str:
        """The format of its values in a message."""
        kind, size = self.format[1], int(self.format[2:])
        if kind == "S":
            return self.format
        return "|u1" if kind == "b" else f"<{kind}{max(size, 4)}"


@dataclass(frozen=True)
class Layout:
    """How the rows of a channel lie in memory and in messages."""

    fields: tuple[_Field, ...]
    rows: np.dtype[Any]
    """The rows' dtype, without padding."""
    wire: np.dtype[Any]
    """The messages' dtype: for each field the bytes before its values, "head", and its values, "value"."""

    def blank(self, count: int) -> NDArray[Any]:
        """`count` messages, their heads filled in: (count,) of `wire`."""
        messages = np.zeros(count, self.wire)
        for number, field in enumerate(self.fields, 1):
            messages[field.name]["head"] = np.frombuffer(_head(number, field), np.uint8)
        return messages

    def encode(self, rows: NDArray[Any], messages: NDArray[Any]) -> None:
        """Writes `rows`, (count,), over the values of `messages`, (count,), which `blank` made."""
        for field in self.fields:
            values = rows[field.name]
            if field.format == "|b1":  # numpy may hold a true as any byte but 0
                values = values.view(np.uint8) != 0
            messages[field.name]["value"] = values

    def decode(self, data: bytes | bytearray) -> NDArray[Any]:
        """The rows of messages that stand one after the other. ValueError where they do not have this layout."""
        messages = np.frombuffer(data, self.wire)
        rows = np.empty(len(messages), self.rows)
        for number, field in enumerate(self.fields, 1):
            column = messages[field.name]
            if not (column["head"] == np.frombuffer(_head(number, field), np.uint8)).all():
                raise ValueError(f"a message does not have its field {field.name}")
            rows[field.name] = column["value"]
            if field.wire_format != field.format and not np.array_equal(rows[field.name], column["value"]):
                raise ValueError(f"{field.name} has a value that {field.format} cannot hold")
        return rows


def layout(dtype: np.dtype[Any]) -> Layout:
    """The layout of a structured dtype's rows. RecordingError where a field is of a kind that is not recorded."""
    if dtype.names is None:
        raise RecordingError(f"{quoted(str(dtype))} has no named fields")
    fields: list[_Field] = []
    for name in dtype.names:
        base, shape = dtype[name].base, dtype[name].shape
        if base.names is not None or base.hasobject:
            raise RecordingError(f"the field {quoted(name)} is {quoted(str(base))}; plain numbers and S bytes are recorded")
        fields.append(_Field(name, base.str, shape))
    return _layout(fields)


def describe(of: Layout) -> str:
    """A layout as JSON: name, numpy format and, where there are several values, shape of each field."""
    return json.dumps([[f.name, f.format, *([list(f.shape)] if f.shape else [])] for f in of.fields])


def parse(text: str) -> Layout:
    """The layout that `describe` wrote. RecordingError on anything else; nothing is evaluated."""
    if len(text) > MAX_DESCRIPTION:
        raise RecordingError(f"a row's description has {len(text)} characters; at most {MAX_DESCRIPTION} are read")
    try:
        entries: Any = json.loads(text)
        return _layout([_parse_field(*entry) for entry in entries])
    except (ValueError, TypeError, RecursionError):
        raise RecordingError(f"{quoted(text)} does not describe a row of plain numbers") from None


def _parse_field(name: str, form: str, shape: list[int] | None = None) -> _Field:
    sizes = [] if shape is None else shape
    if not isinstance(name, str) or not isinstance(form, str) or not all(type(size) is int for size in sizes):  # pyright: ignore[reportUnnecessaryIsInstance]
        raise TypeError
    return _Field(name, form, tuple(sizes))


def _layout(fields: list[_Field]) -> Layout:
    if not 0 < len(fields) <= MAX_FIELDS:
        raise RecordingError(f"a row of {len(fields)} fields: 1 to {MAX_FIELDS} are recorded")
    _check_names([field.name for field in fields])
    for field in fields:
        if not _FORMAT.fullmatch(field.format):
            raise RecordingError(
                f"the field {field.name} is of {quoted(field.format)}; recorded are little-endian integers, f4, f8, b1 and S"
            )
        if len(field.shape) > 8 or any(not 0 <= size <= MAX_ROW_BYTES for size in field.shape):
            raise RecordingError(f"the field {field.name} has the shape {quoted(field.shape)}: up to 8 sizes are recorded")
    if (size := sum(math.prod(f.shape) * int(f.format[2:]) for f in fields)) > MAX_ROW_BYTES:
        raise RecordingError(f"a row of {size} bytes: at most {MAX_ROW_BYTES} are recorded")
    wire = [(field.name, *_wire(number, field)) for number, field in enumerate(fields, 1)]
    return Layout(tuple(fields), np.dtype([(f.name, f.format, f.shape) for f in fields]), np.dtype(wire))


def _check_names(names: list[str]) -> None:
    seen: dict[str, str] = {}
    for name in names:
        if not NAME.fullmatch(name):
            raise RecordingError(f"the field name {quoted(name)}: a name is up to 64 letters, digits and _, a letter first")
        folded = name.replace("_", "").lower()
        if folded in seen:
            raise RecordingError(f"the field names {seen[folded]} and {name} are one to protobuf's JSON; rename one")
        seen[folded] = name


def _wire(number: int, field: _Field) -> tuple[np.dtype[Any], tuple[int, ...]]:
    """The dtype of a field in a message, and how often it stands there: strings are repeated with their heads."""
    head = ("head", np.uint8, (len(_head(number, field)),))
    if field.format[1] == "S":
        return np.dtype([head, ("value", field.format)]), field.shape
    return np.dtype([head, ("value", field.wire_format, field.shape)]), ()


def _head(number: int, field: _Field) -> bytes:
    """A field's tag, and the length of what follows where protobuf has one."""
    size = int(field.wire_format[2:])
    if field.format[1] == "S":
        return _varint(number << 3 | _BYTES) + _varint(size)
    if field.shape:
        return _varint(number << 3 | _BYTES) + _varint(math.prod(field.shape) * size)
    return _varint(number << 3 | {1: _VARINT, 4: _FIXED32, 8: _FIXED64}[size])


def _varint(value: int) -> bytes:
    out = bytearray()
    while value > 127:
        out.append(value & 127 | 128)
        value >>= 7
    out.append(value)
    return bytes(out)


def descriptor_set(name: str, of: Layout, rows: NDArray[Any]) -> bytes:
    """A serialised FileDescriptorSet with the message `trudi.<name>`, from which any tool reads the rows."""
    file = descriptor_pb2.FileDescriptorProto(name=f"{PACKAGE}/{name}.proto", package=PACKAGE, syntax="proto3")
    message = file.message_type.add(name=name)
    for number, field in enumerate(of.fields, 1):
        label = _TYPES.LABEL_REPEATED if field.shape else _TYPES.LABEL_OPTIONAL
        message.field.add(name=field.name, number=number, label=label, type=_type(field, rows[field.name]))
    return descriptor_pb2.FileDescriptorSet(file=[file]).SerializeToString()


def _type(field: _Field, values: NDArray[Any]) -> Any:
    if field.format[1] == "S":
        return _TYPES.TYPE_STRING if values.tobytes().isascii() else _TYPES.TYPE_BYTES
    return {
        "<i4": _TYPES.TYPE_SFIXED32,
        "<i8": _TYPES.TYPE_SFIXED64,
        "<u4": _TYPES.TYPE_FIXED32,
        "<u8": _TYPES.TYPE_FIXED64,
        "<f4": _TYPES.TYPE_FLOAT,
        "<f8": _TYPES.TYPE_DOUBLE,
        "|u1": _TYPES.TYPE_BOOL,
    }[field.wire_format]
