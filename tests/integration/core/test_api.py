"""The whole of redis-py's API through the wire, on every server."""

from __future__ import annotations

import asyncio

import pytest
import redis.asyncio
from redis import exceptions as redis_errors
from redis.credentials import CredentialProvider

from mcp_crew_redis._core.client import PipelinedRedis
from tests.integration.core.bench import outcome, wire
from tests.rig.waiting import wait_until

pytestmark = pytest.mark.every_server


@pytest.fixture(params=[3, 2], ids=["resp3", "resp2"])
async def client(request, server):
    async with wire({**server.client_kwargs, "protocol": request.param}) as client:
        yield client


@pytest.fixture
async def plain(client, server):
    """redis-py's own client with the same settings: what it says is right."""
    protocol = client.connection_pool.connection_kwargs["protocol"]
    kwargs = {**server.client_kwargs, "protocol": protocol}
    async with redis.asyncio.Redis(**kwargs) as plain:
        yield plain


# --- commands ---------------------------------------------------------------------


async def test_replies_have_the_shapes_of_redis_py(client, plain):
    """Strings, numbers, hashes, sets, sorted sets, streams, None, booleans."""
    await plain.hset("{t}h", mapping={"a": 1, "b": "é"})
    await plain.zadd("{t}z", {"x": 1.5, "y": 2})
    await plain.sadd("{t}s", "m")
    await plain.xadd("{t}x", {"f": "v"}, id="1-1")
    await plain.rpush("{t}l", "1", "2")
    await plain.set("{t}k", "v", px=100_000)
    calls = [
        lambda c: c.hgetall("{t}h"),
        lambda c: c.hmget("{t}h", "a", "nothing"),
        lambda c: c.zrange("{t}z", 0, -1, withscores=True),
        lambda c: c.zscore("{t}z", "x"),
        lambda c: c.smembers("{t}s"),
        lambda c: c.sismember("{t}s", "m"),
        lambda c: c.xrange("{t}x"),
        lambda c: c.xread({"{t}x": "0"}),
        lambda c: c.xinfo_stream("{t}x"),
        lambda c: c.lrange("{t}l", 0, -1),
        lambda c: c.get("{t}nothing"),
        lambda c: c.exists("{t}k", "{t}nothing"),
        lambda c: c.type("{t}k"),
        lambda c: c.mget("{t}k", "{t}nothing"),
        lambda c: c.set("{t}k", "w", nx=True),
        lambda c: c.config_get("maxmemory"),
        lambda c: c.object("ENCODING", "{t}k"),
        lambda c: c.command_getkeys("GET", "k"),
        lambda c: c.geosearch("{t}g", longitude=1, latitude=1, radius=1, unit="km"),
        lambda c: c.script_exists("0" * 40),
        lambda c: c.lastsave(),
        lambda c: c.acl_whoami(),
        lambda c: c.execute_command("lrange", "{t}l", 0, -1),
        lambda c: c.execute_command(b"GET", "{t}k"),
        lambda c: c.execute_command("OBJECT ENCODING", "{t}k"),
        lambda c: c.sort("{t}l", desc=True),
        lambda c: c.mget([]),
    ]
    for number, call in enumerate(calls):
        expected = await outcome(call(plain))
        found = await outcome(call(client))
        assert (number, repr(found)) == (number, repr(expected))
        assert type(found) is type(expected)


async def test_arguments_are_packed_as_by_redis_py(client, plain):
    """Every type that redis-py takes, and its error for what it does not."""
    for value in (1, -2, 1.5, 1e300, b"\x00\xff", "é", bytearray(b"ba"),
                  memoryview(b"mv"), "", 2**63):  # fmt: skip
        await plain.set("a", value)
        await client.set("b", value)
        assert await client.get("b") == await plain.get("a")
    for value in (None, True, [1], {"a": 1}, object()):
        assert isinstance(await outcome(client.set("k", value)), redis_errors.DataError)
    assert isinstance(await outcome(client.set("k", "\ud800")), UnicodeEncodeError)
    assert await client.ping()


