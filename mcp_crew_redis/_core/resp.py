"""RESP, the protocol: commands packed by hiredis, replies parsed as redis-py does."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import hiredis
from hiredis import ProtocolError, PushNotification, Reader

from mcp_crew_redis._core.seam import parse_error

__all__ = ["MORE", "ODD", "ProtocolError", "make_reader", "pack_command", "reply_size"]

# Its stub takes tuples of one element only; TypeError for what has no form on the wire.
pack_command: Callable[[tuple[Any, ...]], bytes]
pack_command = hiredis.pack_command

MORE = object()  # hiredis: no complete reply yet; False is a RESP3 boolean
ODD = (Exception, PushNotification)  # what is not simply a result


def make_reader(decoding: tuple[str, str] | None) -> Reader:
    """Return a parser that makes the same objects as redis-py's own."""
    if decoding is None:
        return Reader(replyError=parse_error, notEnoughData=MORE)
    encoding, errors = decoding
    return Reader(
        replyError=parse_error, notEnoughData=MORE, encoding=encoding, errors=errors
    )


def reply_size(reply: object, enough: int) -> int:
    """Return about how many bytes `reply` holds, counting no further than `enough`."""
    if isinstance(reply, (bytes, str)):
        return len(reply)
    if isinstance(reply, dict):
        parts = [part for item in reply.items() for part in item]
    elif isinstance(reply, (list, set)):
        parts = list(reply)
    else:
        return 8
    total = 0
    for part in parts:
        is_leaf = type(part) is bytes
        total += len(part) if is_leaf else reply_size(part, enough - total)
        if total > enough:
            break
    return total
