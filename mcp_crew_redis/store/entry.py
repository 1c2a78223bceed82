"""A value with what is known about it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Generic, Literal, TypeVar

__all__ = ["Entry"]

T = TypeVar("T")


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry(Generic[T]):
    """A stored value, where it was read and how old it is.

    Attributes:
        value: The value; None is a value like any other.
        source: Where it was read: "redis", or "journal" for a write of this process
            that waits for Redis.
        age: Seconds since it was written, by the server's clock.
        is_stale: Whether a newer value may exist that could not be asked for.
        stamp: Its place in the order of writes, in microseconds; what is written after
            it was read has a larger one.
        expires_at: Unix time in seconds by the server's clock; None when not known.
    """

    value: T
    source: Literal["redis", "journal"]
    age: float
    is_stale: bool
    stamp: int
    expires_at: float | None
