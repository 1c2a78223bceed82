"""The demo as its user runs it, and what it leaves behind: nothing."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from mcp_crew_redis.cli.agents import BOARD
from mcp_crew_redis.cli.dialogue import Assignment, Order
from mcp_crew_redis.cli.failure import DemoError, reason_of
from mcp_crew_redis.cli.items import Item, digest_of
from mcp_crew_redis.cli.mcp_servers import McpServerSpec, Patience, running_servers
from mcp_crew_redis.cli.second_process import second_process
from mcp_crew_redis.cli.shelf import Shelf
from mcp_crew_redis.cli.talk import Talk
from mcp_crew_redis.clock import SystemClock
from mcp_crew_redis.crew import CrewRedis
from mcp_crew_redis.events.kinds import EventType
from mcp_crew_redis.settings import CrewSettings
from mcp_crew_redis.types import DataType
from tests.rig.servers import RealServer
from tests.rig.waiting import wait_until, wait_until_blocking

REPOSITORY = Path(__file__).resolve().parents[2]
DEMO = ("-m", "mcp_crew_redis", "demo")
needs_proc = pytest.mark.skipif(
    not Path("/proc/self/stat").exists(), reason="looks at processes through /proc"
)


def run_demo(
    *options: str,
    python: str | Path = sys.executable,
    cwd: Path = REPOSITORY,
    **env: str,
) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [python, *DEMO, *options],
        cwd=cwd,
        env=os.environ | env,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=50,
        check=False,
    )


@contextmanager
def demo_process(
    *options: str, stdin: int = subprocess.PIPE
) -> Iterator[subprocess.Popen[str]]:
    """Run the demo in the background; kill it if the test has not ended it."""
    with subprocess.Popen(
        [sys.executable, *DEMO, *options],
        cwd=REPOSITORY,
        # numpy's BLAS has threads of its own, which are not what a test counts.
        env=os.environ | {"OPENBLAS_NUM_THREADS": "1"},
        stdin=stdin,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    ) as process:
        try:
            yield process
        finally:
            process.kill()


def read_until(process: subprocess.Popen[str], words: str) -> None:
    """Read its output up to the line with `words`; its end is a failure."""
    assert process.stdout is not None
    seen: list[str] = []
    for line in process.stdout:
        seen.append(line)
        if words in line:
            return
    pytest.fail(f"{words!r} not in:\n{''.join(seen)}")


# --- processes ----------------------------------------------------------------
def living() -> dict[int, tuple[int, str]]:
    """Parent and start time of every process that is not a zombie, by its id."""
    found: dict[int, tuple[int, str]] = {}
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            fields = (folder / "stat").read_text().rpartition(")")[2].split()
        except OSError:
            continue  # it ended while we looked
        if fields[0] != "Z":
            found[int(folder.name)] = (int(fields[1]), fields[19])
    return found


def offspring(pid: int) -> dict[int, str]:
    """Id, start time of all that descends from `pid`; both, since ids are reused."""
    processes = living()
    family = {pid}
    while grown := {p for p, (parent, _) in processes.items() if parent in family}:
        if grown <= family:
            break
        family |= grown
    return {p: processes[p][1] for p in family - {pid} if p in processes}


def wait_until_gone(processes: dict[int, str], timeout: float = 8.0) -> None:
    def all_gone() -> bool:
        now = living()
        return not any(p in now and now[p][1] == t for p, t in processes.items())

    wait_until_blocking(all_gone, "every process of the demo has ended", timeout)


KEYS_BY_TENANT = re.compile(
    r"ok     keys the server has by tenant: acme (\d+), nova \1; 0 seen by the other\n"
)
RUNG = re.compile(r"ok     (?:acme|nova) changed \S+: the other process, rung after")


def all_came_back(output: str) -> int:
    """Return how many values the other process read; all of them must be equal."""
    told = re.search(r"ok     (\d+) of \1 values came back equal", output)
    assert told, output
    return int(told[1])


# --- the story ----------------------------------------------------------------
@pytest.fixture(scope="module")
def stories() -> list[subprocess.CompletedProcess[str]]:
    """What two runs, one after the other, have told."""
    return [run_demo(), run_demo()]


def test_everything_reads_back_equal_twice_in_a_row(
    stories: list[subprocess.CompletedProcess[str]],
) -> None:
    """Two runs, one after the other, tell the same and complain of nothing."""
    for done in stories:
        assert (done.returncode, done.stderr) == (0, "")
        assert all_came_back(done.stdout) >= 20
        assert KEYS_BY_TENANT.search(done.stdout)
        assert len(RUNG.findall(done.stdout)) == 2
        assert "ok     1,000 of 1,000 concurrent reads equal" in done.stdout
        assert "get_current_time, convert_time" in done.stdout
        assert "mcp-crew:tools:{acme}:git" in done.stdout
        assert "\x1b" not in done.stdout


def figure(output: str, name: str) -> int:
    """Return the last figure of a row of the outage's table."""
    told = re.search(rf"^  {re.escape(name)} .*?([\d,]+)$", output, re.MULTILINE)
    assert told, output
    return int(told[1].replace(",", ""))


