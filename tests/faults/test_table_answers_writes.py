"""A server that refuses writes or one command, and serves the rest.

It lives: what it refuses is told with its own word, and the circuit stays closed, so
that everything else goes on.
"""

from __future__ import annotations

import pytest
from structlog.testing import capture_logs

from mcp_crew_redis._core.breaker import CircuitState
from mcp_crew_redis._wire.header import seal, seal_tombstone
from mcp_crew_redis.errors import ConfigurationError, RefusedError
from tests.faults.answers import (
    IN_TIME,
    KINDS,
    PATIENT,
    calls_of,
    hard_failures,
    server_of,
    timed,
    wired,
)
from tests.integration.core.bench import eventually, outcome, wire

STAMP = 1_763_000_000_000_001
KEY, OTHER = b"p:state:{acme}:k", b"p:state:{acme}:other"
FLOOR = b"p:meta:{acme}:floor"
COUNTER = b"p:counter:{acme}:n"
MINUTE = 60_000  # milliseconds


@pytest.fixture(params=KINDS)
async def local(request):
    async with server_of(request.param) as server:
        yield server


async def be_full(local):
    await local.faults.fill_memory()


async def be_unable_to_save(local):
    await local.faults.fail_saving()


async def be_without_replicas(local):
    await local.faults.configure("min-replicas-to-write", "1")


REFUSING = [
    pytest.param(be_full, "OOM", id="row-8-oom"),
    pytest.param(be_unable_to_save, "MISCONF", id="row-12-misconf"),
    pytest.param(be_without_replicas, "NOREPLICAS", id="row-21-noreplicas"),
]


@pytest.mark.parametrize(("fault", "code"), REFUSING)
async def test_a_refused_write_is_a_typed_error_in_bounded_time(local, fault, code):
    """The server's own word, and nothing was executed."""
    async with wired(local, command_timeout=PATIENT) as port:
        await fault(local)

        answer = await timed(port.send("INCR", "n"))

        assert isinstance(answer.value, RefusedError)
        assert answer.code == code
        assert answer.seconds < IN_TIME
        await local.faults.heal()
        assert await port.send("INCR", "n") == 1


@pytest.mark.parametrize(("fault", "code"), REFUSING)
async def test_a_hundred_refused_writes_leave_reads_alone(local, fault, code):
    """It is no failure of the node: the circuit stays closed, reads stay fast."""
    await local.execute("SET", "k", "v")
    async with wired(local) as port:
        await fault(local)
        errors = [await outcome(port.send("SET", "k", "w")) for _ in range(100)]

        assert {getattr(each, "code", each) for each in errors} == {code}
        assert hard_failures(port) == 0
        assert port.client.circuit_state is CircuitState.CLOSED
        assert await port.send("GET", "k") == b"v"


@pytest.mark.parametrize(("fault", "code"), REFUSING)
async def test_who_comes_meanwhile_reads(local, fault, code):
    """A new process connects to it and is served what it serves."""
    await local.execute("SET", "k", "v")
    await fault(local)

    async with wired(local) as port:
        assert await port.send("GET", "k") == b"v"
        assert (await timed(port.send("SET", "k", "w"))).code == code


@pytest.mark.parametrize(("fault", "code"), REFUSING)
async def test_an_outage_meanwhile_ends_for_readers(local, fault, code):
    """Probes do not ask for what it refuses: the circuit closes again."""
    await local.execute("SET", "k", "v")
    async with wired(local) as port:
        await fault(local)
        breaker = port.client.node.breaker
        breaker.trip(breaker.generation, "test")

        assert await eventually(lambda: port.send("GET", "k"), "it reads") == b"v"


@pytest.mark.parametrize(("fault", "code"), REFUSING)
async def test_scripts_that_write_are_refused_whole(local, fault, code):
    """No half of one stays."""
    held = seal(STAMP - 1, b"old")
    await local.execute("SET", KEY, held, "PX", MINUTE)
    value = seal(STAMP, b"new")
    calls = [
        ("set_newer", (KEY, FLOOR), (value, MINUTE)),
        ("set_newer_many", (OTHER, KEY, FLOOR), (value, MINUTE, value, MINUTE)),
        ("counter_add", (COUNTER, FLOOR), ("a", 1, 5, MINUTE, 0)),
    ]
    async with wired(local) as port:
        await fault(local)
        for call in calls:
            assert (await timed(port.run(*call))).code == code

    assert await local.execute("GET", KEY) == held
    assert await local.execute("EXISTS", OTHER, COUNTER, FLOOR) == 0


# --- row 8: OOM ---------------------------------------------------------------------


async def test_row_8_a_full_server_is_asked_once(local):
    """More memory does not come from asking again."""
    async with wired(local) as port:
        await be_full(local)
        await timed(port.send("INCR", "n"))

        assert await calls_of(local, "incr") == 1


