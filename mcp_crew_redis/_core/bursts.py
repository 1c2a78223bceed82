"""Many commands in one go, each with an outcome of its own; and with replicas.

`script_batches` is for what can be repeated as a whole; here each command that writes
has to be told whether it was executed.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from typing import Any, cast

from redis import exceptions as redis_errors

from mcp_crew_redis._core.dedicated import DedicatedPool
from mcp_crew_redis._core.lane import Slot
from mcp_crew_redis._core.port import Port, translated, translating
from mcp_crew_redis._core.resp import pack_command
from mcp_crew_redis._core.script_batches import Call
from mcp_crew_redis._core.scripts import Argument
from mcp_crew_redis._core.seam import close_quietly
from mcp_crew_redis._core.translation import translate

__all__ = ["Command", "run_each", "run_replicated", "send_each", "send_replicated"]

Command = Sequence[Argument]


async def send_each(port: Port, commands: Sequence[Command]) -> list[Any]:
    """Send commands in one round trip and return a raw reply or our error for each.

    They keep their order. Cancelled, any of them may have been executed.

    Raises:
        UnavailableError: Nothing was sent.
    """
    if not commands:
        return []
    packed = [pack_command(tuple(command)) for command in commands]
    node = port.client.node
    is_bulk = sum(map(len, packed)) > node.settings.bulk_bytes
    with translating():
        lane = await node.admission.acquire(is_bulk=is_bulk)
    slots: list[Slot] = []
    try:
        # One write: the bytes of all go with the first. The bulk lane would make one
        # of each, which costs more than all the rest.
        slots.append(lane.submit(b"".join(packed)))
        slots += [lane.submit(b"") for _ in packed[1:]]
        with suppress(Exception):  # in order: with the last one all are answered
            await slots[-1]
    except BaseException:
        for slot in slots:
            slot.cancel()  # a reply that nobody waits for is dropped
        raise
    return [_reply(slot) for slot in slots]


def _reply(slot: Slot) -> Any:
    error = slot.exception()
    return slot.result() if error is None else _ours(error)


def _ours(error: BaseException) -> Exception:
    if not isinstance(error, Exception):
        raise error
    told = translate(error)
    if not isinstance(told, redis_errors.RedisError):
        return told
    ours: Exception = translated(told)
    if ours is not told:
        ours.__cause__ = told
    return ours


async def run_each(port: Port, calls: Sequence[Call]) -> list[Any]:
    """Run scripts as `send_each` sends commands.

    Raises:
        UnavailableError: Nothing was sent.
    """
    replies: list[Any] = await send_each(port, _commands(port, calls))
    missing = [at for at, reply in enumerate(replies) if _is_missing(reply)]
    if missing:  # those were not executed
        again = _commands(port, [calls[at] for at in missing], are_unknown=True)
        for at, reply in zip(missing, await send_each(port, again), strict=True):
            replies[at] = reply
    return replies


async def send_replicated(
    port: Port, commands: Sequence[Command], *, replicas: int = 1
) -> tuple[list[Any], int]:
    """Send commands on a connection of their own and wait for replicas to have them.

    Returns:
        Raw replies, our errors in their places; and how many replicas acknowledged
        all of it within the operation timeout.

    Raises:
        UnavailableError: OutcomeUnknownError or a timeout that had sent: any of them
            may have been executed. Others: nothing was sent.
    """
    client = port.client
    timeout = client.node.settings.command_timeout
    wait = ("WAIT", replicas, max(1, round(timeout * 1_000)))
    pool = cast(DedicatedPool, client.connection_pool)
    with translating():
        connection: Any = await pool.get_connection()
        usual = connection.socket_timeout
        connection.socket_timeout = timeout + client.node.settings.dedicated_timeout
        is_answered = False
        try:
            replies = await connection.ask(*map(tuple, commands), wait)
            is_answered = True
        finally:
            connection.socket_timeout = usual
            if not is_answered:
                close_quietly(connection)
            await pool.put_back(connection)
    *told, acknowledged = [
        _ours(reply) if isinstance(reply, Exception) else reply for reply in replies
    ]
    return told, acknowledged if isinstance(acknowledged, int) else 0


async def run_replicated(
    port: Port, calls: Sequence[Call], *, replicas: int = 1
) -> tuple[list[Any], int]:
    """Run scripts as `send_replicated` sends commands; raises as that."""
    commands = _commands(port, calls)
    replies, count = await send_replicated(port, commands, replicas=replicas)
    missing = [at for at, reply in enumerate(replies) if _is_missing(reply)]
    if missing:
        again = _commands(port, [calls[at] for at in missing], are_unknown=True)
        rest, count = await send_replicated(port, again, replicas=replicas)
        for at, reply in zip(missing, rest, strict=True):
            replies[at] = reply
    return replies, count


def _is_missing(reply: object) -> bool:
    cause = reply.__cause__ if isinstance(reply, Exception) else None
    return isinstance(cause, redis_errors.NoScriptError)


def _commands(
    port: Port, calls: Sequence[Call], *, are_unknown: bool = False
) -> list[Command]:
    commands: list[Command] = []
    brought: set[str] = set()
    for name, keys, args in calls:
        script = port.scripts.load(name)
        script.check(keys, args)
        is_brought = not are_unknown or name in brought
        brought.add(name)
        head = ("EVALSHA", script.sha) if is_brought else ("EVAL", script.source)
        commands.append((*head, len(keys), *keys, *args))
    return commands
