"""A write whose caller has gone never lands over a newer one of the same process.

Each test stalls the path of one connection with the older write on it, has the newer
write acknowledged over another one, and lets the old path wake.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable

import pytest
from redis.exceptions import RedisError

from mcp_crew_redis._core.breaker import BreakerSettings
from mcp_crew_redis.errors import OperationTimeoutError
from mcp_crew_redis.testing import FaultProxy
from tests.integration.core.bench import CT, eventually, landed, outcome, split, wire
from tests.rig.servers import RealServer
from tests.rig.waiting import wait_until

BIG = b"1" * 200_000


@pytest.fixture
async def proxy(own_server: RealServer) -> AsyncIterator[FaultProxy]:
    async with FaultProxy(own_server.unix_socket) as proxy:
        yield proxy


async def transaction(client, value) -> object:
    """Write `value` in a MULTI over a dedicated connection."""
    async with client.pipeline() as pipe:
        pipe.set("k", value)
        return await pipe.execute()


async def test_write_of_a_timed_out_caller_never_lands(own_server, proxy):
    """Lane killed at twice the timeout; its stray dies before the next write leaves."""
    async with wire(proxy.client_kwargs) as client:
        await client.set("k", "v0")
        old = split(proxy)
        old.stall()

        assert isinstance(await outcome(client.set("k", "v1")), OperationTimeoutError)
        await eventually(lambda: client.set("k", "v2"), "the newer write is stored")

        assert await landed(old, own_server, "k") == b"v2"


async def test_write_of_a_cancelled_caller_never_lands(own_server, proxy):
    """A caller's own deadline changes nothing: the slot stays, the lane is killed."""
    async with wire(proxy.client_kwargs) as client:
        await client.set("k", "v0")
        old = split(proxy)
        old.stall()

        with pytest.raises(TimeoutError):
            async with asyncio.timeout(CT / 10):
                await client.set("k", "v1")
        await eventually(lambda: client.set("k", "v2"), "the newer write is stored")

        assert await landed(old, own_server, "k") == b"v2"


async def test_abandoned_transaction_never_lands(own_server, proxy):
    """A dedicated connection given up unanswered is killed before the next write."""
    async with wire(proxy.client_kwargs) as client:
        await client.set("k", "v0")
        split(proxy)
        await transaction(client, "v0")
        dedicated = split(proxy)
        dedicated.stall()

        assert isinstance(await outcome(transaction(client, "v1")), Exception)
        await eventually(lambda: client.set("k", "v2"), "the newer write is stored")

        assert await landed(dedicated, own_server, "k") == b"v2"


async def test_cancelled_transaction_never_lands(own_server, proxy):
    """The same when the caller of the transaction was cancelled."""
    async with wire(proxy.client_kwargs) as client:
        await client.set("k", "v0")
        split(proxy)
        await transaction(client, "v0")
        dedicated = split(proxy)
        dedicated.stall()

        with pytest.raises(TimeoutError):
            async with asyncio.timeout(CT / 10):
                await transaction(client, "v1")
        await eventually(lambda: client.set("k", "v2"), "the newer write is stored")

        assert await landed(dedicated, own_server, "k") == b"v2"


async def test_transaction_on_a_redialled_connection_never_lands(own_server, proxy):
    """A pooled connection that was dialled again is known by its new id."""
    async with wire(proxy.client_kwargs) as client:
        await client.set("k", "v0")
        split(proxy)
        await transaction(client, "v0")
        lane_id = await client.client_id()
        for other in await client.client_list():
            if int(other["id"]) != lane_id:
                own_server.execute("CLIENT", "KILL", "ID", other["id"])
        await wait_until(lambda: proxy.open_count == 1, "the kill has arrived")
        await eventually(lambda: transaction(client, "v0"), "dialled again")
        dedicated = split(proxy)
        dedicated.stall()

        assert isinstance(await outcome(transaction(client, "v1")), Exception)
        await eventually(lambda: client.set("k", "v2"), "the newer write is stored")

        assert await landed(dedicated, own_server, "k") == b"v2"


