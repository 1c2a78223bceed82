"""What CloudEvents 1.0 says of names, texts, numbers, times and content types."""

from __future__ import annotations

import re
from datetime import UTC, datetime
from typing import Final

from mcp_crew_redis.errors import DataError

__all__ = [
    "BINARY",
    "INTEGERS",
    "JSON",
    "SPEC_VERSION",
    "is_json",
    "is_name",
    "is_text",
    "moment_of",
    "timestamp",
]

SPEC_VERSION: Final = "1.0"
JSON: Final = "application/json"
BINARY: Final = "application/octet-stream"
INTEGERS: Final = range(-(2**31), 2**31)

_NAME: Final = re.compile(r"[a-z0-9]+")
_TIME: Final = re.compile(
    r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?(Z|[+-]\d\d:\d\d)", re.ASCII | re.IGNORECASE
)
_IS_JSON: Final = re.compile(r"[^/;]+/(?:[^;]+\+)?json\s*(?:;.*)?", re.IGNORECASE)
# What the specification takes out of its strings: controls, surrogates, and the code
# points that Unicode keeps free of characters.
_BARRED: Final = re.compile(
    "[\x00-\x1f\x7f-\x9f\ud800-\udfff\ufdd0-\ufdef"
    + "".join(chr(plane << 16 | low) for plane in range(17) for low in (0xFFFE, 0xFFFF))
    + "]"
)


def is_name(name: str) -> bool:
    """Whether an attribute may be called so: lower-case letters and digits."""
    return _NAME.fullmatch(name) is not None


def is_text(value: object) -> bool:
    """Whether it is a string of characters that attributes may have."""
    return isinstance(value, str) and _BARRED.search(value) is None


def is_json(content_type: str | None) -> bool:
    """Whether data of that type are JSON; they are when nothing is said."""
    return content_type is None or _IS_JSON.fullmatch(content_type) is not None


def timestamp(when: datetime) -> str:
    """Return a moment as RFC 3339 has it, in UTC, to the millisecond."""
    return when.astimezone(UTC).isoformat(timespec="milliseconds")[:-6] + "Z"


def moment_of(name: str, text: object) -> datetime:
    """Return the moment that an attribute tells of.

    Raises:
        DataError: It is no timestamp of RFC 3339.
    """
    try:
        if isinstance(text, str) and _TIME.fullmatch(text):
            return datetime.fromisoformat(text.upper())
    except ValueError:  # the 30th of February
        pass
    raise DataError(f"the CloudEvent's {name} is no timestamp of RFC 3339")
