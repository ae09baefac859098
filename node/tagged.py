"""Tagged arrays: a closed set of dataclasses as `[tag, field, ...]`, each field bounded. Layer 1, pure.

The messages of a protocol are such a set, and the records of a journal. A table has, for each tag, the class
and how each of its fields is read, in order. Invariant: what `decode` returns is within its row's bounds.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import fields
from typing import Any, Final, Generic, Protocol, TypeVar, cast, runtime_checkable

from node import wire
from node.errors import ProtocolError
from node.wire import Value

M = TypeVar("M")

Field = Callable[[Value], object]
"""A received value as the field's; raises `ProtocolError` for one out of bounds."""
Rows = Mapping[str, tuple[type[M], tuple[Field, ...]]]


@runtime_checkable
class Compound(Protocol):
    """A field that is a class of its own; its reader is the class's inverse of this."""

    def as_value(self) -> Value:
        """The array that is sent."""
        ...


class Table(Generic[M]):
    """The set: `M` is the union of its classes."""

    def __init__(self, rows: Rows[M], *, noun: str = "message") -> None:
        """`noun` is what one of the set is called in errors."""
        self.rows: Final = rows
        self.tags: Final = {kind: tag for tag, (kind, _) in rows.items()}
        self._noun = noun
        self._names = {kind: tuple(field.name for field in fields(cast(Any, kind))) for kind in self.tags}
        for kind, readers in rows.values():
            assert len(readers) == len(self._names[kind]), f"{kind.__name__} has other fields than its row"

    def encode(self, item: M) -> Value:
        """The array to send or to write."""
        kind = type(item)
        return [self.tags[kind], *(_plain(getattr(item, name)) for name in self._names[kind])]

    def decode(self, values: Sequence[Value]) -> M:
        """What an array says. Raises `ProtocolError` for a wrong tag, count or field."""
        if not values or not isinstance(values[0], str) or values[0] not in self.rows:
            raise ProtocolError(f"no such {self._noun}")
        kind, readers = self.rows[values[0]]
        given = wire.expect_list(list(values[1:]), count=len(readers))
        return kind(*(read(value) for read, value in zip(readers, given, strict=True)))


def _plain(value: object) -> Value:
    if value is None or isinstance(value, bytes | int | str):
        return value  # nearly all are, and to ask a protocol costs more than all else here
    if isinstance(value, tuple):
        return [_plain(each) for each in value]
    return value.as_value() if isinstance(value, Compound) else cast(Value, value)


# --- fields -----------------------------------------------------------------------------------------------


def integer(low: int, high: int) -> Field:
    """An integer in [low, high]."""
    return lambda value: wire.expect_int(value, low=low, high=high)


def exactly(*sizes: int) -> Field:
    """Bytes, as many as one of `sizes` says."""

    def read(value: Value) -> bytes:
        data = wire.expect_bytes(value)
        if len(data) not in sizes:
            raise ProtocolError(f"{len(data)} bytes where {' or '.join(map(str, sizes))} are due")
        return data

    return read


def up_to(size_max: int) -> Field:
    """At most `size_max` bytes."""
    return lambda value: wire.expect_bytes(value, size_max=size_max)


def text(bytes_max: int) -> Field:
    """Text of at most `bytes_max` bytes of UTF-8."""
    return lambda value: wire.expect_str(value, bytes_max=bytes_max)


def array(item: Field, *, low: int = 0, high: int) -> Field:
    """A tuple of `low` to `high` items."""

    def read(value: Value) -> tuple[object, ...]:
        items = wire.expect_list(value, count_max=high)
        if len(items) < low:
            raise ProtocolError(f"expected at least {low} items, found {len(items)}")
        return tuple(item(each) for each in items)

    return read


# --- bodies -----------------------------------------------------------------------------------------------


def pack_records(records: Iterable[bytes]) -> bytes:
    """A body of encoded records."""
    return wire.encode(list(records))


def unpack_records(
    body: bytes, *, size_max: int, count_max: int | None = None, record_bytes_max: int | None = None
) -> tuple[bytes, ...]:
    """The records of a body. Raises `ProtocolError`."""
    items = wire.expect_list(wire.decode(body, size_max=size_max), count_max=count_max)
    return tuple(wire.expect_bytes(item, size_max=record_bytes_max) for item in items)
