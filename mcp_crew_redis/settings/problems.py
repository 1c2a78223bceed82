"""Say what is wrong with the settings: variable, value, what is accepted."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from difflib import get_close_matches
from typing import Any

from pydantic import SecretStr, ValidationError
from pydantic.fields import FieldInfo

from mcp_crew_redis.errors import ConfigurationError

__all__ = ["as_configuration_error", "explain", "redact", "variable_of"]

PREFIX = "REDIS_CREW_"
_SECRET_FIELDS = frozenset({"password"})
_MAX_SHOWN = 80  # characters of a value
_HARMLESS_URL = re.compile(r"[a-z]{1,10}://[\w.-]+(:\d{1,5})?(/\d*)?")


def variable_of(name: str, field: FieldInfo) -> str:
    """Return the environment variable of a field."""
    alias = field.validation_alias
    return alias if isinstance(alias, str) else f"{PREFIX}{name.upper()}"


def explain(error: ValidationError, fields: Mapping[str, FieldInfo]) -> list[str]:
    """Return one line per bad setting."""
    names = {variable_of(name, field): name for name, field in fields.items()}
    lines: dict[str, str] = {}
    for problem in error.errors(include_url=False, include_context=False):
        given = str(problem["loc"][0])
        name = names.get(given, given)
        if name in fields:
            value = _given(problem)
            lines.setdefault(name, _line(name, fields[name], value))
        else:
            lines.setdefault(name, _unknown(name, fields))
    return list(lines.values())


def _given(problem: Mapping[str, Any]) -> object:
    """Return what was given; of a mapping the bad entry only."""
    inside = ".".join(str(part) for part in problem["loc"][1:])
    return f"{inside}: {problem['input']}" if inside else problem["input"]


def _line(name: str, field: FieldInfo, value: object) -> str:
    is_unset = field.default in (None, (), {})
    default = "" if is_unset else f" (default {_plain(field.default)})"
    given = f"{variable_of(name, field)}={_shown(name, value)}"
    return f"{given}: accepted is {field.description}{default}"


def _unknown(name: str, fields: Mapping[str, FieldInfo]) -> str:
    # Its value stays unsaid: it may be a password under a misspelt name.
    close = get_close_matches(name, fields, n=1)
    hint = f"; did you mean {close[0]!r}?" if close else ""
    return f"{name}: there is no such setting{hint}"


def _shown(name: str, value: object) -> str:
    if isinstance(value, SecretStr):
        value = value.get_secret_value()
    if value == "":
        return "'' (empty)"
    if name in _SECRET_FIELDS or (name == "url" and "://" not in str(value)):
        return "<redacted>"
    return redact(value)


def redact(value: object) -> str:
    """Show a value without what may be credentials in it, and not too long."""
    text = str(value)
    if "://" in text and not _HARMLESS_URL.fullmatch(text):
        # What does not parse may have its password anywhere.
        text = f"{text.partition('://')[0]}://<redacted>"
    elif "@" in text:
        text = f"<redacted>@{text.rpartition('@')[2]}"
    if len(text) > _MAX_SHOWN:
        text = f"{text[:_MAX_SHOWN]}..."
    return repr(text) if isinstance(value, str) else text


def _plain(value: object) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)


def as_configuration_error(lines: Sequence[str]) -> ConfigurationError:
    """Return one error that names every bad setting."""
    if len(lines) == 1:
        return ConfigurationError(lines[0])
    listed = "\n  ".join(lines)
    return ConfigurationError(f"{len(lines)} settings cannot be used:\n  {listed}")
