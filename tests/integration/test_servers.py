"""The rig's servers are real, clean and controllable."""

import asyncio

import pytest
import redis
import redis.asyncio

from tests.rig.waiting import wait_until


async def test_a_client_speaks_to_every_server(any_server):
    """Each kind of server answers redis-py over its unix socket."""
    async with redis.asyncio.Redis(**any_server.client_kwargs) as client:
        assert await client.set("k", "v")
        assert await client.get("k") == b"v"


@pytest.mark.parametrize("_round", [1, 2])
def test_a_server_is_empty_at_each_start(server, _round):
    """Keys and scripts of one test are not seen by the next."""
    assert server.execute("DBSIZE") == 0

    server.execute("SET", "k", "v")


@pytest.mark.every_server
def test_the_mark_runs_a_test_everywhere(server):
    """Each kind tells its name, version and pid."""
    assert server.version_tuple >= (7, 0)
    assert server.info("server")["process_id"] == server.pid


def test_the_cluster_refuses_what_crosses_slots(session_servers):
    """The one-node cluster owns all slots and enforces them."""
    clustered = session_servers("clustered")

    clustered.execute("MSET", "{a}1", "v", "{a}2", "v")
    with pytest.raises(redis.ResponseError, match=r"CROSSSLOT|hash to the same"):
        clustered.execute("MSET", "a", "v", "b", "v")


def test_a_restart_keeps_or_drops_the_data(own_server):
    """A restart is another process on the same socket, with the data as asked."""
    own_server.execute("SET", "k", "v")
    first = own_server.pid

    own_server.restart(keep_data=True)
    assert own_server.execute("GET", "k") == b"v"
    own_server.restart(keep_data=False)

    assert own_server.execute("GET", "k") is None
    assert own_server.pid != first


def test_a_paused_server_is_silent_until_resumed(own_server):
    """SIGSTOP leaves the connection and takes the answer."""
    with own_server.paused(), pytest.raises(redis.TimeoutError):
        own_server.execute("PING", timeout=0.05)

    assert own_server.execute("PING")


def test_a_private_server_listens_on_tcp_with_a_password(make_server):
    """The factory passes options, port and password on."""
    server = make_server("valkey", "--requirepass", "pw", tcp=True, password="pw")

    with redis.Redis(**server.tcp_kwargs) as client:
        assert client.ping()


async def test_wait_until_tells_what_it_waited_for():
    """A wait in vain fails with its description."""
    with pytest.raises(AssertionError, match=r"waited 0\.01 s .* the sky falls"):
        await wait_until(lambda: False, "the sky falls", timeout=0.01)


async def test_wait_until_awaits_its_predicate():
    """The predicate may be a coroutine function."""
    event = asyncio.Event()
    asyncio.get_running_loop().call_soon(event.set)

    await wait_until(event.wait, "the event is set")