async def test_error_replies_are_those_of_redis_py(client, plain):
    """Same class, same text."""
    await plain.set("text", "x")
    calls = [
        lambda c: c.lpush("text", 1),
        lambda c: c.execute_command("NOSUCH", "x"),
        lambda c: c.execute_command("GET"),
        lambda c: c.evalsha("0" * 40, 0),
        lambda c: c.incr("text"),
        lambda c: c.eval("return redis.error_reply('MINE own')", 0),
        lambda c: c.xgroup_create("nostream", "g"),
    ]
    for call in calls:
        expected, found = await outcome(call(plain)), await outcome(call(client))
        assert (type(found), str(found)) == (type(expected), str(expected))
        assert isinstance(found, redis_errors.ResponseError)


async def test_response_callbacks_of_the_user_are_applied(client):
    """Plain and coroutine functions; on lanes, pipelines and any spelling."""

    async def shout(reply: bytes, **_: object) -> bytes:
        return reply.upper()

    client.set_response_callback("GET", lambda reply, **_: reply + b"!")
    client.set_response_callback("ECHO", shout)
    await client.set("k", "v")

    assert await client.get("k") == b"v!"
    assert await client.execute_command("get", "k") == b"v!"
    assert await client.echo("loud") == b"LOUD"
    pipe = client.pipeline(transaction=False).get("k").echo("x")
    assert await pipe.execute() == [b"v!", b"X"]


async def test_two_words_in_one_name_are_two_on_the_wire(client):
    """`"SCRIPT LOAD"` and its like; commands of our own users as well."""
    sha = await client.script_load("return 7")
    assert await client.evalsha(sha, 0) == 7
    assert await client.execute_command("CONFIG GET", "maxmemory")
    assert await client.execute_command("SCRIPT EXISTS", sha) == [True]


async def test_scan_iterates_over_everything(client):
    """`scan_iter` and its sisters."""
    await client.mset({f"{{t}}{i}": i for i in range(500)})
    found = {key async for key in client.scan_iter(match="{t}*", count=50)}
    assert len(found) == 500
    await client.hset("h", mapping={str(i): i for i in range(300)})
    assert len([item async for item in client.hscan_iter("h")]) == 300


# --- decoding ---------------------------------------------------------------------


@pytest.mark.parametrize("protocol", [2, 3])
async def test_decoded_replies_are_text(server, protocol):
    """decode_responses, nested, and with keys of hashes."""
    kwargs = {**server.client_kwargs, "protocol": protocol}
    async with wire(kwargs, options={"decode_responses": True}) as client:
        await client.set("{t}k", "é")
        await client.hset("{t}h", "f", "ü")
        await client.xadd("{t}x", {"a": "b"}, id="1-1")
        assert await client.get("{t}k") == "é"
        assert await client.hgetall("{t}h") == {"f": "ü"}
        assert await client.xrange("{t}x") == [("1-1", {"a": "b"})]
        assert await client.pipeline(transaction=False).get("{t}k").execute() == ["é"]
        assert await client.pipeline().get("{t}k").execute() == ["é"]


@pytest.mark.parametrize("protocol", [2, 3])
async def test_never_decoded_replies_stay_bytes(server, protocol):
    """DUMP beside decoded ones, in any mixture, of any size, and in pipelines."""
    kwargs = {**server.client_kwargs, "protocol": protocol}
    async with wire(kwargs, options={"decode_responses": True}) as client:
        await client.set("{t}k", "é" * 10)
        await client.rpush("{t}large", *("é" * 1000 for _ in range(200)))
        async with asyncio.TaskGroup() as group:
            tasks = [
                group.create_task(call)
                for _ in range(20)
                for call in (client.dump("{t}k"), client.get("{t}k"))
            ]
            large = group.create_task(client.dump("{t}large"))
        results = [task.result() for task in tasks]
        assert {type(result) for result in results[::2]} == {bytes}
        assert set(results[1::2]) == {"é" * 10}
        assert isinstance(large.result(), bytes)
        pipe = client.pipeline(transaction=False).dump("{t}k").get("{t}k")
        first, second = await pipe.execute()
        assert isinstance(first, bytes)
        assert second == "é" * 10
        await client.restore("{t}copy", 0, first)
        assert await client.get("{t}copy") == "é" * 10


