"""Many scripts in one round trip, with one admission: all of them leave, or none."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from redis import exceptions as redis_errors

from mcp_crew_redis._core.lane import Lane, Slot
from mcp_crew_redis._core.node import Node
from mcp_crew_redis._core.resp import pack_command
from mcp_crew_redis._core.scripts import Argument, ScriptLoader
from mcp_crew_redis._core.wire_errors import LaneLostError, WireOutcomeUnknownError

__all__ = ["Call", "pack_scripts", "run_scripts"]

Call = tuple[str, Sequence[bytes], Sequence[Argument]]
"""A script's name, its keys and its arguments."""


def pack_scripts(
    calls: Iterable[Call], scripts: ScriptLoader, *, are_unknown: bool
) -> list[bytes]:
    """Return the commands, packed.

    Args:
        calls: What to run, in this order on one connection.
        scripts: Where the scripts are.
        are_unknown: The server may not know them: the first call of each brings the
            source along, which needs no other right than that to run it.
    """
    packed: list[bytes] = []
    brought: set[str] = set()
    for name, keys, args in calls:
        script = scripts.load(name)
        script.check(keys, args)
        head: tuple[str, str] = ("EVALSHA", script.sha)
        if are_unknown and name not in brought:
            brought.add(name)
            head = ("EVAL", script.source)
        packed.append(pack_command((*head, len(keys), *keys, *args)))
    return packed


async def run_scripts(
    node: Node, scripts: ScriptLoader, calls: Sequence[Call]
) -> list[Any]:
    """Run scripts and return their raw replies; redis-py's errors in their places.

    Cancelled, any of them may have been executed.

    Raises:
        UnavailableError: OutcomeUnknownError or a timeout that had sent: any of them
            may have been executed. Others: nothing was sent.
    """
    packed = pack_scripts(calls, scripts, are_unknown=False)
    is_bulk = sum(map(len, packed)) > node.settings.bulk_bytes
    lane = await node.admission.acquire(is_bulk=is_bulk)
    replies = await exchange(lane, packed)
    missing = [
        at
        for at, reply in enumerate(replies)
        if isinstance(reply, redis_errors.NoScriptError)
    ]
    if missing:  # those were not executed
        again = pack_scripts((calls[at] for at in missing), scripts, are_unknown=True)
        # The same lane: refused another place, what was executed would be in doubt.
        for at, reply in zip(missing, await exchange(lane, again), strict=True):
            replies[at] = reply
    return replies


async def exchange(lane: Lane, packed: Iterable[bytes]) -> list[Any]:
    """Submit commands at once and return the replies, errors in their places.

    Raises:
        WireOutcomeUnknownError: The connection ended before the last reply.
        OperationTimeoutError: A reply did not come in time.
    """
    slots: list[Slot] = []
    try:
        slots += [lane.submit(one) for one in packed]
        return [await _answer(slot) for slot in slots]
    except LaneLostError as error:
        raise WireOutcomeUnknownError(
            f"the connection ended ({error.cause}) before all replies"
        ) from error
    finally:
        for slot in slots:
            slot.cancel()  # a reply that nobody waits for is dropped when it comes


async def _answer(slot: Slot) -> Any:
    try:
        return await slot
    except redis_errors.ResponseError as error:
        return error