def figures(output: str, name: str) -> list[int]:
    """Return all figures of a row."""
    told = re.search(rf"^  {re.escape(name)} +([\d, ]+)$", output, re.MULTILINE)
    assert told, output
    return [int(each.replace(",", "")) for each in told[1].split()]


def test_killed_redis_costs_the_agents_nothing(
    stories: list[subprocess.CompletedProcess[str]],
) -> None:
    """Writes are deferred, conflicts happen, every entry is accounted for."""
    for done in stories:
        output = done.stdout[done.stdout.index("Redis is killed") :]
        output = output[: output.index("Every event is accounted for")]
        entries = figure(output, "journal entries, one a key")
        kept = figure(output, "kept the other's newer")
        own = figure(output, "replaced by its own newer")

        assert figure(output, "writes accepted") > figure(output, "of them deferred")
        assert figure(output, "of them deferred") > entries
        assert figure(output, "synchronised") + kept + own == entries
        assert kept > 0
        assert (figure(output, "lost"), figure(output, "clobbered")) == (0, 0)


def test_events_are_told_and_counted(
    stories: list[subprocess.CompletedProcess[str]],
) -> None:
    """A backlog is overtaken, a poison buried and replayed, and nothing is lost."""
    for done in stories:
        overtaken = re.search(r"critical alerts passed (\d+) events", done.stdout)
        deferred = re.search(r"processes, (\d+) of them into", done.stdout)
        assert overtaken
        assert deferred
        assert int(overtaken[1]) > 50
        assert int(deferred[1]) > 50
        assert re.search(r"\d+ tool.discovered: each tool when", done.stdout)
        assert done.stdout.count("invalid literal for int() with base 10: 'two'") == 2
        assert "acme's dead letter replayed and handled, nova's purged" in done.stdout
        assert "acme's deferred, nova's deferred" in done.stdout
        assert "own books agree: 2 dead letters, 0 lost, 0 waiting" in done.stdout


def test_count_of_events_balances(
    stories: list[subprocess.CompletedProcess[str]],
) -> None:
    """Of what was published for a group all is handled or purged, by four groups."""
    for done in stories:
        output = done.stdout[done.stdout.index("Every event is accounted for") :]
        published = figures(output, "published for the group")
        handled = figures(output, "handled")
        purged = figures(output, "of them purged")

        assert len(published) == 4
        assert all(published)
        assert [sum(both) for both in zip(handled, purged, strict=True)] == published
        assert figures(output, "dead letters") == [0, 0, 2, 0]
        assert sum(figures(output, "redelivered")) >= 4
        assert figures(output, "lost") == [0, 0, 0, 0]


def test_path_with_a_space_and_no_checkout(tmp_path: Path) -> None:
    """A virtual environment, a folder and a temporary folder with spaces are fine."""
    home = tmp_path / "a path with spaces"
    temporary = home / "the temporary folder"
    temporary.mkdir(parents=True)
    (home / "venv").symlink_to(sys.prefix)

    python = home / "venv" / "bin" / "python"
    done = run_demo(python=python, cwd=home, TMPDIR=str(temporary))

    assert (done.returncode, done.stderr) == (0, "")
    assert "no git checkout here" in done.stdout
    assert "A commit for the demo to find" in done.stdout
    assert list(temporary.iterdir()) == []


def test_without_git_the_git_server_is_skipped_and_said_so(tmp_path: Path) -> None:
    """A machine without git still gets the rest of the story."""
    done = run_demo(PATH=str(tmp_path))

    assert (done.returncode, done.stderr) == (0, "")
    assert "skipped mcp-server-git: there is no git" in done.stdout
    assert all_came_back(done.stdout) >= 12


def test_settings_of_the_application_do_not_reach_its_data(tmp_path: Path) -> None:
    """The demo keeps away from the application's server and its folders."""
    done = run_demo(
        REDIS_CREW_URL="redis://:secret@redis.invalid:6390/3",
        REDIS_CREW_DATA_DIR=str(tmp_path),
        REDIS_CREW_JOURNAL_DIR=str(tmp_path),
        REDIS_CREW_PREFIX="mine:",
    )

    assert (done.returncode, done.stderr) == (0, "")
    assert "mine:tools:{acme}:time" in done.stdout
    assert list(tmp_path.iterdir()) == []


