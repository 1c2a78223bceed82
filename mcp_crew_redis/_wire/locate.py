"""Where in a value the part lies that cannot be encoded; for messages only."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import fields, is_dataclass
from itertools import islice
from typing import Final

from pydantic import BaseModel

__all__ = ["locate"]

_MAX_DEPTH: Final = 32
_MAX_CHILDREN: Final = 10_000
_MAX_NAME: Final = 40


def locate(
    value: object, can_encode: Callable[[object], bool]
) -> tuple[str, type[object]]:
    """Return the path to the innermost part that `can_encode` refuses, and its type.

    Keys that look like names are shown, others by their position only: they may be
    data. Bounded: at most 32 steps down, 10,000 parts looked at in each.
    """
    path = "value"
    for _ in range(_MAX_DEPTH):
        for step, child in islice(_children(value), _MAX_CHILDREN):
            if not can_encode(child):
                path += step
                value = child
                break
        else:
            break
    return path, type(value)


def _children(value: object) -> Iterator[tuple[str, object]]:
    if isinstance(value, BaseModel):
        yield from ((f".{name}", child) for name, child in vars(value).items())
    elif is_dataclass(value) and not isinstance(value, type):
        for field in fields(value):
            if hasattr(value, field.name):
                yield f".{field.name}", getattr(value, field.name)
    elif isinstance(value, Mapping):
        for index, (key, child) in enumerate(value.items()):
            yield f"<key {index}>", key
            yield _step(key, index), child
    elif isinstance(value, list | tuple):
        yield from _numbered(value, "[{}]")
    elif isinstance(value, set | frozenset):
        yield from _numbered(value, "<member {}>")


def _numbered(parts: Iterable[object], form: str) -> Iterator[tuple[str, object]]:
    for index, child in enumerate(parts):
        yield form.format(index), child


def _step(key: object, index: int) -> str:
    if isinstance(key, str) and key.isidentifier() and len(key) <= _MAX_NAME:
        return f"[{key!r}]"
    return f"<value {index}>"
