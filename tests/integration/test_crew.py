"""`CrewRedis` on a real server: start, use, health, end."""
# ruff: noqa: PT012 - the error under test leaves the `async with` it arose in

import asyncio
import os

import anyio
import pytest
from anyio.abc import TaskStatus

from mcp_crew_redis.crew import CrewRedis
from mcp_crew_redis.errors import (
    ConfigurationError,
    ConnectionLostError,
    LifecycleError,
    UnavailableError,
)
from mcp_crew_redis.lifecycle import ServiceState
from mcp_crew_redis.settings import CrewSettings
from tests.rig.waiting import wait_until

pytestmark = pytest.mark.timeout(30)


@pytest.fixture(autouse=True)
def _empty_environment(monkeypatch):
    for name in list(os.environ):
        if name.startswith(("REDIS_CREW_", "REDIS_CIRCUIT_BREAKER_")):
            monkeypatch.delenv(name)


@pytest.fixture
def settings(server) -> CrewSettings:
    return CrewSettings(unix_socket=server.unix_socket)


class Counter:
    """A service, and its own spec: counts in Redis until drained."""

    name = "counter"
    needs = ()

    def __init__(self) -> None:
        self.crash = asyncio.Event()
        self._drained = asyncio.Event()
        self._crew: CrewRedis | None = None

    def build(self, crew: CrewRedis, /) -> "Counter":
        self._crew = crew
        return self

    async def run(self, *, task_status: TaskStatus[None]) -> None:
        assert self._crew is not None
        redis = self._crew.redis
        await redis.incr("counter:started")
        task_status.started()
        async with asyncio.TaskGroup() as tasks:
            waiting = tasks.create_task(self._drained.wait())
            crashing = tasks.create_task(self.crash.wait())
            await asyncio.wait({waiting, crashing}, return_when="FIRST_COMPLETED")
            is_crash = crashing.done()
            waiting.cancel()
            crashing.cancel()
        if is_crash:
            raise RuntimeError("crashed")
        await redis.incr("counter:ended")  # the wire outlives the service

    def drain(self) -> None:
        self._drained.set()


# --- construction -------------------------------------------------------------
def test_construction_needs_no_event_loop():
    """Module level is a fine place to make one."""
    crew = CrewRedis(CrewSettings())

    assert crew.state is ServiceState.STOPPED
    assert "stopped localhost:6380" in repr(crew)


def test_what_this_version_lacks_is_refused():
    """A setting that would be ignored is worse than an error."""
    with pytest.raises(ConfigurationError, match="REDIS_CREW_CLUSTER"):
        CrewRedis(CrewSettings(cluster=True))


def test_unknown_times_to_live_are_refused():
    """An override of a row that does not exist is a spelling mistake."""
    with pytest.raises(ConfigurationError, match=r"tool\.mongodb"):
        CrewRedis(CrewSettings(ttl={"tool.mongodb": 60}))


# --- use ----------------------------------------------------------------------
async def test_inside_the_crew_redis_answers(settings):
    """`crew.redis` is a redis-py client."""
    async with CrewRedis(settings) as crew:
        await crew.redis.set("key", "value")

        assert await crew.redis.get("key") == b"value"
        assert crew.state is ServiceState.RUNNING


async def test_use_outside_says_what_to_do(settings):
    """Before the start and after the end."""
    crew = CrewRedis(settings)
    with pytest.raises(LifecycleError, match="async with crew"):
        _ = crew.redis
    async with crew:
        pass
    with pytest.raises(LifecycleError, match="async with crew"):
        _ = crew.redis
    with pytest.raises(LifecycleError, match="async with crew"):
        await crew.run_until_stopped()


async def test_entering_twice_at_once_is_refused(settings):
    """The inner attempt does not disturb the outer run."""
    async with CrewRedis(settings) as crew:
        with pytest.raises(LifecycleError, match="entered already"):
            async with crew:
                pass
        assert await crew.redis.ping()


async def test_entering_again_is_a_fresh_run(settings):
    """After the end it may be used again, with a client of its own."""
    crew = CrewRedis(settings)
    async with crew:
        first = crew.redis
    async with crew:
        assert crew.redis is not first
        assert await crew.redis.ping()


async def test_leaving_without_entering_is_refused(settings):
    """A stray exit says what it is."""
    with pytest.raises(LifecycleError, match="not been entered"):
        await CrewRedis(settings).__aexit__(None, None, None)


async def test_error_of_the_body_arrives_bare(settings):
    """`except ValueError` around the crew works."""
    with pytest.raises(ValueError, match="boom"):
        async with CrewRedis(settings):
            raise ValueError("boom")