async def test_row_8_a_full_server_still_deletes_and_expires(local):
    """What frees memory is done: plain commands and ours."""
    for key in (KEY, OTHER):
        await local.execute("SET", key, seal(STAMP - 1, b"v" * 1000), "PX", MINUTE)
    await local.execute("MSET", "plain", 1, "short", 1)
    tombstone = seal_tombstone(STAMP)
    async with wired(local) as port:
        await be_full(local)

        assert await port.send("DEL", "plain") == 1
        assert await port.send("PEXPIRE", "short", 1000) == 1
        buried = await port.run("delete_newer", (KEY, FLOOR), (tombstone, MINUTE))
        header = seal(STAMP, b"", STAMP // 1000 + 1000)
        expiring = await port.run("expire_newer", (OTHER, FLOOR), (header, 1000))
        floor = await port.run("purge_floor", (FLOOR,), (0,))
        purged = await port.run("purge_keys", (OTHER,), (floor,))

    assert buried == [1, STAMP, 1]
    assert expiring == [1, STAMP]
    assert purged == [1, 0]
    assert await local.execute("GET", KEY) == tombstone


async def test_row_8_a_full_server_remembers_no_delete_of_nothing(local):
    """A tombstone where nothing stood needs memory: told, not half-done."""
    async with wired(local) as port:
        await be_full(local)

        args = (seal_tombstone(STAMP), MINUTE)
        answer = await timed(port.run("delete_newer", (KEY, FLOOR), args))

    assert answer.code == "OOM"
    assert await local.execute("EXISTS", KEY) == 0


# --- row 9: NOSCRIPT ----------------------------------------------------------------


async def test_row_9_a_forgotten_script_is_sent_again(local):
    """The caller notices nothing, and it is executed once."""
    keys = (COUNTER, FLOOR)
    async with wired(local) as port:
        await port.run("counter_add", keys, ("a", 1, 5, MINUTE, 0))
        await local.faults.flush_scripts()

        assert await port.run("counter_add", keys, ("a", 2, 5, MINUTE, 0)) == [1, b"10"]
        assert hard_failures(port) == 0
        assert await calls_of(local, "eval") == 2


async def test_row_9_scripts_in_one_round_trip_are_sent_again(local):
    """Those that were unknown, and only those."""
    calls = [
        ("counter_add", (COUNTER, FLOOR), ("a", number, 1, MINUTE, 0))
        for number in (1, 2, 3)
    ]
    async with wired(local) as port:
        await local.faults.flush_scripts()

        answers = await port.run_many(calls)

    assert answers == [[1, b"1"], [1, b"2"], [1, b"3"]]


# --- row 11: NOPERM -----------------------------------------------------------------


async def test_row_11_a_denied_command_is_a_configuration_error(local):
    """The settings' user lacks a right: neither data nor network are to blame."""
    async with wired(local) as port:
        await local.faults.deny("set")

        error = await outcome(port.send("SET", "k", "secret-value"))

        assert isinstance(error, ConfigurationError)
        assert "set" in str(error)
        assert "REDIS_CREW_USERNAME" in str(error)
        assert "secret-value" not in str(error)


async def test_row_11_a_denied_command_is_asked_once_and_never_counted(local):
    """It will be answered the same again; everything else goes on."""
    async with wired(local) as port:
        await local.faults.deny("set")
        for _ in range(100):
            await outcome(port.send("SET", "k", "v"))

        assert await calls_of(local, "set") == 100
        assert hard_failures(port) == 0
        assert await port.send("GET", "k") is None


async def test_row_11_a_denied_command_is_logged_once(local):
    """An operator must act; a flood of lines would not help."""
    async with wired(local) as port:
        await local.faults.deny("set")
        with capture_logs() as logs:
            for _ in range(10):
                await outcome(port.send("SET", "k", "secret-value"))

    events = [each for each in logs if each["event"] == "wire.permission_refused"]
    assert [each["command"] for each in events] == ["SET"]
    assert "secret-value" not in str(events)


async def test_row_11_a_script_is_denied_what_its_commands_are(local):
    """What a script may not call is refused as what a caller may not send."""
    async with wired(local) as port:
        await local.faults.deny("set")

        call = ("set_newer", (KEY, FLOOR), (seal(STAMP, b"v"), MINUTE))

        assert isinstance(await outcome(port.run(*call)), ConfigurationError)


async def test_row_12_a_failing_disk_is_survived_by_idle_connections(local):
    """PING is refused too, and that says nothing against the connection."""
    async with wire(local.client_kwargs, idle_ping=0.02) as client:
        await client.get("k")
        await be_unable_to_save(local)
        before = await calls_of(local, "ping")
        for _ in range(20):
            await eventually(lambda: client.get("k"), "it reads")
            if await calls_of(local, "ping") > before + 3:
                break

        assert client.statistics().dials == 1
