"""Turns bytes into choices, so that whoever varies the bytes varies what is chosen."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, TypeVar

from google.protobuf.descriptor import FieldDescriptor

T = TypeVar("T")
MOST_REPEATED = 6
_INTS = (0, 1, 2, 3, 7, 16, 255, 2**31 - 1, 2**31, 2**32 - 1, 2**53, 2**63 - 1, 2**63, 2**64 - 1)
_FLOATS = (0.0, -0.0, 1.0, -1.0, 0.5, 1e-300, 1e300, float("inf"), float("-inf"), float("nan"), 60.0, 1024.0)
_TEXTS = ("", "a", "e-1", "r1", "r2", "../x", "a/b", "*", "\0", "é", "x" * 129, "x" * 300, "trail", "per_step", "srpt")
_PIECES = (
    b"", b"\0", b"\xff", b'"', b"'", b"{", b"}", b"[", b"]", b":", b"=", b",", b".", b"/", b"@", b"#", b"?", b"%", b"+",
    b"\n", b"0", b"-1", b"1e999", b"NaN", b"null", b"true", b"[]", b"{}", b'""', b"65536",
)  # fmt: skip
_BITS = {
    FieldDescriptor.CPPTYPE_INT32: (-(2**31), 2**31 - 1),
    FieldDescriptor.CPPTYPE_INT64: (-(2**63), 2**63 - 1),
    FieldDescriptor.CPPTYPE_UINT32: (0, 2**32 - 1),
    FieldDescriptor.CPPTYPE_UINT64: (0, 2**64 - 1),
}


class Chooser:
    """Bytes that are used up; once they are, every choice is the first."""

    def __init__(self, data: bytes) -> None:
        self._data, self._at = data, 0

    def rest(self) -> bytes:
        """What is left."""
        found, self._at = self._data[self._at :], len(self._data)
        return found

    def take(self, size: int) -> bytes:
        """So many, or what is left."""
        found = self._data[self._at : self._at + size]
        self._at += len(found)
        return found

    def number(self, below: int) -> int:
        """0 to ``below`` - 1."""
        return int.from_bytes(self.take(1 if below <= 256 else 8), "little") % below

    def one_of(self, choices: Sequence[T]) -> T:
        return choices[self.number(len(choices))]

    def damage(self, whole: bytes) -> bytes:
        """Something valid, with a few pieces cut out and others put in their place."""
        for _ in range(self.number(5)):
            at, cut = self.number(len(whole) + 1), self.number(16)
            put = self.one_of(_PIECES) if self.number(3) else self.take(self.number(8))
            whole = whole[:at] + put + whole[at + cut :]
        return whole

    def change(self, whole: dict[str, Any]) -> dict[str, Any]:
        """Fields of a document, and of its parts, with other values, of other types too, or gone."""
        changed = dict(whole)
        for _ in range(self.number(4)):
            name = self.one_of(list(whole))
            if isinstance(whole[name], dict) and whole[name] and self.number(4):
                changed[name] = self.change(whole[name])
            elif self.number(8) == 0:
                changed.pop(name, None)
            else:
                changed[name] = self._odd(whole[name])
        return changed

    def _odd(self, value: Any) -> Any:
        """Another value of the same type, most of the time."""
        if isinstance(value, list) and value and self.number(4):
            at = self.number(len(value))
            return [*value[:at], *(self._odd(value[at]) for _ in range(self.number(3))), *value[at + 1 :]]
        choices: Sequence[Any] = (*_INTS, *_FLOATS)
        if isinstance(value, str):
            choices = _TEXTS
        if self.number(4) == 0:
            choices = (None, True, "", "1", [], {}, -1, 0.5, float("nan"))
        return self.one_of(choices)

    def fill(self, message: Any) -> Any:
        """Sets fields of a protobuf message, those of its parts too; about a third stay as they are."""
        for field in message.DESCRIPTOR.fields:
            if self.number(3) == 0:
                continue
            if field.is_repeated:
                self._extend(getattr(message, field.name), field)
            elif field.message_type is not None:
                part = getattr(message, field.name)
                part.SetInParent()
                self.fill(part)
            else:
                setattr(message, field.name, self._value(field))
        return message

    def _extend(self, values: Any, field: Any) -> None:
        for _ in range(self.number(MOST_REPEATED)):
            if field.message_type is not None:
                self.fill(values.add())
            else:
                values.append(self._value(field))

    def _value(self, field: Any) -> Any:
        kind = field.cpp_type
        if kind in _BITS:
            low, high = _BITS[kind]
            # Small ones most of the time: handles that are known, ages that may follow each other.
            chosen = self.number(8) if self.number(2) else self.one_of(_INTS)
            return min(max(chosen, low), high)
        if kind in (FieldDescriptor.CPPTYPE_DOUBLE, FieldDescriptor.CPPTYPE_FLOAT):
            return self.one_of(_FLOATS)
        if kind == FieldDescriptor.CPPTYPE_BOOL:
            return bool(self.number(2))
        if kind == FieldDescriptor.CPPTYPE_ENUM:
            return self.one_of([*(value.number for value in field.enum_type.values), 99])
        if field.type == FieldDescriptor.TYPE_BYTES:
            return self.take(self.number(64))
        return self.one_of(_TEXTS)
