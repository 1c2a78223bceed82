"""The lifecycle: order, deadlines, crashes, cancellation, nothing left behind."""
# ruff: noqa: PT012 - the error under test leaves the `async with` it arose in

import asyncio
from collections.abc import Sequence

import anyio
import pytest
import structlog
from anyio.abc import TaskStatus

from mcp_crew_redis.errors import LifecycleError
from mcp_crew_redis.lifecycle import (
    Lifecycle,
    Service,
    ServiceState,
    StartTimeoutError,
)

pytestmark = pytest.mark.timeout(5)  # hanging is the commonest fault here


class Loop:
    """A service that writes down when it starts and ends."""

    def __init__(self, name: str, diary: list[str], needs: Sequence[str] = ()) -> None:
        self.name = name
        self.needs = needs
        self._diary = diary
        self._drained = asyncio.Event()

    async def run(self, *, task_status: TaskStatus[None]) -> None:
        self._drained.clear()
        try:
            await self.open()
            self._diary.append(f"+{self.name}")
            task_status.started()
            await self.serve()
        finally:
            self._diary.append(f"-{self.name}")

    async def open(self) -> None:
        """Do what comes before readiness."""

    async def serve(self) -> None:
        await self._drained.wait()

    def drain(self) -> None:
        self._drained.set()


class Slow(Loop):
    """Needs 0.15 s until it is ready."""

    async def open(self) -> None:
        self._diary.append(f"starting {self.name}")
        await anyio.sleep(0.15)


class Stuck(Loop):
    """Hears no drain, obeys cancellation."""

    async def serve(self) -> None:
        await anyio.sleep_forever()


class Deaf(Loop):
    """Ignores drain and cancellation until the test releases it."""

    is_released = False

    async def serve(self) -> None:
        while not self.is_released:
            try:
                await anyio.sleep(0.01)
            except asyncio.CancelledError:
                continue


class Broken(Loop):
    """Cannot start."""

    async def open(self) -> None:
        raise RuntimeError("cannot start")


class Dying(Loop):
    """Crashes when told to."""

    def __init__(self, name: str, diary: list[str], needs: Sequence[str] = ()) -> None:
        super().__init__(name, diary, needs)
        self.crash = asyncio.Event()

    async def serve(self) -> None:
        await self.crash.wait()
        raise RuntimeError(self.name)


def lifecycle(*services: Service, start: float = 0.5, drain: float = 0.5) -> Lifecycle:
    return Lifecycle(
        services, start_timeout=start, drain_timeout=drain, cancel_grace=0.2
    )


@pytest.fixture
def diary() -> list[str]:
    return []


# --- order --------------------------------------------------------------------
async def test_services_start_by_need_and_drain_in_reverse(diary):
    """Whoever is needed starts first and ends last."""
    services = (
        Loop("worker", diary, ["stream"]),
        Loop("stream", diary, ["pool"]),
        Loop("pool", diary),
    )

    async with lifecycle(*services).running():
        diary.append("body")

    assert diary == [
        *("+pool", "+stream", "+worker", "body", "-worker", "-stream", "-pool")
    ]


async def test_names_given_twice_are_refused(diary):
    """Two services of one name could not be told apart in needs and logs."""
    with pytest.raises(LifecycleError, match=r"unique.*'a'"):
        lifecycle(Loop("a", diary), Loop("a", diary))


async def test_an_unknown_need_is_refused_by_name(diary):
    """A misspelt need names the service, the need and what there is."""
    with pytest.raises(LifecycleError, match=r"'a' needs \['pol'\].*\['a', 'pool'\]"):
        lifecycle(Loop("a", diary, ["pol"]), Loop("pool", diary))


async def test_a_circle_of_needs_is_refused_by_name(diary):
    """Nobody in a circle could start first."""
    with pytest.raises(LifecycleError, match=r"circle: (a -> b|b -> a)"):
        lifecycle(Loop("a", diary, ["b"]), Loop("b", diary, ["a"]))


async def test_no_services_is_a_lifecycle_too():
    """A process that only produces passes no services."""
    async with lifecycle().running():
        pass


# --- start: all or nothing ----------------------------------------------------
async def test_failed_start_stops_what_had_started(diary):
    """The error arrives bare, the body never runs."""
    services = (Loop("a", diary), Broken("b", diary, ["a"]), Loop("c", diary, ["b"]))

    with pytest.raises(RuntimeError, match="cannot start"):
        async with lifecycle(*services).running():
            diary.append("body")

    assert diary == ["+a", "-b", "-a"]


