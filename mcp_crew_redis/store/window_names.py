"""What the replay window calls things: scripts, their answers, their identities."""

from __future__ import annotations

from collections import OrderedDict
from typing import Any, Final

from mcp_crew_redis._core.script_batches import Call

__all__ = [
    "APPLIED",
    "FLOOR",
    "MERGE",
    "YOUNG",
    "Name",
    "Value",
    "last_of",
    "name_of",
]

FLOOR: Final = "floor_raise"
ADD: Final = "counter_add"
MERGE: Final = "sync_merge"
APPLIED: Final = 1
YOUNG: Final = (APPLIED, 2, -1)
"""Done now; or found done, perhaps by a replay that was interrupted, so as young."""

Value = tuple[int, int, bytes]
Name = tuple[object, ...]


def name_of(key: bytes, call: Call) -> Name:
    """Return what tells a script from others, but not from its repetition."""
    return (key, *call[2][:2]) if call[0] == ADD else (key,)


def last_of(acks: OrderedDict[Any, Any]) -> int:
    """Return when the last of these was acknowledged; 0 for none."""
    return int(acks[next(reversed(acks))][0]) if acks else 0