async def test_database_of_the_settings_is_selected(server):
    """The single settings complete the address."""
    async with CrewRedis(CrewSettings(url=f"unix://{server.unix_socket}?db=3")) as crew:
        await crew.redis.set("here", 1)

    assert server.execute("EXISTS", "here") == 0


# --- services -----------------------------------------------------------------
async def test_services_run_between_wire_up_and_wire_down(settings, server):
    """A service may use Redis from its first to its last line."""
    async with CrewRedis(settings, services=[Counter()]) as crew:
        report = await crew.health()

    names = [each.name for each in report.components]
    assert names == ["loop", "redis", "journal", "bell", "counter", "janitor"]
    assert server.execute("GET", "counter:started") == b"1"
    assert server.execute("GET", "counter:ended") == b"1"


async def test_crash_of_a_service_interrupts_the_body(settings):
    """It arrives bare; health says dead afterwards."""
    counter = Counter()
    crew = CrewRedis(settings, services=[counter])
    with pytest.raises(RuntimeError, match="crashed"):
        async with crew:
            counter.crash.set()
            await anyio.sleep_forever()

    report = await crew.health()
    assert not report.is_live
    assert crew.state is ServiceState.FAILED


async def test_spec_that_cannot_be_built_leaves_nothing_behind(settings):
    """The wire is closed again; the leak guard looks."""

    class Broken:
        def build(self, _crew, /):
            raise RuntimeError("cannot build")

    with pytest.raises(RuntimeError, match="cannot build"):
        async with CrewRedis(settings, services=[Broken()]):
            pass


# --- starting without Redis ---------------------------------------------------
@pytest.fixture
def nowhere(tmp_path) -> CrewSettings:
    return CrewSettings(unix_socket=tmp_path / "s")


async def test_degraded_start_goes_on_without_redis(nowhere):
    """Calls say that Redis is away, health says why."""
    async with CrewRedis(nowhere) as crew:
        with pytest.raises(UnavailableError):
            await crew.redis.get("key")
        report = await crew.health()

    assert (report.is_live, report.is_ready, report.is_degraded) == (True, True, True)
    [redis] = [each for each in report.components if each.name == "redis"]
    assert redis.state == "open"
    assert redis.reason


async def test_degraded_start_recovers_when_redis_comes(own_server):
    """Whoever started first does not have to be restarted."""
    settings = CrewSettings(unix_socket=own_server.unix_socket)
    own_server.stop()
    async with CrewRedis(settings) as crew:
        own_server.start()

        async def is_well() -> bool:
            return not (await crew.health()).is_degraded

        await wait_until(is_well, "the crew is well", 10)


async def test_strict_start_refuses_and_names_the_setting(nowhere):
    """The message says where, which variable, and the way out."""
    settings = nowhere.model_copy(update={"start": "strict"})
    with pytest.raises(ConnectionLostError) as caught:
        async with CrewRedis(settings):
            pass

    message = str(caught.value)
    for part in (str(nowhere.unix_socket), "REDIS_CREW_UNIX_SOCKET", "degraded"):
        assert part in message


async def test_wrong_password_refuses_every_start(make_server):
    """A misconfiguration does not heal by waiting; the password stays unsaid."""
    server = make_server("valkey", "--requirepass", "right", password="right")
    settings = CrewSettings(unix_socket=server.unix_socket, password="hunter2")
    with pytest.raises(ConfigurationError) as caught:
        async with CrewRedis(settings):
            pass

    assert "hunter2" not in str(caught.value)


# --- the embedded server ------------------------------------------------------
async def test_embedded_crew_brings_its_server():
    """It starts before everything and is gone after everything."""
    async with CrewRedis.embedded() as crew:
        await crew.redis.set("key", "value")
        report = await crew.health()

    assert report.is_ready
    [server] = [each for each in report.components if each.name == "embedded"]
    pid = server.detail["pid"]
    assert isinstance(pid, int)
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)


async def test_embedded_crew_ignores_the_address_of_the_environment(monkeypatch):
    """`embedded()` in the code is the more explicit wish."""
    monkeypatch.setenv("REDIS_CREW_HOST", "does-not-exist.invalid")
    async with CrewRedis.embedded() as crew:
        assert await crew.redis.ping()


async def test_embedded_by_the_environment(monkeypatch):
    """REDIS_CREW_EMBEDDED=true needs no change of the code."""
    monkeypatch.setenv("REDIS_CREW_EMBEDDED", "true")
    async with CrewRedis() as crew:
        assert await crew.redis.ping()


async def test_embedded_data_outlives_the_crew(tmp_path):
    """With a data folder a later run finds what an earlier one wrote."""
    async with CrewRedis.embedded(tmp_path) as crew:
        await crew.redis.set("key", "value")
    async with CrewRedis.embedded(tmp_path) as crew:
        assert await crew.redis.get("key") == b"value"