async def test_transaction_before_any_lane_never_lands(own_server, proxy):
    """A process whose first command is a transaction has strays like any other."""
    async with wire(proxy.client_kwargs) as client:
        await transaction(client, "v0")
        dedicated = split(proxy)
        dedicated.stall()

        assert isinstance(await outcome(transaction(client, "v1")), Exception)
        await eventually(lambda: client.set("k", "v2"), "the newer write is stored")

        assert await landed(dedicated, own_server, "k") == b"v2"


async def test_transaction_after_a_restart_never_lands(own_server, proxy):
    """A dedicated connection belongs to the server process it was dialled to."""
    async with wire(proxy.client_kwargs) as client:
        await client.set("k", "v0")
        await transaction(client, "v0")
        own_server.restart()
        await wait_until(lambda: proxy.open_count == 0, "the end has arrived")
        await eventually(lambda: transaction(client, "v0"), "dialled again")
        dedicated = split(proxy)
        dedicated.stall()

        assert isinstance(await outcome(transaction(client, "v1")), Exception)
        await eventually(lambda: client.set("k", "v2"), "the newer write is stored")

        assert await landed(dedicated, own_server, "k") == b"v2"


async def test_transaction_dialling_while_a_lane_dies_waits_for_its_stray(
    own_server, proxy
):
    """A stray that appears between admission and the dial's end gates the dial too."""
    slow_probe = BreakerSettings(probe_base=30.0, probe_cap=30.0)
    async with wire(proxy.client_kwargs, breaker=slow_probe) as client:
        await client.set("k", "v0")
        old = split(proxy)
        old.stall()
        proxy.requests.delay = CT * 0.7  # several round trips: longer than 2x CT

        async with asyncio.TaskGroup() as group:
            first = group.create_task(outcome(client.set("k", "v1")))
            await proxy_holds(old, b"v1")
            second = group.create_task(outcome(transaction(client, "v2")))
        assert isinstance(first.result(), OperationTimeoutError)

        final = await landed(old, own_server, "k")
        assert (second.result() == [True]) <= (final == b"v2")


async def proxy_holds(path, pattern) -> None:
    """Wait until `pattern` has entered the path."""
    async with asyncio.timeout(5.0):
        await path.wait_for(pattern)


async def test_write_on_an_own_connection_never_lands(own_server, proxy):
    """`client()` gives up its connection like every other."""
    async with wire(proxy.client_kwargs) as client:
        await client.set("k", "v0")
        split(proxy)
        async with client.client() as own:
            await own.set("k", "v0")
            dedicated = split(proxy)
            dedicated.stall()
            assert isinstance(await outcome(own.set("k", "v1")), Exception)
            await eventually(lambda: client.set("k", "v2"), "the newer write is stored")

            assert await landed(dedicated, own_server, "k") == b"v2"


async def test_write_after_watch_never_lands(own_server, proxy):
    """An immediate command of a watching pipeline is given up like every other."""
    async with wire(proxy.client_kwargs) as client:
        await client.set("k", "v0")
        split(proxy)
        async with client.pipeline() as pipe:
            await pipe.watch("other")
            dedicated = split(proxy)
            dedicated.stall()
            assert isinstance(await outcome(pipe.set("k", "v1")), Exception)
        await eventually(lambda: client.set("k", "v2"), "the newer write is stored")

        assert await landed(dedicated, own_server, "k") == b"v2"


async def test_large_write_of_a_timed_out_caller_never_lands(own_server, proxy):
    """A bulk lane that was killed is a stray for the interactive lane as well."""
    async with wire(proxy.client_kwargs) as client:
        await client.set("k", "v0")
        split(proxy)
        await client.set("warm", BIG)
        bulk = split(proxy)
        bulk.stall()

        assert isinstance(await outcome(client.set("k", BIG)), OperationTimeoutError)
        await eventually(lambda: client.set("k", "v2"), "the newer write is stored")

        assert await landed(bulk, own_server, "k") == b"v2"