async def test_other_encodings_are_packed_and_decoded(server):
    """Encoding latin-1 in both directions."""
    options = {"encoding": "latin-1", "decode_responses": True}
    async with wire(server.client_kwargs, options=options) as client:
        await client.set("k", "é")
        assert await client.get("k") == "é"
    assert server.execute("GET", "k") == b"\xe9"


# --- pipelines --------------------------------------------------------------------


@pytest.mark.parametrize("transaction", [True, False])
async def test_pipeline_replies_in_order(client, transaction):
    """Each reply through its callback; the pipeline is empty afterwards."""
    async with client.pipeline(transaction=transaction) as pipe:
        pipe.set("{t}a", 1).incr("{t}a").hset("{t}h", "f", "v").hgetall("{t}h")
        assert len(pipe) == 4
        assert await pipe.execute() == [True, 2, 1, {b"f": b"v"}]
        assert await pipe.execute() == []


@pytest.mark.parametrize("transaction", [True, False])
async def test_error_in_a_pipeline_stands_in_its_place(client, transaction):
    """raise_on_error=False; otherwise the first is raised, and all were executed."""
    await client.set("{t}text", "x")
    pipe = client.pipeline(transaction=transaction)
    pipe.set("{t}a", 1).lpush("{t}text", 1).set("{t}b", 2)
    replies = await pipe.execute(raise_on_error=False)
    assert (replies[0], replies[2]) == (True, True)
    assert isinstance(replies[1], redis_errors.ResponseError)

    pipe.set("{t}c", 1).lpush("{t}text", 1).set("{t}d", 2)
    with pytest.raises(redis_errors.ResponseError, match="Command # 2"):
        await pipe.execute()
    assert await client.exists("{t}c", "{t}d") == 2


async def test_watched_transaction_is_optimistic(client, plain):
    """WATCH, read, MULTI: WatchError if raced, done otherwise."""
    await client.set("k", 1)
    async with client.pipeline() as pipe:
        await pipe.watch("k")
        value = int(await pipe.get("k"))
        await plain.set("k", 10)
        pipe.multi()
        pipe.set("k", value + 1)
        with pytest.raises(redis_errors.WatchError):
            await pipe.execute()

    async def double(pipe) -> None:
        value = int(await pipe.get("k"))
        pipe.multi()
        pipe.set("k", value * 2)

    assert await client.transaction(double, "k") == [True]
    assert await client.get("k") == b"20"


async def test_pipeline_of_5000_commands_is_chunked(client):
    """In order, whole, and beside other callers."""
    pipe = client.pipeline(transaction=False)
    for i in range(5000):
        pipe.rpush("l", i)
    async with asyncio.TaskGroup() as group:
        task = group.create_task(pipe.execute())
        pings = [group.create_task(client.ping()) for _ in range(20)]
    assert task.result() == list(range(1, 5001))
    assert all(ping.result() for ping in pings)


async def test_pipeline_keeps_its_order_beside_a_large_value(client):
    """What follows a large command in a pipeline happens after it."""
    for _ in range(5):
        pipe = client.pipeline(transaction=False)
        pipe.set("k", b"x" * 1_000_000).dbsize().flushdb().dbsize()
        assert await pipe.execute() == [True, 1, True, 0]


async def test_script_works_alone_and_in_pipelines(client):
    """register_script; a pipeline loads what the server does not know."""
    script = client.register_script("return redis.call('INCRBY', KEYS[1], ARGV[1])")
    assert await script(keys=["n"], args=[2]) == 2
    await client.script_flush()
    for transaction in (False, True):
        pipe = client.pipeline(transaction=transaction)
        await script(keys=["n"], args=[1], client=pipe)
        pipe.get("n")
        assert len(await pipe.execute()) == 2
    assert await client.get("n") == b"4"