async def test_start_timeout_names_the_service(diary):
    """A service that is not ready in time is cancelled, the rest drained."""
    services = (Loop("a", diary), Slow("slow", diary, ["a"]))

    with pytest.raises(StartTimeoutError, match=r"'slow' was not ready within 0\.02 s"):
        async with lifecycle(*services, start=0.02).running():
            diary.append("body")

    assert diary == ["+a", "starting slow", "-slow", "-a"]


async def test_start_timeout_is_a_timeout_error():
    """`except TimeoutError` finds it, and so does `except LifecycleError`."""
    assert issubclass(StartTimeoutError, TimeoutError)
    assert issubclass(StartTimeoutError, LifecycleError)


async def test_returning_before_ready_is_an_error(diary):
    """A service that never reports ready has not started."""

    class Hasty(Loop):
        async def run(self, *, task_status):
            del task_status

    with pytest.raises(LifecycleError, match="'hasty' returned before"):
        async with lifecycle(Hasty("hasty", diary)).running():
            pass


async def test_cancelled_before_entry_runs_no_body(diary):
    """A caller that is cancelled already gets an orderly nothing."""
    with anyio.CancelScope() as scope:
        scope.cancel()
        async with lifecycle(Loop("a", diary)).running():
            diary.append("body")

    assert "body" not in diary
    assert diary.count("+a") == diary.count("-a")


async def test_cancel_during_a_slow_start_drains_what_started(diary):
    """The start in progress is finished, later ones are not begun."""
    services = (
        Loop("a", diary),
        Slow("slow", diary, ["a"]),
        Loop("z", diary, ["slow"]),
    )

    with anyio.move_on_after(0.05):
        async with lifecycle(*services).running():
            diary.append("body")

    assert diary == ["+a", "starting slow", "+slow", "-slow", "-a"]


# --- drain --------------------------------------------------------------------
async def test_stuck_service_is_cancelled_after_its_deadline(diary):
    """A drain that is not heard ends in cancellation, in order."""
    services = (Stuck("a", diary), Loop("b", diary, ["a"]))

    async with lifecycle(*services, drain=0.02).running():
        pass

    assert diary == ["+a", "+b", "-b", "-a"]


async def test_a_patient_service_brings_its_own_deadline(diary):
    """`drain_timeout` of the service goes before the lifecycle's."""

    class Patient(Loop):
        drain_timeout = 0.5

        async def serve(self):
            await super().serve()
            await anyio.sleep(0.1)
            self._diary.append("finished")

    async with lifecycle(Patient("a", diary), drain=0.01).running():
        pass

    assert diary == ["+a", "finished", "-a"]


async def test_shutdown_deadline_bounds_all_drains_together(diary):
    """Ten stuck services do not take ten drain timeouts."""
    services = [Stuck(f"s{number}", diary) for number in range(10)]
    house = Lifecycle(
        services, start_timeout=1.0, drain_timeout=0.2, shutdown_timeout=0.1
    )

    with anyio.fail_after(0.5):
        async with house.running():
            pass

    assert len(diary) == 20


async def test_service_that_ignores_cancellation_is_left_behind(diary):
    """It is reported as an error; the services below it are still drained."""
    deaf = Deaf("deaf", diary, ["a"])

    with pytest.raises(LifecycleError, match="'deaf' ignored its cancellation"):
        async with lifecycle(Loop("a", diary), deaf, drain=0.02).running():
            pass

    assert diary == ["+a", "+deaf", "-a"]
    deaf.is_released = True


async def test_shielded_clean_up_outlives_the_cancellation(diary):
    """Cancelling after the deadline respects a service's own short shield."""

    class Careful(Loop):
        async def serve(self):
            try:
                await anyio.sleep_forever()
            finally:
                with anyio.CancelScope(shield=True):
                    await anyio.sleep(0.05)
                    self._diary.append("committed")

    async with lifecycle(Careful("a", diary), drain=0.01).running():
        pass

    assert diary == ["+a", "committed", "-a"]


async def test_failing_drain_is_cancelled_and_reported(diary):
    """An error in `drain()` does not stop the shutdown."""

    class Bad(Loop):
        def drain(self):
            raise KeyError("drain")

    with pytest.raises(KeyError, match="drain"):
        async with lifecycle(Loop("a", diary), Bad("b", diary, ["a"])).running():
            pass

    assert diary == ["+a", "+b", "-b", "-a"]


async def test_cutting_short_ends_a_drain_that_waits(diary):
    """A second signal does not wait for the drain timeout."""
    house = lifecycle(Stuck("a", diary), Stuck("b", diary), drain=30)

    async with house.running():
        asyncio.get_running_loop().call_later(0.02, house.cut_short)

    assert house.state is ServiceState.STOPPED