async def test_small_write_follows_an_unanswered_large_one_of_its_key(
    own_server, proxy
):
    """Before the kill already: a pinned key stays on its lane, so order holds."""
    async with wire(proxy.client_kwargs) as client:
        await client.set("k", "v0")
        split(proxy)
        await client.set("warm", BIG)
        bulk = split(proxy)
        bulk.stall()
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(CT / 10):
                await client.set("k", BIG)

        async with asyncio.TaskGroup() as group:
            second = group.create_task(outcome(client.set("k", "v2")))
            await asyncio.sleep(CT / 10)
            bulk.release()

        assert second.result() is True
        assert own_server.execute("GET", "k") == b"v2"


async def test_key_given_as_a_number_is_pinned_too(own_server, proxy):
    """redis-py takes `set(7, ...)`: the key is "7" and is kept in order likewise."""
    async with wire(proxy.client_kwargs) as client:
        await client.set("k", "v0")
        split(proxy)
        await client.set("warm", BIG)
        bulk = split(proxy)
        bulk.stall()
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(CT / 10):
                await client.set(7, BIG)

        async with asyncio.TaskGroup() as group:
            second = group.create_task(outcome(client.set("7", "v2")))
            await asyncio.sleep(CT / 10)
            bulk.release()

        assert second.result() is True
        assert await landed(bulk, own_server, "7") == b"v2"


async def test_large_write_waits_for_an_unanswered_small_one(own_server, proxy):
    """A large write leaves when the interactive lane has answered what it holds."""
    async with wire(proxy.client_kwargs) as client:
        await client.set("k", "v0")
        interactive = split(proxy)
        await client.set("warm", BIG)
        interactive.stall()
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(CT / 10):
                await client.set("k", "v1")

        newer = await outcome(client.set("k", BIG))

        final = await landed(interactive, own_server, "k")
        assert newer is not True or final == BIG


async def test_small_write_during_the_bulk_dial_does_not_land_later(own_server, proxy):
    """Whichever lane it takes while the bulk lane is dialled for its key."""
    async with wire(proxy.client_kwargs) as client:
        await client.set("k", "v0")
        interactive = split(proxy)
        proxy.requests.delay = CT / 20  # the dial of the bulk lane takes a while

        async with asyncio.TaskGroup() as group:
            newer = group.create_task(outcome(client.set("k", BIG)))
            await wait_until(lambda: proxy.connection_count == 2, "the bulk dial")
            interactive.stall()
            older = group.create_task(outcome(client.set("k", "v1")))
            await asyncio.sleep(CT / 50)
            older.cancel()

        final = await landed(interactive, own_server, "k")
        assert newer.result() is not True or final == BIG


async def test_transaction_that_dials_does_not_overtake_a_write_abandoned_meanwhile(
    own_server, proxy
):
    """What was sent before the transaction leaves comes first, also during its dial."""
    async with wire(proxy.client_kwargs) as client:
        await client.set("k", "v0")
        old = split(proxy)
        proxy.requests.delay = CT / 10

        async with asyncio.TaskGroup() as group:
            newer = group.create_task(outcome(transaction(client, "v2")))
            await wait_until(lambda: proxy.connection_count == 2, "it dials")
            old.stall()
            older = group.create_task(outcome(client.set("k", "v1")))
            await proxy_holds(old, b"v1")
            older.cancel()

        final = await landed(old, own_server, "k")
        assert newer.result() != [True] or final == b"v2"


async def test_own_connection_does_not_overtake_an_abandoned_write(own_server, proxy):
    """A connection that was taken before is held to the same rule."""
    async with wire(proxy.client_kwargs) as client:
        await client.set("k", "v0")
        old = split(proxy)
        async with client.client() as own:
            await own.ping()
            old.stall()
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(CT / 10):
                    await client.set("k", "v1")

            newer = await outcome(own.set("k", "v2"))

            final = await landed(old, own_server, "k")
            assert newer is not True or final == b"v2"


