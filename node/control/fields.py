"""Fields of a control request, checked one by one. Layer 5."""

from __future__ import annotations

from typing import TypeVar

from node.control.client import Json
from node.errors import UsageError

T = TypeVar("T", str, int, bool)


def field(request: Json, name: str, kind: type[T]) -> T | None:
    """A field of the request, None where it is missing or null. Raises `UsageError`."""
    value = request.get(name)
    if value is None:
        return None
    if not isinstance(value, kind) or (kind is int and isinstance(value, bool)):
        raise UsageError(f"field {name!r} must be of type {kind.__name__}")
    return value


def required(request: Json, name: str, kind: type[T]) -> T:
    """A field that must be there. Raises `UsageError`."""
    value = field(request, name, kind)
    if value is None:
        raise UsageError(f"field {name!r} is missing")
    return value
