"""A server that does not serve at all: loading, without a master, busy, read-only.

Not executed, so asked again within the deadline; then a typed error in bounded time.
Repeated, it opens the circuit, and probes find out when it is over.
"""

from __future__ import annotations

import pytest

from mcp_crew_redis._core.breaker import CircuitState
from mcp_crew_redis.errors import CircuitOpenError, RefusedError, UnavailableError
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
from tests.rig.waiting import wait_until


@pytest.fixture(params=KINDS)
async def local(request):
    async with server_of(request.param) as server:
        yield server


async def be_loading(local):
    await local.faults.load(30.0)


async def be_masterless(local):
    # A read-only replica would say READONLY to writes before it says this.
    await local.faults.configure("replica-read-only", "no")
    await local.faults.make_read_only(serves_reads=False)


async def be_busy(local):
    await local.faults.busy(30.0)


async def be_read_only(local):
    await local.faults.make_read_only()


async def be_loading_soon_over(local):
    await local.faults.load(0.1)


async def be_busy_soon_over(local):
    await local.faults.busy(0.1)


OUT_OF_SERVICE = [
    pytest.param(be_loading, "LOADING", id="row-5-loading"),
    pytest.param(be_masterless, "MASTERDOWN", id="row-7-masterdown"),
    pytest.param(be_busy, "BUSY", id="row-13-busy"),
]
REFUSING_WRITES = [
    *OUT_OF_SERVICE,
    pytest.param(be_read_only, "READONLY", id="row-6-readonly"),
]


async def open_circuit(port):
    async def is_open():
        await outcome(port.send("SET", "k", "v"))
        return port.client.circuit_state is not CircuitState.CLOSED

    await wait_until(is_open, "the circuit opens")


@pytest.mark.parametrize(("fault", "code"), REFUSING_WRITES)
async def test_a_refused_write_is_a_typed_error_in_bounded_time(local, fault, code):
    """Asked again, refused again, told with the server's own word; never executed."""
    async with wired(local, command_timeout=PATIENT) as port:
        await fault(local)

        answer = await timed(port.send("INCR", "n"))

        assert isinstance(answer.value, RefusedError)
        assert answer.code == code
        assert answer.seconds < IN_TIME
        await local.faults.heal()
        assert await calls_of(local, "incr") > 1
        assert await local.execute("GET", "n") is None


@pytest.mark.parametrize(("fault", "code"), OUT_OF_SERVICE)
async def test_reads_are_refused_in_the_same_way(local, fault, code):
    """What does not serve does not serve anybody."""
    async with wired(local, command_timeout=PATIENT) as port:
        await fault(local)

        answer = await timed(port.send("GET", "k"))

        assert answer.code == code
        assert answer.seconds < IN_TIME


@pytest.mark.parametrize(
    "fault", [be_loading_soon_over, be_busy_soon_over], ids=["loading", "busy"]
)
async def test_what_is_over_within_the_deadline_is_not_noticed(local, fault):
    """The call is late and well, and executed once."""
    async with wired(local, command_timeout=2.0) as port:
        port.client.node.budget.deposit(100)  # as a thousand calls before do
        await fault(local)

        assert await port.send("INCR", "n") == 1


@pytest.mark.parametrize(("fault", "code"), OUT_OF_SERVICE)
async def test_repeated_refusals_open_the_circuit(local, fault, code):
    """Then nothing is sent on behalf of users, and they hear why in microseconds."""
    async with wired(local) as port:
        await fault(local)
        await open_circuit(port)

        answers = [await timed(port.send("GET", "k")) for _ in range(20)]

        assert all(isinstance(each.value, CircuitOpenError) for each in answers)
        assert min(each.seconds for each in answers) < 0.005
        await local.faults.heal()
        assert await calls_of(local, "get") == 0


async def test_row_6_lasting_read_only_opens_the_circuit(local):
    """A node that only refuses is not what the address promised."""
    async with wired(local) as port:
        await be_read_only(local)
        await open_circuit(port)

        assert port.client.statistics().circuit.openings == 1


@pytest.mark.parametrize(("fault", "code"), OUT_OF_SERVICE)
async def test_the_circuit_closes_by_itself_when_it_is_over(local, fault, code):
    """Probes ask, not users; nothing is to be restarted."""
    async with wired(local) as port:
        await fault(local)
        await open_circuit(port)
        stays = [await outcome(port.send("GET", "k")) for _ in range(3)]
        assert all(isinstance(each, UnavailableError) for each in stays)

        await local.faults.heal()

        assert await eventually(lambda: port.send("SET", "k", "v"), "it serves")


@pytest.mark.parametrize(("fault", "code"), OUT_OF_SERVICE)
async def test_who_comes_meanwhile_hears_that_it_is_not_the_settings(
    local, fault, code
):
    """A dial fails as unavailable, and it goes on when it is over."""
    await fault(local)
    async with wire(local.client_kwargs) as client:
        answer = await timed(client.get("k"))
        assert isinstance(answer.value, UnavailableError)
        assert answer.seconds < IN_TIME

        await local.faults.heal()

        await eventually(lambda: client.get("k"), "it serves")


async def test_row_5_the_open_circuit_says_loading(local):
    """The reason in the health report is the server's word."""
    async with wired(local) as port:
        await be_loading(local)
        await open_circuit(port)

        async def has_probed():
            return port.client.statistics().circuit.failed_probes > 0

        await wait_until(has_probed, "a probe has failed")
        assert port.client.statistics().circuit.cause.upper() == "LOADING"


async def test_row_6_a_read_only_server_serves_reads(local):
    """Whoever only reads notices nothing."""
    await local.execute("SET", "k", "v")
    async with wired(local) as port:
        await be_read_only(local)
        assert (await timed(port.send("SET", "k", "w"))).code == "READONLY"

        assert await eventually(lambda: port.send("GET", "k"), "it reads") == b"v"


async def test_row_6_a_read_only_server_is_dialled_again(local):
    """The address may lead to another one already: a failover."""
    async with wired(local) as port:
        await be_read_only(local)
        await timed(port.send("SET", "k", "v"))

        assert port.client.statistics().dials >= 2
        await local.faults.heal()
        await eventually(lambda: port.send("SET", "k", "v"), "it writes again")


async def test_row_13_a_script_of_ours_is_not_executed_twice(local):
    """Refused before it ran: the counter counts one."""
    async with wired(local, command_timeout=2.0) as port:
        await be_busy_soon_over(local)

        keys = (b"p:counter:{acme}:k", b"p:meta:{acme}:floor")
        answer = await port.run("counter_add", keys, ("a", 1, 5, 60_000, 0))

        assert answer == [1, b"5"]
        assert hard_failures(port) < 5
