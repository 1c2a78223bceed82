"""The public API as text, to see every change of it in a diff.

`python -m tests.house.api > tests/house/api.txt` writes it down.
"""

from __future__ import annotations

import enum
import inspect
import sys
from collections.abc import Iterator

import mcp_crew_redis

__all__ = ["describe"]

_PACKAGE = "mcp_crew_redis"
_UNBOUND = (staticmethod, classmethod)


def describe() -> str:
    """Return one line for each public name, its constructor and its members."""
    lines: list[str] = []
    for name in mcp_crew_redis.__all__:
        lines += _public(name, getattr(mcp_crew_redis, name))
    return "\n".join(lines) + "\n"


def _public(name: str, value: object) -> Iterator[str]:
    if not inspect.isclass(value):
        yield f"{name}{inspect.signature(value)}" if callable(value) else name
        return
    bases = ", ".join(base.__name__ for base in value.__bases__)
    yield f"class {name}({bases})"
    if issubclass(value, enum.Enum):
        yield from (f"    {each.name} = {each.value!r}" for each in value)
        return
    fields = getattr(value, "model_fields", {})
    yield from (f"    {key} = {field.default!r}" for key, field in fields.items())
    for member, attribute in sorted(_own_members(value).items()):
        yield from _member(member, attribute)


def _own_members(kind: type) -> dict[str, object]:
    """What the package itself defines on a class, inherited parts included."""
    found: dict[str, object] = {}
    for base in reversed(kind.__mro__):
        if base.__module__.partition(".")[0] != _PACKAGE:
            continue
        found |= {
            name: attribute
            for name, attribute in vars(base).items()
            if not name.startswith("_") or name == "__init__"
        }
    if vars(kind).get("_is_protocol"):
        found.pop("__init__", None)
    return found


def _member(name: str, attribute: object) -> Iterator[str]:
    if isinstance(attribute, property):
        yield f"    {name}: {inspect.signature(attribute.fget).return_annotation}"
        return
    function = attribute.__func__ if isinstance(attribute, _UNBOUND) else attribute
    if not inspect.isfunction(function):
        return
    asynchronous = (
        "async " if inspect.iscoroutinefunction(inspect.unwrap(function)) else ""
    )
    yield f"    {asynchronous}{name}{inspect.signature(function)}"


if __name__ == "__main__":
    sys.stdout.write(describe())
