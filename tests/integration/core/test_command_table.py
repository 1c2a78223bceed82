"""The command table against what each server says of its own commands."""

from __future__ import annotations

import pytest

from mcp_crew_redis._core import commands
from mcp_crew_redis._core.commands import CommandClass, classify

pytestmark = pytest.mark.every_server

#: Left out of the table on purpose: they take long, move data or roles, or end the
#: server, so each travels alone.
ALONE = frozenset(
    {
        "CLUSTER CANCELSLOTMIGRATIONS", "CLUSTER FLUSHSLOT", "CLUSTER MIGRATESLOTS",
        "CLUSTER GETSLOTMIGRATIONS", "CLUSTER SYNCSLOTS", "DEBUG", "FAILOVER",
        "MIGRATE", "MODULE LOAD", "MODULE LOADEX", "MODULE UNLOAD", "PFSELFTEST",
        "REPLICAOF", "SAVE", "SHUTDOWN", "SLAVEOF",
    }
)  # fmt: skip

#: What changes the connection that it arrives on.
STATEFUL = frozenset(
    {
        "ASKING", "AUTH", "CLIENT CACHING", "CLIENT CAPA", "CLIENT IMPORT-SOURCE",
        "CLIENT NO-EVICT", "CLIENT NO-TOUCH", "CLIENT REPLY", "CLIENT TRACKING",
        "DISCARD", "EXEC", "HELLO", "MONITOR", "MULTI", "PSUBSCRIBE", "PSYNC",
        "PUNSUBSCRIBE", "QUIT", "READONLY", "READWRITE", "REPLCONF", "RESET",
        "SCRIPT DEBUG", "SELECT", "SSUBSCRIBE", "SUBSCRIBE", "SUNSUBSCRIBE", "SYNC",
        "UNSUBSCRIBE", "UNWATCH", "WATCH",
    }
)  # fmt: skip


@pytest.fixture
def table(server) -> dict[str, frozenset[str]]:
    """Every command and subcommand of the server, with its flags."""
    rows: dict[str, frozenset[str]] = {}
    entries = list(server.execute("COMMAND").values())

    def name_of(entry) -> str:
        name = entry["name"]
        text = name.decode() if isinstance(name, bytes) else name
        return text.upper().replace("|", " ")

    for entry in entries:
        for one in entry.get("subcommands") or [entry]:
            if isinstance(one, list):
                text, flags = one[0].decode(), one[2]
                name = text.upper().replace("|", " ")
            else:
                name, flags = name_of(one), one["flags"]
            rows[name] = frozenset(
                flag.decode() if isinstance(flag, bytes) else str(flag)
                for flag in flags
            )
    assert len(rows) > 300
    return rows


def kind_of(name: str) -> CommandClass:
    return classify(tuple(name.split(" ")))


def test_readonly_commands_are_those_of_the_server(table):
    """What may be repeated is what the server calls readonly, no more and no less."""
    known = {name for name, flags in table.items() if "module" not in flags}
    theirs = {name for name in known if "readonly" in table[name]}
    ours = {name for name in known if name in commands.READS}
    assert ours == theirs


def test_commands_that_may_block_have_a_connection_of_their_own(table):
    """Except the stream readers, which block only with BLOCK."""
    blocking = {name for name, flags in table.items() if "blocking" in flags}
    shared = {name for name in blocking if kind_of(name) is CommandClass.SHARED}
    assert shared == {"XREAD", "XREADGROUP"}
    for name in ("XREAD", "XREADGROUP"):
        assert name not in commands.SHARED
        args = (name, "block", 100, "STREAMS", "s", "$")
        assert classify(args) is CommandClass.DEDICATED


def test_every_blocking_command_has_its_timeout_read(table):
    """A new blocking command must not be cut off by our own timeout."""
    blocking = {name for name, flags in table.items() if "blocking" in flags}
    assert blocking <= set(commands.BLOCKING) | {"XREAD", "XREADGROUP"}


def test_commands_that_change_their_connection_are_not_shared(table):
    """Each is told where to go, or refused."""
    for name in STATEFUL & set(table):
        assert kind_of(name) in (CommandClass.OWN, CommandClass.REFUSED), name


def test_pubsub_commands_are_not_shared(table):
    """Whatever the server flags as pubsub and is no question and no message."""
    flagged = {name for name, flags in table.items() if "pubsub" in flags}
    shared = {name for name in flagged if kind_of(name) is CommandClass.SHARED}
    assert {name.partition(" ")[0] for name in shared} <= {"PUBLISH", "SPUBLISH",
                                                           "PUBSUB"}  # fmt: skip


def test_every_command_is_in_a_class_on_purpose(table):
    """A command that a new server brings must be looked at once."""
    listed = (
        commands.READS
        | commands.WRITES
        | commands.ADMINISTRATION
        | commands.OWN
        | commands.REFUSED
        | set(commands.BLOCKING)
        | ALONE
    )
    modules = {name for name, flags in table.items() if "module" in flags}
    assert set(table) - listed - modules == set()
    assert all(kind_of(name) is CommandClass.DEDICATED for name in modules | ALONE)


def test_writes_of_the_server_are_never_reads_of_ours(table):
    """The one mistake that executes a write twice."""
    writes = {name for name, flags in table.items() if "write" in flags}
    assert writes & commands.READS == set()
