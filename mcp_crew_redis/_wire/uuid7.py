"""UUIDs of version 7: the time first, so that they sort by when they were made.

RFC 9562, section 5.7, with method 1 of section 6.2 for what is made within the same
millisecond: the 12 bits after the version count up from a random start.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from time import time_ns
from typing import Final

__all__ = ["Uuid7", "id_bytes", "id_text"]

_BLOCK: Final = 4_096  # bytes of the system's random source fetched at a time
_TAIL: Final = 10  # bytes of one id that are drawn: 2 for its count, 8 at its end
_MAX_COUNT: Final = 0xFFF
_CANONICAL: Final = re.compile(
    r"[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}"
)


class Uuid7:
    """Makes UUIDs, each greater than all before it from the same object.

    Not for secrets: whoever has seen one knows when it was made. A forked process
    shares no random bytes with its parent. Make few: each is remembered for forks.

    Args:
        wall: Nanoseconds since 1970; tests may hold it still.
    """

    __slots__ = ("_at", "_count", "_last_ms", "_pool", "_wall")

    def __init__(self, wall: Callable[[], int] = time_ns) -> None:
        self._wall = wall
        self._pool = b""
        self._at = self._last_ms = self._count = 0
        os.register_at_fork(after_in_child=self._forked)

    def __call__(self) -> bytes:
        """Return the next one, 16 bytes."""
        ms = self._wall() // 1_000_000
        at = self._at
        self._at = at + _TAIL
        tail = self._pool[at : at + _TAIL]
        if len(tail) < _TAIL:
            tail = self._refill()
        if ms > self._last_ms:
            self._last_ms = ms
            # Half of the range stays free to count in.
            self._count = (tail[0] << 8 | tail[1]) & 0x7FF
        else:  # within the same millisecond, or the clock was set back
            self._count += 1
            if self._count > _MAX_COUNT:
                self._last_ms += 1
                self._count = 0
            ms = self._last_ms
        high = ms << 16 | 0x7000 | self._count
        low = (tail[2] & 0x3F) | 0x80
        return high.to_bytes(8, "big") + bytes((low,)) + tail[3:]

    def _refill(self) -> bytes:
        self._pool = os.urandom(_BLOCK)
        self._at = _TAIL
        return self._pool[:_TAIL]

    def _forked(self) -> None:
        self._pool = b""


def id_text(raw: bytes | str) -> str:
    """Return an id as text: 16 bytes as a UUID, anything else as it is."""
    if isinstance(raw, str):
        return raw
    digits = raw.hex()
    return f"{digits[:8]}-{digits[8:12]}-{digits[12:16]}-{digits[16:20]}-{digits[20:]}"


def id_bytes(text: str) -> bytes | str:
    """Return the shortest form of an id that `id_text` gives back unchanged."""
    if _CANONICAL.fullmatch(text) is None:
        return text
    return bytes.fromhex(text.replace("-", ""))