async def test_watching_transaction_does_not_overtake_a_stray(own_server, proxy):
    """The same for a transaction whose connection was taken by its WATCH."""
    async with wire(proxy.client_kwargs) as client:
        await client.set("k", "v0")
        old = split(proxy)
        async with client.pipeline() as pipe:
            await pipe.watch("other")
            old.stall()
            await outcome(client.set("k", "v1"))
            pipe.multi()
            pipe.set("k", "v2")

            newer = await outcome(pipe.execute())

            final = await landed(old, own_server, "k")
            assert newer != [True] or final == b"v2"


async def test_write_on_a_redialled_own_connection_never_lands(own_server, proxy):
    """redis-py dials again inside of its send: that write is accounted for as well."""
    async with wire(proxy.client_kwargs) as client:
        await client.set("k", "v0")
        split(proxy)
        async with client.client() as own:
            await own.ping()
            split(proxy).stall()
            await outcome(own.get("k"))  # times out: closed by redis-py
            await eventually(client.ping, "its stray is gone")
            proxy.requests.delay = CT / 20
            again = proxy.requests
            async with asyncio.TaskGroup() as group:
                older = group.create_task(outcome(own.set("k", "v1")))
                await proxy_holds(again, b"v1")
                again.stall()
                split(proxy)
            assert isinstance(older.result(), Exception)

            await eventually(lambda: client.set("k", "v2"), "the newer write is stored")

            assert await landed(again, own_server, "k") == b"v2"


async def test_kill_refused_while_a_script_runs_keeps_the_stray(own_server, proxy):
    """-BUSY is not a refusal by ACL: the stray must die before anything is sent."""
    own_server.execute("CONFIG", "SET", "busy-reply-threshold", 20)
    async with wire(proxy.client_kwargs) as client:
        await client.set("k", "v0")
        split(proxy)
        await transaction(client, "v0")
        dedicated = split(proxy)
        dedicated.stall()
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(CT / 10):
                await transaction(client, "v1")
            # Cancelled: the stray is reported; now the server becomes busy.

    # The same with the server busy before the stray is reported.
    async with wire(proxy.client_kwargs) as client:
        await client.set("k", "v0")
        split(proxy)
        await transaction(client, "v0")
        dedicated = split(proxy)
        dedicated.stall()
        with busy(own_server):
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(CT / 10):
                    await transaction(client, "v1")
            await asyncio.sleep(CT / 4)
        await eventually(lambda: client.set("k", "v2"), "the newer write is stored")

        assert await landed(dedicated, own_server, "k") == b"v2"


def busy(server: RealServer):
    """Keep the server in an endless script for the length of a block."""
    import contextlib
    import socket

    @contextlib.contextmanager
    def endless():
        with socket.socket(socket.AF_UNIX) as client:
            client.connect(server.unix_socket)
            client.sendall(b"EVAL 'while true do end' 0\r\n")
            with contextlib.suppress(RedisError):
                while True:
                    server.execute("PING")
            try:
                yield
            finally:
                server.execute("SCRIPT", "KILL")

    return endless()


async def test_second_stray_survives_the_first_one_killed_twice(own_server, proxy):
    """A dial and a settling that end the same stray do not forget another one."""
    async with wire(proxy.client_kwargs) as client:
        await client.set("k", "v0")
        interactive = split(proxy)
        await transaction(client, "v0")
        first = split(proxy)
        async with client.client() as own:  # occupies the first dedicated connection
            first.stall()
            async with asyncio.TaskGroup() as group:
                group.create_task(outcome(transaction(client, "v0")))
            second = split(proxy)
            interactive.delay = CT / 2  # the settling's CLIENT KILL takes a while
            second.stall()
            lost = [outcome(own.blpop("nothing", 0.01))]
            async with asyncio.TaskGroup() as group:
                for call in lost:
                    group.create_task(call)
                group.create_task(outcome(cancelled(transaction(client, "v1"))))
                group.create_task(outcome(client.set("other", BIG)))
        await eventually(lambda: client.set("k", "v2"), "the newer write is stored")

        assert await landed(second, own_server, "k") == b"v2"