async def test_blocking_command_in_a_pipeline_does_not_hold_a_lane(client):
    """It travels alone; others are served meanwhile."""
    async with asyncio.TaskGroup() as group:
        pipe = client.pipeline(transaction=False).blpop("l", 0.2).ping()
        task = group.create_task(pipe.execute())
        async with asyncio.timeout(0.15):
            assert await client.ping()
    assert task.result() == [None, True]


# --- what has a connection of its own ----------------------------------------------


async def test_blocking_commands_do_not_hold_others_up(client):
    """BLPOP, BZPOPMIN, XREAD BLOCK, WAIT."""
    async with asyncio.TaskGroup() as group:
        pop = group.create_task(client.blpop("l", 2))
        zpop = group.create_task(client.bzpopmin("z", 2))
        read = group.create_task(client.xread({"x": "$"}, block=2000))
        await asyncio.sleep(0.05)
        async with asyncio.timeout(0.2):
            assert await client.ping()
        await client.rpush("l", "1")
        await client.zadd("z", {"m": 1})
        await client.xadd("x", {"f": "v"}, id="1-1")
    assert list(pop.result()) == [b"l", b"1"]
    assert list(zpop.result())[:2] == [b"z", b"m"]
    assert read.result()
    assert await client.wait(0, 1) == 0


async def test_blocking_longer_than_the_dedicated_timeout_is_fine(client):
    """What the caller asked the server to wait is not a timeout."""
    assert await client.blpop("nothing", 0.5) is None


async def test_lock_excludes(client):
    """redis-py's lock()."""
    lock = client.lock("l", timeout=5)
    async with lock:
        assert await lock.owned()
        assert not await client.lock("l", timeout=5).acquire(blocking=False)
        await lock.extend(5)
    assert await client.exists("l") == 0


async def test_subscriber_gets_messages(client):
    """Channels and patterns; publishing goes over a lane."""
    async with client.pubsub() as pubsub:
        await pubsub.subscribe("c")
        await pubsub.psubscribe("p*")
        kinds = [
            (await pubsub.get_message(timeout=1.0))["type"] for _ in range(2)
        ]  # fmt: skip
        assert kinds == ["subscribe", "psubscribe"]
        assert await client.publish("c", "1") == 1
        assert await client.publish("p7", "2") == 1
        messages = [await pubsub.get_message(timeout=1.0) for _ in range(2)]
        assert [message["data"] for message in messages] == [b"1", b"2"]
        assert await pubsub.get_message(timeout=0.01) is None


async def test_idle_subscriber_stays_subscribed(client, server):
    """listen() on a quiet channel outlasts the dedicated timeout."""
    async with client.pubsub(ignore_subscribe_messages=True) as pubsub:
        await pubsub.subscribe("quiet")
        async with asyncio.TaskGroup() as group:
            task = group.create_task(outcome(anext(pubsub.listen())))
            await asyncio.sleep(0.5)  # longer than dedicated_timeout
            server.execute("PUBLISH", "quiet", "at last")
        assert task.result()["data"] == b"at last"


async def test_monitor_sees_commands(client):
    """monitor() has a connection of its own."""
    async with client.monitor() as monitor:
        await client.set("seen", "x")
        async with asyncio.timeout(1.0):
            while True:
                command = await monitor.next_command()
                if "seen" in command["command"]:
                    break


async def test_own_connection_may_do_everything(client, server):
    """`client()`: SELECT, WATCH, CLIENT TRACKING, CLIENT NO-EVICT."""
    async with client.client() as own:
        number = await own.client_id()
        assert await own.client_id() == number
        assert await own.execute_command("WATCH", "k") is True
        assert await own.execute_command("UNWATCH") is True
        if client.connection_pool.connection_kwargs["protocol"] == 3:
            assert await own.execute_command("CLIENT", "TRACKING", "ON") == b"OK"
            assert await own.execute_command("CLIENT", "TRACKING", "OFF") == b"OK"
        if not server.is_cluster:
            assert await own.select(3)
            await own.set("k", "in three")
    assert await client.get("k") is None


