"""The private members of redis-py that the wire touches are still where they were.

A failure here after an upgrade of redis-py names what moved; everything else that
fails then is probably its consequence.
"""

from __future__ import annotations

import asyncio
import inspect

import pytest
import redis
from redis._parsers.base import BaseParser
from redis.asyncio.client import Pipeline
from redis.asyncio.connection import (
    AbstractConnection,
    BlockingConnectionPool,
    Connection,
    SSLConnection,
    UnixDomainSocketConnection,
)
from redis.client import EMPTY_RESPONSE, NEVER_DECODE

from mcp_crew_redis._core.seam import (
    close_quietly,
    crew_connection_class,
    dialled,
    hand_over,
    never_retry,
)


class Listener(asyncio.Protocol):
    """Takes a transport over."""

    def __init__(self) -> None:
        self.data = asyncio.Queue[bytes]()

    def data_received(self, data: bytes) -> None:
        self.data.put_nowait(data)


@pytest.mark.parametrize(
    "kind", [Connection, SSLConnection, UnixDomainSocketConnection]
)
def test_connection_classes_have_what_we_override(kind):
    """Coroutines stay coroutines, plain functions plain."""
    for name in ("_connect", "on_connect_check_health", "send_command",
                 "read_response", "disconnect", "connect"):  # fmt: skip
        assert inspect.iscoroutinefunction(getattr(kind, name)), name
    for name in ("_close", "_connection_arguments", "pack_commands"):
        found = getattr(kind, name, None)
        if name == "_connection_arguments" and kind is UnixDomainSocketConnection:
            continue  # it has a path only
        assert callable(found), name
        assert not inspect.iscoroutinefunction(found), name
    assert crew_connection_class(kind) is not kind
    assert issubclass(crew_connection_class(kind), kind)


def test_connection_class_of_a_user_stays():
    """We know nothing of it."""

    class Mine(Connection):
        pass

    assert crew_connection_class(Mine) is Mine


async def test_connected_connection_has_its_streams(server):
    """`_reader`, `_writer` and the reader's `_buffer` are what we take over."""
    kind = crew_connection_class(UnixDomainSocketConnection)
    connection = kind(path=server.unix_socket, protocol=3, retry=never_retry())
    await dialled(connection)
    assert isinstance(connection._reader, asyncio.StreamReader)
    assert isinstance(connection._writer, asyncio.StreamWriter)
    assert isinstance(connection._reader._buffer, bytearray)
    close_quietly(connection)
    assert not connection.is_connected


async def test_transport_handed_over_speaks_to_its_new_owner(server):
    """And redis-py's connection has forgotten it: its end does not end ours."""
    kind = crew_connection_class(UnixDomainSocketConnection)
    connection = kind(path=server.unix_socket, protocol=3, retry=never_retry())
    await dialled(connection)
    listener = Listener()
    handover = hand_over(connection, listener)
    assert isinstance(handover.client_id, int)
    assert not connection.is_connected
    await connection.disconnect()

    handover.transport.write(b"PING\r\n")
    async with asyncio.timeout(1.0):
        assert await listener.data.get() == b"+PONG\r\n"
    handover.transport.abort()


def test_pool_has_what_we_use():
    """Bounded, with a timeout, and a place to make connections."""
    parameters = inspect.signature(BlockingConnectionPool.__init__).parameters
    assert {"max_connections", "timeout", "connection_class"} <= set(parameters)
    for name in ("get_connection", "release", "ensure_connection", "disconnect"):
        assert inspect.iscoroutinefunction(getattr(BlockingConnectionPool, name)), name
    assert callable(BlockingConnectionPool.can_get_connection)
    assert callable(BlockingConnectionPool.make_connection)


def test_pipeline_has_what_we_read():
    """The attributes that say whether it may travel on a lane."""
    pipe = Pipeline(None, {}, True, None)
    assert (pipe.is_transaction, pipe.explicit_transaction, pipe.watching) == (
        True, False, False
    )  # fmt: skip
    assert (pipe.command_stack, pipe.scripts, pipe.connection) == ([], set(), None)
    assert callable(pipe.raise_first_error)


def test_error_replies_are_classified_by_the_parser():
    """With the code that redis-py takes off the text."""
    error = BaseParser.parse_error("READONLY You can't write")
    assert isinstance(error, redis.exceptions.ReadOnlyError)
    assert error.status_code == "READONLY"
    assert BaseParser.parse_error("MINE own").args == ("MINE own",)


def test_option_names_are_what_they_were():
    """redis-py's commands pass them to execute_command."""
    assert (NEVER_DECODE, EMPTY_RESPONSE) == ("NEVER_DECODE", "EMPTY_RESPONSE")


def test_retry_is_off():
    """One attempt, no pause."""
    assert never_retry().get_retries() == 0


def test_client_decides_single_connection_before_anything_else():
    """`client()` makes one of our class with our pool."""
    source = inspect.getsource(redis.asyncio.Redis.client)
    assert "connection_pool=self.connection_pool" in source
    assert "single_connection_client=True" in source
    assert issubclass(Connection, AbstractConnection)