# --- the end ------------------------------------------------------------------
@needs_proc
@pytest.mark.parametrize(
    "words",
    ["MCP servers over stdio", "One call of each", "Kept in", "slow", "kill   SIGKILL"],
)
@pytest.mark.parametrize(
    ("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)]
)
def test_signal_leaves_no_process(words: str, number: int, code: int) -> None:
    """Ctrl-C and SIGTERM end the demo and all it has started, without a traceback."""
    with demo_process() as process:
        read_until(process, words)
        started = offspring(process.pid)
        process.send_signal(number)
        output = process.communicate(timeout=20)[0]

    # Past the last check the story is told, and the signal only hastens its end.
    is_told = "waiting or unacknowledged" in output
    assert process.returncode in ((code, 0) if is_told else (code,))
    assert "Traceback" not in output
    wait_until_gone(started)


@needs_proc
def test_kill_9_leaves_no_process_and_no_folder() -> None:
    """A demo killed at once takes all that it has started with it."""
    with demo_process("--keep") as process:
        read_until(process, "Everything keeps running")
        assert process.stdout is not None
        socket = Path(process.stdout.readline().split()[-1])
        started = offspring(process.pid)
        assert socket.exists()
        assert len(started) >= 5, "warden, server, two MCP servers, second process"

        process.kill()
        process.wait()

        wait_until_gone(started)
        wait_until_blocking(lambda: not socket.parent.exists(), "its folder is gone")


@needs_proc
def test_enter_ends_the_look() -> None:
    """With --keep everything stays until Enter, in one thread; then all of it goes."""
    with demo_process("--keep") as process:
        read_until(process, "Everything keeps running")
        started = offspring(process.pid)
        threads = list(Path(f"/proc/{process.pid}/task").iterdir())
        process.communicate("\n", timeout=20)

    assert process.returncode == 0
    assert len(threads) == 1
    wait_until_gone(started)


@needs_proc
def test_ctrl_c_ends_the_look_when_there_is_no_keyboard() -> None:
    """Without a usable standard input --keep waits for a signal; the exit code is 0."""
    with demo_process("--keep", stdin=subprocess.DEVNULL) as process:
        read_until(process, "demo   process")
        started = offspring(process.pid)
        process.send_signal(signal.SIGINT)
        output = process.communicate(timeout=20)[0]

    assert (process.returncode, output) == (0, "")
    wait_until_gone(started)


def test_reader_that_leaves_ends_the_demo_quietly() -> None:
    """`demo | head -1` ends without a traceback."""
    with demo_process() as process:
        read_until(process, "MCP servers over stdio")
        assert process.stdout is not None
        process.stdout.close()

        assert process.wait(timeout=20) == 1


# --- MCP servers that do not do -----------------------------------------------
def spec(*arguments: str, module: str = "json") -> McpServerSpec:
    return McpServerSpec(
        name="odd", package="mcp-server-odd", module=module, arguments=arguments
    )


async def reason_for(one: McpServerSpec, patience: Patience) -> str | None:
    """Start a server that cannot work; return what the user is told."""
    try:
        async with running_servers([one], SystemClock(), patience):
            pytest.fail("it must not start")
    except Exception as error:  # noqa: BLE001 - the reason is what is tested
        return reason_of(error)


async def test_server_that_is_not_installed_names_its_package() -> None:
    """A missing package is found before anything is started."""
    reason = await reason_for(spec(module="no_such_module"), Patience())

    assert reason is not None
    assert "pip install mcp-server-odd" in reason


async def test_server_that_ends_at_once_is_quoted() -> None:
    """What a failing server says last is part of the reason, and the remedy too."""
    reason = await reason_for(
        spec("-c", "raise SystemExit('no time zones here')"), Patience()
    )

    assert reason is not None
    assert "no time zones here" in reason
    assert "pip install mcp-server-odd" in reason


async def test_server_that_says_nothing_is_given_up() -> None:
    """A server that never answers costs its deadline, and is not left running."""
    mute = spec("-c", "import sys; sys.stdin.read()")

    reason = await reason_for(mute, Patience(start=0.5))

    assert reason is not None
    assert "starting" in reason
    assert "took longer than 0.5 s" in reason


# --- the second process -------------------------------------------------------
def assignment(server: RealServer, *tenants: str) -> Assignment:
    return Assignment(
        socket=server.unix_socket, db=0, prefix="mcp-crew:", tenants=tenants
    )


@pytest.fixture
async def crew(server: RealServer) -> AsyncIterator[CrewRedis]:
    settings = CrewSettings(unix_socket=Path(server.unix_socket))
    async with CrewRedis(settings) as crew:
        yield crew


async def test_second_process_reads_what_it_was_not_told_of(
    server: RealServer, crew: CrewRedis
) -> None:
    """It finds values by tenant and type; of a tenant it is not asked for, nothing."""
    await crew.tenant("acme").set(DataType.TOOLS, "git", ["log"])
    await crew.tenant("nova").set(DataType.TOOLS, "time", ["now"])

    async with second_process(assignment(server, "acme")) as second:
        readings = await second.readings()

    assert list(readings) == [("acme", "tools", "git")]
    assert readings["acme", "tools", "git"].digest == digest_of(["log"])


async def test_second_process_is_rung_and_reads_what_is_new(
    server: RealServer, crew: CrewRedis
) -> None:
    """A change and a delete ring; the digest is that of what stands then."""
    tenant = crew.tenant("acme")
    async with second_process(assignment(server, "acme")) as second:
        assert await second.readings() == {}
        await tenant.set(DataType.KNOWLEDGE, "topic", "new")
        changed = await second.ring()
        await tenant.delete(DataType.KNOWLEDGE, "topic")
        deleted = await second.ring()

    assert (changed.tenant_id, changed.identifier) == ("acme", "topic")
    assert (changed.digest, deleted.digest) == (digest_of("new"), "")


async def test_second_process_without_a_server_is_quoted(tmp_path: Path) -> None:
    """What it says last is what the user is told."""
    nowhere = Assignment(
        socket=str(tmp_path / "nowhere"), db=0, prefix="mcp-crew:", tenants=("acme",)
    )

    with pytest.raises(DemoError, match=r"does not go on: .*nowhere"):
        async with second_process(nowhere) as second:
            await second.readings()


async def test_second_process_works_when_told(
    server: RealServer, crew: CrewRedis
) -> None:
    """Its agents write until they are told to stop, and it tells all they did."""
    async with second_process(assignment(server, "acme")) as second:
        await second.readings()
        await second.obey(Order.WORK)
        board = await second.obey(Order.BOARD)
        work = await second.obey(Order.STOP)

    written = {write.name for write in work.writes}
    names = await Shelf(crew, SystemClock()).names_by_tenant()
    assert board.writes == []
    assert {write.outcome for write in work.writes} >= {"stored", "deleted", "counted"}
    assert names["acme"] >= {("acme", "state", name) for name in BOARD}
    assert names["acme"] <= written
    assert (work.reads.wrong, work.journal["depth"]) == (0, 0)


async def test_second_process_tells_what_it_has_said_and_heard(
    server: RealServer, crew: CrewRedis
) -> None:
    """It hears of the tenants it is for, and answers each alert with an event."""
    async with second_process(assignment(server, "acme")) as second:
        await second.readings()
        for tenant_id in ("acme", "nova"):
            await crew.tenant(tenant_id).events.publish(
                EventType.ALERT_RAISED, {"tenant": tenant_id}, event_id=tenant_id
            )
        talk = Talk()

        async def is_heard() -> bool:
            nonlocal talk
            talk = (await second.obey(Order.TELL)).talk
            return bool(talk.heard)

        await wait_until(is_heard, "the alert is heard")

    assert [(one.group, one.event_id) for one in talk.heard] == [("watch", "acme")]
    assert [(one.event_id, one.outcome) for one in talk.said] == [
        ("acme-answered", "stored")
    ]


async def test_second_process_that_is_killed_is_noticed(server: RealServer) -> None:
    """The demo does not wait for a process that is no more."""

    async def kill_it() -> None:
        async with second_process(assignment(server, "acme")) as second:
            await second.readings()
            os.kill(second.pid, signal.SIGKILL)
            await second.obey(Order.BOARD)

    with pytest.raises(DemoError, match="does not go on"):
        await kill_it()


# --- the checks can fail ------------------------------------------------------
async def test_value_changed_on_the_way_is_not_equal(
    server: RealServer, crew: CrewRedis
) -> None:
    """The burst's comparison sees another value and one that has gone."""
    first, second = (
        Item(
            tenant_id="acme",
            data_type=DataType.CACHE,
            identifier=name,
            kind=None,
            value={"n": 1},
        )
        for name in "ab"
    )
    shelf = Shelf(crew, SystemClock())
    written = await shelf.write(first)
    await shelf.write(second)
    assert written.key == "mcp-crew:cache:{acme}:a"
    assert (await shelf.read_many([first, second], 10)).equal_count == 10

    await crew.tenant("acme").set(DataType.CACHE, "a", {"n": 2})
    assert (await shelf.read_many([first, second], 10)).equal_count == 5

    await crew.tenant("acme").delete(DataType.CACHE, "b")
    assert (await shelf.read_many([first, second], 10)).equal_count == 0


async def test_stray_tenant_is_found(server: RealServer, crew: CrewRedis) -> None:
    """The look at the server sees every tenant, not only those of the story."""
    await crew.tenant("third").set(DataType.STATE, "x", 1)

    found = await Shelf(crew, SystemClock()).names_by_tenant()

    assert found == {"third": {("third", "state", "x")}}
