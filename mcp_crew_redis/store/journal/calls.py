"""Calls of scripts as the bodies of postings: whatever waits is a script to be run.

The last argument of such a script is when the event was made, in microseconds since
1970. It is not kept here but with the posting, which may be moved in time.
"""

from __future__ import annotations

from typing import Any, Final, cast

import msgpack

from mcp_crew_redis._core.script_batches import Call

__all__ = [
    "EVENT",
    "EVENT_SCRIPTS",
    "MARK_AT",
    "PUBLISH",
    "SCHEDULE",
    "TRANSACT",
    "TRANSACTION",
    "pack_call",
    "unpack_call",
]

EVENT: Final = "event"
"""The kind of postings that hold an event."""
TRANSACTION: Final = "transaction"
"""The kind of postings that hold a transaction."""
PUBLISH: Final = "event_publish"
SCHEDULE: Final = "event_schedule"
TRANSACT: Final = "transact"
MARK_AT: Final = {TRANSACT: 0, PUBLISH: 1, SCHEDULE: 2}
"""Which of a script's keys is the mark."""
EVENT_SCRIPTS: Final = frozenset(MARK_AT)
"""Scripts that add an event once, by its mark: they may be run again."""

_pack: Any = msgpack.Packer(use_bin_type=True, autoreset=True).pack


def pack_call(call: Call) -> bytes:
    """Return a call as bytes, without its last argument."""
    name, keys, args = call
    return cast(bytes, _pack((name, tuple(keys), tuple(args[:-1]))))


def unpack_call(body: bytes, made_us: int) -> Call:
    """Return the call in `body`, made at that time."""
    name, keys, args = msgpack.unpackb(body, use_list=False)
    return name, keys, (*args, made_us)
