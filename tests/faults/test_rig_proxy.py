"""The fault proxy breaks what it says, when it says, and nothing else."""

import asyncio
import contextlib

import pytest

from mcp_crew_redis.testing import FaultProxy
from tests.rig.waiting import wait_until


@contextlib.asynccontextmanager
async def dialled(proxy):
    """One raw connection through the proxy."""
    if proxy.client_kwargs.get("port"):
        streams = await asyncio.open_connection("127.0.0.1", proxy.port)
    else:
        streams = await asyncio.open_unix_connection(proxy.unix_socket)
    reader, writer = streams
    try:
        yield reader, writer
    finally:
        writer.close()
        with contextlib.suppress(OSError):
            await writer.wait_closed()


async def ask(streams, command):
    reader, writer = streams
    writer.write(command + b"\r\n")
    async with asyncio.timeout(5):
        return await reader.readline()


@pytest.fixture(params=["unix", "tcp"])
async def proxy(request, server):
    async with FaultProxy(server.unix_socket, tcp=request.param == "tcp") as proxy:
        yield proxy


@pytest.fixture
async def tcp_proxy(server):
    async with FaultProxy(server.unix_socket, tcp=True) as proxy:
        yield proxy


async def test_a_healthy_path_changes_nothing(proxy):
    """Requests and replies pass unchanged and are counted."""
    async with dialled(proxy) as streams:
        assert await ask(streams, b"PING") == b"+PONG\r\n"
        assert proxy.open_count == 1

    assert proxy.requests.byte_count == len(b"PING\r\n")
    assert proxy.replies.byte_count == len(b"+PONG\r\n")
    await wait_until(lambda: proxy.open_count == 0, "the proxy sees the close")


async def test_a_large_reply_passes_whole(proxy, server):
    """Backpressure loses no byte."""
    server.execute("SET", "big", b"x" * 20_000_000)

    async with dialled(proxy) as (reader, writer):
        writer.write(b"GET big\r\n")
        head = await reader.readline()
        body = await reader.readexactly(20_000_000)

    assert head == b"$20000000\r\n"
    assert body == b"x" * 20_000_000


async def test_a_stalled_reply_arrives_after_release(proxy, server):
    """The server has executed; the client learns of it when the path wakes."""
    async with dialled(proxy) as (reader, writer):
        proxy.replies.stall()
        writer.write(b"INCR n\r\n")
        await proxy.wait_for_reply(b":1\r\n")
        assert proxy.replies.held_count == 4
        assert server.execute("GET", "n") == b"1"

        proxy.replies.release()

        assert await reader.readline() == b":1\r\n"


async def test_a_stalled_write_lands_after_its_sender_has_gone(proxy, server):
    """A path that wakes delivers what a closed connection had written before."""
    proxy.requests.stall()
    async with dialled(proxy) as (_, writer):
        writer.write(b"SET k late\r\n")
        await proxy.wait_for_request(b"SET k late")
    server.execute("SET", "k", "newer")

    proxy.requests.release()

    await wait_until(lambda: server.execute("GET", "k") == b"late", "it has landed")


async def test_a_stalled_path_fills_and_then_blocks_its_sender(proxy):
    """Beyond the path's buffer the sender's own transport has to wait."""
    proxy.requests.stall()
    async with dialled(proxy) as (_, writer):
        writer.write(b"x" * 20_000_000)
        await wait_until(lambda: proxy.requests.held_count > 0, "it holds something")

        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.05):
                await writer.drain()
        writer.transport.abort()


async def test_a_delay_delays_each_piece(proxy):
    """A reply takes the delay of both directions."""
    proxy.requests.delay = proxy.replies.delay = 0.03
    loop = asyncio.get_running_loop()

    async with dialled(proxy) as streams:
        start = loop.time()
        await ask(streams, b"PING")

    assert loop.time() - start >= 0.06


async def test_a_trickle_passes_a_few_bytes_at_a_time(proxy):
    """What was one piece arrives in many."""
    proxy.replies.trickle = 1
    async with dialled(proxy) as (reader, writer):
        writer.write(b"PING\r\n")

        pieces = [await reader.read(100) for _ in range(7)]

    assert b"".join(pieces) == b"+PONG\r\n"


async def test_a_swallowing_path_is_silent(proxy):
    """Half-open: the connection stands and nothing comes."""
    proxy.requests.is_swallowing = True
    async with dialled(proxy) as (reader, writer):
        writer.write(b"PING\r\n")
        await proxy.wait_for_request(b"PING")

        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.05):
                await reader.read(1)
        assert proxy.open_count == 1


async def test_a_cut_ends_every_connection(proxy):
    """Both ends see the end of the stream."""
    async with dialled(proxy) as streams, dialled(proxy) as others:
        await ask(streams, b"PING")
        await ask(others, b"PING")

        proxy.cut()

        assert await streams[0].read() == b""
        assert await others[0].read() == b""


async def test_a_reset_is_a_reset(tcp_proxy):
    """Over TCP the client gets RST, not FIN."""
    async with dialled(tcp_proxy) as streams:
        await ask(streams, b"PING")

        tcp_proxy.reset()

        with pytest.raises(ConnectionResetError):
            await streams[0].read()


async def test_a_dropped_reply_was_executed(proxy, server):
    """The request reaches the server, its reply nobody, and the connection ends."""
    proxy.drop_reply_to(b"INCR")
    async with dialled(proxy) as streams:
        assert await ask(streams, b"PING") == b"+PONG\r\n"
        assert await ask(streams, b"INCR n") == b""
        await proxy.wait_for_dropped_reply()
    assert server.execute("GET", "n") == b"1"

    async with dialled(proxy) as streams:
        assert await ask(streams, b"INCR n") == b":2\r\n"


async def test_refusing_and_accepting_keep_the_address(proxy):
    """New connections are refused until the proxy accepts again, present ones stay."""
    async with dialled(proxy) as streams:
        await ask(streams, b"PING")
        proxy.refuse()

        with pytest.raises((ConnectionRefusedError, FileNotFoundError)):
            async with dialled(proxy):
                pass
        assert await ask(streams, b"PING") == b"+PONG\r\n"

    await proxy.accept()
    async with dialled(proxy) as streams:
        assert await ask(streams, b"PING") == b"+PONG\r\n"


async def test_a_request_can_be_waited_for_before_it_comes(proxy):
    """The signal fires for what has passed and for what is still to come."""
    async with dialled(proxy) as (reader, writer), asyncio.TaskGroup() as group:
        waiting = group.create_task(proxy.wait_for_request(b"PING", count=2))
        writer.write(b"PING\r\n")
        await reader.readline()
        assert not waiting.done()
        writer.write(b"PING\r\n")
        await reader.readline()

    await proxy.wait_for_request(b"PING", count=2)


async def test_a_dead_server_is_a_dead_path(make_server):
    """When the server dies, its connections end and new ones get nowhere."""
    own_server = make_server("valkey")
    async with FaultProxy(own_server.unix_socket) as proxy:
        async with dialled(proxy) as streams:
            await ask(streams, b"PING")
            own_server.kill()
            assert await streams[0].read() == b""
        async with dialled(proxy) as streams:
            assert await streams[0].read() == b""