async def test_state_of_an_own_connection_does_not_stay_in_the_pool(client, server):
    """SELECT, WATCH and names die with the block; the next user starts afresh."""
    if not server.is_cluster:
        async with client.client() as own:
            await own.select(3)
        assert await client.pipeline().set("k", "v").execute() == [True]
        assert await client.get("k") == b"v"
    await client.set("w", 1)
    async with client.client() as own:
        await own.execute_command("WATCH", "w")
    await client.set("w", 2)
    assert await client.pipeline().set("k2", "v").execute() == [True]


@pytest.mark.parametrize(
    "command",
    [("SELECT", 3), ("CLIENT REPLY", "OFF"), ("HELLO", 2), ("RESET",), ("MONITOR",)],
)
async def test_state_changed_in_a_transaction_does_not_stay_in_the_pool(
    client, server, command
):
    """Refused, or the connection is not used again."""
    if server.is_cluster and command[0] == "SELECT":
        pytest.skip("a cluster has one database")
    for transaction in (True, False):
        pipe = client.pipeline(transaction=transaction)
        pipe.execute_command(*command)
        async with asyncio.timeout(3.0):
            await outcome(pipe.execute())
        async with asyncio.timeout(3.0):
            assert await client.pipeline().set("k", "v").execute() == [True]
        assert await client.get("k") == b"v"
        assert await client.blpop("nothing", 0.01) is None
        await client.delete("k")


# --- connections ------------------------------------------------------------------


async def test_user_and_database_and_name_are_set_on_every_connection(make_server):
    """Password, ACL user, db, client_name on lanes and dedicated ones."""
    server = make_server("valkey", "--requirepass", "pw", password="pw")
    server.execute("ACL", "SETUSER", "me", "on", ">secret", "~*", "&*", "+@all")
    login = {"username": "me", "password": "secret", "db": 5, "client_name": "crew"}
    async with wire({**server.client_kwargs, **login}) as client:
        assert await client.acl_whoami() in (b"me", "me")
        assert await client.pipeline().set("k", "v").execute() == [True]
        assert await client.get("k") == b"v"
        info = await client.client_list()
        ours = [one for one in info if one["user"] == "me"]
        assert {(one["db"], one["name"]) for one in ours} == {("5", "crew")}


async def test_credential_provider_is_asked(make_server):
    """Of redis-py, for every dial."""
    server = make_server("valkey", "--requirepass", "pw", password="pw")

    class Vault(CredentialProvider):
        def get_credentials(self) -> tuple[str]:
            return ("pw",)

    options = {"credential_provider": Vault()}
    kwargs = {"unix_socket_path": server.unix_socket}
    async with wire(kwargs, options=options) as client:
        assert await client.ping()
        assert await client.pipeline().get("k").execute() == [None]


async def test_client_from_url(server):
    """unix:// with a query; redis-py's other constructors are used by libraries."""
    url = f"unix://{server.unix_socket}?decode_responses=true"
    client = PipelinedRedis.from_url(url)
    async with client:
        await client.set("k", "v")
        assert await client.get("k") == "v"
    from_pool = PipelinedRedis.from_pool(
        redis.asyncio.ConnectionPool.from_url(f"unix://{server.unix_socket}")
    )
    async with from_pool:
        assert await from_pool.get("k") == b"v"


async def test_client_over_tcp(make_server):
    """By URL and by address, a database in the path."""
    server = make_server("valkey", tcp=True)
    async with PipelinedRedis.from_url(f"redis://localhost:{server.tcp_port}/2") as one:
        await one.set("k", "v")
    async with wire({**server.tcp_kwargs, "db": 2}) as client:
        assert await client.get("k") == b"v"


async def test_one_connection_serves_a_thousand_callers(client, server):
    """That is the point of it."""
    async with asyncio.TaskGroup() as group:
        for i in range(1000):
            group.create_task(client.set(f"k{i}", i))
    await wait_until(
        lambda: server.info("clients")["connected_clients"] == 2, "one and the control"
    )