async def test_stop_is_idempotent(diary):
    """Before, during and after: stopping twice is stopping."""
    house = lifecycle(Loop("a", diary))
    house.stop()
    async with house.running():
        house.stop()
        house.stop()
    house.stop()

    assert diary == ["+a", "-a"]


async def test_running_twice_at_once_is_refused(diary):
    """The second entry says so and does not disturb the first."""
    house = lifecycle(Loop("a", diary))
    async with house.running():
        with pytest.raises(LifecycleError, match="already running"):
            async with house.running():
                pass
        assert house.state is ServiceState.RUNNING

    assert diary == ["+a", "-a"]


async def test_running_again_after_the_end_is_a_fresh_run(diary):
    """A lifecycle may be run again if its services may."""
    house = lifecycle(Loop("a", diary))
    for _ in range(2):
        async with house.running():
            pass

    assert diary == ["+a", "-a"] * 2


# --- errors -------------------------------------------------------------------
async def test_error_of_the_body_arrives_bare_after_the_drain(diary):
    """`except ValueError` around the `async with` works."""
    with pytest.raises(ValueError, match="boom"):
        async with lifecycle(Loop("a", diary)).running():
            raise ValueError("boom")

    assert diary == ["+a", "-a"]


async def test_crash_of_one_interrupts_the_body_and_drains_the_rest(diary):
    """The body leaves first, then the services end in reverse."""
    dying = Dying("b", diary, ["a"])
    services = (Loop("a", diary), dying, Loop("c", diary, ["b"]))

    with pytest.raises(RuntimeError, match="b"):
        async with lifecycle(*services).running():
            dying.crash.set()
            try:
                await anyio.sleep_forever()
            finally:
                diary.append("body left")

    assert diary == ["+a", "+b", "+c", "-b", "body left", "-c", "-a"]


async def test_crash_leaves_the_caller_uncancelled(diary):
    """After the error has been caught the task goes on as if nothing had happened."""
    dying = Dying("a", diary)
    with pytest.raises(RuntimeError):
        async with lifecycle(dying).running():
            dying.crash.set()
            await anyio.sleep_forever()

    task = asyncio.current_task()
    assert task is not None
    assert task.cancelling() == 0
    await asyncio.sleep(0)


async def test_body_that_clings_on_is_waited_for_only_so_long(diary):
    """A body deaf to its interruption does not keep the services from draining."""
    dying = Dying("b", diary, ["a"])
    with pytest.raises(RuntimeError):
        async with lifecycle(Loop("a", diary), dying, drain=0.02).running():
            dying.crash.set()
            with anyio.CancelScope(shield=True):
                try:
                    await anyio.sleep(0.1)
                except asyncio.CancelledError:
                    await anyio.sleep(0.1)
            diary.append("body left")

    assert diary == ["+a", "+b", "-b", "-a", "body left"]


async def test_two_errors_arrive_as_a_group(diary):
    """Neither the body's error nor the service's is lost."""

    class Bad(Loop):
        async def serve(self):
            await super().serve()
            raise KeyError("drain")

    with pytest.raises(ExceptionGroup) as caught:
        async with lifecycle(Bad("a", diary)).running():
            raise ValueError("body")

    assert {type(error) for error in caught.value.exceptions} == {ValueError, KeyError}


async def test_service_cancelled_from_outside_is_a_crash(diary):
    """A task that a stranger cancelled does not vanish quietly."""
    with pytest.raises(LifecycleError, match="'a' was cancelled from outside"):
        async with lifecycle(Loop("a", diary)).running():
            [task] = [t for t in asyncio.all_tasks() if t.get_name() == "service a"]
            task.cancel()
            await anyio.sleep_forever()


# --- cancellation of the caller -----------------------------------------------
async def test_cancelled_scope_drains(diary):
    """Cancellation by anyio asks for a drain and is not swallowed."""
    with anyio.CancelScope() as scope:
        async with lifecycle(Loop("a", diary), Loop("b", diary, ["a"])).running():
            scope.cancel()
            await anyio.sleep_forever()

    assert scope.cancelled_caught
    assert diary == ["+a", "+b", "-b", "-a"]


async def test_cancelled_task_drains_however_often_it_is_cancelled(diary):
    """Cancellation by asyncio, repeated in the drain, cannot tear it."""

    class Finishing(Loop):
        async def serve(self):
            await super().serve()
            await anyio.sleep(0.05)
            self._diary.append("finished")

    async def user() -> None:
        async with lifecycle(Finishing("a", diary)).running():
            diary.append("body")
            await anyio.sleep_forever()

    async with asyncio.TaskGroup() as tasks:
        task = tasks.create_task(user())
        for _ in range(5):
            await asyncio.sleep(0.005)
            task.cancel()

    assert task.cancelled()
    assert diary == ["+a", "body", "finished", "-a"]