async def cancelled(awaitable) -> object:
    """Await with a deadline shorter than the command timeout."""
    async with asyncio.timeout(CT / 10):
        return await awaitable


async def test_resp2_client_kills_its_strays_too(own_server, proxy):
    """Without HELLO the connection's id is asked for, or health says it is unknown."""
    kwargs = {**proxy.client_kwargs, "protocol": 2}
    async with wire(kwargs) as client:
        await client.set("k", "v0")
        old = split(proxy)
        old.stall()

        assert isinstance(await outcome(client.set("k", "v1")), OperationTimeoutError)
        await eventually(lambda: client.set("k", "v2"), "the newer write is stored")

        final = await landed(old, own_server, "k")
        assert final == b"v2" or client.statistics().kill_refused


async def test_transaction_does_not_overtake_an_abandoned_write(own_server, proxy):
    """An abandoned write on a lane that is not yet given up comes first as well."""
    async with wire(proxy.client_kwargs) as client:
        await client.set("k", "v0")
        old = split(proxy)
        await transaction(client, "v0")
        old.stall()
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(CT / 10):
                await client.set("k", "v1")

        newer = await outcome(transaction(client, "v2"))

        final = await landed(old, own_server, "k")
        assert newer != [True] or final == b"v2"


async def test_kill_refused_by_acl_is_told_and_work_goes_on(
    make_server: Callable[..., RealServer],
):
    """Where CLIENT KILL is forbidden the client works and its statistics say so."""
    server = make_server("valkey")
    server.execute("ACL", "SETUSER", "meek", "on", ">pw", "~*", "&*", "+@all",
                   "-client|kill")  # fmt: skip
    login = {"username": "meek", "password": "pw"}
    async with (
        FaultProxy(server.unix_socket) as proxy,
        wire({**proxy.client_kwargs, **login}) as client,
    ):
        await client.set("k", "v0")
        old = split(proxy)
        old.stall()
        await outcome(client.set("k", "v1"))

        await eventually(lambda: client.set("k", "v2"), "it works again")

        assert client.statistics().kill_refused
        assert client.statistics().strays == 0


async def test_kill_refused_over_a_living_lane_is_told(
    make_server: Callable[..., RealServer],
):
    """The same when the stray was a dedicated connection and the lane lived on."""
    server = make_server("valkey")
    server.execute("ACL", "SETUSER", "meek", "on", ">pw", "~*", "&*", "+@all",
                   "-client|kill")  # fmt: skip
    login = {"username": "meek", "password": "pw"}
    async with (
        FaultProxy(server.unix_socket) as proxy,
        wire({**proxy.client_kwargs, **login}) as client,
    ):
        await client.set("k", "v0")
        split(proxy)
        await transaction(client, "v0")
        dedicated = split(proxy)
        dedicated.stall()
        await outcome(transaction(client, "v1"))

        await eventually(lambda: client.set("k", "v2"), "it works again")

        assert client.statistics().kill_refused


async def test_restarted_server_kills_no_innocent(own_server, proxy):
    """Ids of another server process mean nothing: strays are forgotten, none killed."""
    async with wire(proxy.client_kwargs) as client:
        await client.set("k", "v0")
        old = split(proxy)
        old.stall()
        own_server.pause()
        await outcome(client.set("k", "v1"))
        own_server.restart()
        killed = own_server.info("commandstats").get("cmdstat_client|kill", {})

        await eventually(lambda: client.set("k", "v2"), "it works again")

        after = own_server.info("commandstats").get("cmdstat_client|kill", {})
        assert killed.get("calls", 0) == after.get("calls", 0)
        assert client.statistics().strays == 0