async def test_timeout_around_the_body_is_a_timeout(diary):
    """`asyncio.timeout` works around a running lifecycle as everywhere."""
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.02), lifecycle(Loop("a", diary)).running():
            await anyio.sleep_forever()

    assert diary == ["+a", "-a"]


async def test_may_be_left_in_another_task_than_entered(diary):
    """Test frameworks set fixtures up in one task and tear them down in another."""
    manager = lifecycle(Loop("a", diary)).running()
    async with asyncio.TaskGroup() as tasks:
        tasks.create_task(manager.__aenter__())
    async with asyncio.TaskGroup() as tasks:
        tasks.create_task(manager.__aexit__(None, None, None))

    assert diary == ["+a", "-a"]


# --- what it tells ------------------------------------------------------------
async def test_statuses_follow_each_service(diary):
    """Health sees each service by name, state and the class of its error."""
    dying = Dying("b", diary, ["a"])
    house = lifecycle(Loop("a", diary), dying)
    assert [str(status.state) for status in house.statuses()] == ["stopped"] * 2

    with pytest.raises(RuntimeError):
        async with house.running():
            assert [str(each.state) for each in house.statuses()] == ["running"] * 2
            assert repr(house) == "<Lifecycle running [a: running, b: running]>"
            dying.crash.set()
            await anyio.sleep_forever()

    assert repr(house) == "<Lifecycle failed [a: stopped, b: failed]>"
    assert [status.error for status in house.statuses()] == [None, "RuntimeError"]


async def test_logs_are_events_with_durations(diary):
    """One event per step; names and milliseconds only in keys."""
    with structlog.testing.capture_logs() as logs:
        async with lifecycle(Loop("a", diary), Stuck("b", diary), drain=0.01).running():
            pass

    events = [(entry["event"], entry.get("service")) for entry in logs]
    assert events == [
        ("lifecycle.service_started", "a"),
        ("lifecycle.service_started", "b"),
        ("lifecycle.started", None),
        ("lifecycle.service_cancelled", "b"),
        ("lifecycle.service_drained", "a"),
        ("lifecycle.stopped", None),
    ]
    assert all("duration_ms" in entry or "after_ms" in entry for entry in logs)


async def test_crash_is_logged_without_its_message(diary):
    """A message may hold what the user's code put into it."""
    dying = Dying("secret", diary)
    with structlog.testing.capture_logs() as logs, pytest.raises(RuntimeError):
        async with lifecycle(dying).running():
            dying.crash.set()
            await anyio.sleep_forever()

    [crash] = [each for each in logs if each["event"] == "lifecycle.service_crashed"]
    assert crash["error"] == "RuntimeError"
    assert "exc_info" not in crash


async def test_early_return_is_logged_and_shown(diary):
    """A service that ends on its own is no crash, but it is no secret either."""

    class Short(Loop):
        async def serve(self):
            return

    house = lifecycle(Short("short", diary))
    with structlog.testing.capture_logs() as logs:
        async with house.running():
            assert house.statuses()[0].state is ServiceState.STOPPED

    assert "lifecycle.service_returned" in [entry["event"] for entry in logs]


# --- stress -------------------------------------------------------------------
async def test_ten_houses_start_and_stop_fifty_times_each(diary):
    """Nothing accumulates; the leak guard looks for tasks afterwards."""

    async def live(number: int) -> None:
        house = lifecycle(Loop("a", []), Loop("b", [], ["a"]))
        for turn in range(50):
            with anyio.move_on_after(0.001 if turn % 5 == number % 5 else None):
                async with house.running():
                    if turn % 5 == number % 5:
                        await anyio.sleep_forever()

    with structlog.testing.capture_logs():
        async with anyio.create_task_group() as tasks:
            for number in range(10):
                tasks.start_soon(live, number)

    assert asyncio.all_tasks() == {asyncio.current_task()}


async def test_stopped_while_starting_never_runs_the_body(diary):
    """Whoever stopped it did not mean the body to run; the entry says so."""
    house = lifecycle(Slow("slow", diary))
    asyncio.get_running_loop().call_later(0.02, house.stop)

    with pytest.raises(LifecycleError, match="stopped before it had started"):
        async with house.running():
            diary.append("body")

    assert diary == ["starting slow", "+slow", "-slow"]
