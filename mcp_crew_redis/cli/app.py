"""The commands, their options and their exit codes."""

from __future__ import annotations

import asyncio
import io
import logging
import os
import sys
from collections.abc import Sequence
from importlib.metadata import version
from importlib.util import find_spec
from typing import Annotated

import anyio
import typer

from mcp_crew_redis._core.server_binary import find_server_binary
from mcp_crew_redis.cli.failure import ReaderGoneError, leaves, reason_of
from mcp_crew_redis.cli.report import Report
from mcp_crew_redis.cli.stopping import Ending, stoppable
from mcp_crew_redis.errors import ConfigurationError
from mcp_crew_redis.settings import CrewSettings

__all__ = ["app", "run"]

_REMEDY = "pip install 'mcp-crew-redis[cli,mcp,embedded]'"
_SIGINT_CODE = 130

app = typer.Typer(
    name="mcp-crew-redis",
    help="The asyncio Redis layer for multi-agent (MCP) systems.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)


def run(arguments: Sequence[str]) -> int:
    """Run one command and return its exit code; `main()` says what the codes mean."""
    if isinstance(sys.stdout, io.TextIOWrapper):
        # What MCP servers say may not fit a narrow encoding: print "?" then.
        sys.stdout.reconfigure(errors="replace")
    try:
        app(list(arguments), prog_name="mcp-crew-redis")
    except SystemExit as end:
        return end.code if isinstance(end.code, int) else int(end.code is not None)
    return 0


def _print_version(wanted: bool) -> None:  # noqa: FBT001 - typer calls it
    if wanted:
        typer.echo(f"mcp-crew-redis {version('mcp-crew-redis')}")
        raise typer.Exit


@app.callback()
def _options(
    *,
    _version: Annotated[
        bool,
        typer.Option(
            "--version",
            callback=_print_version,
            is_eager=True,
            help="Print the version and exit.",
        ),
    ] = False,
) -> None:
    """Say what the commands have in common."""


@app.command()
def demo(
    *,
    plain: Annotated[
        bool,
        typer.Option("--plain", help="No colours, no wrapping; the default in a pipe."),
    ] = False,
    keep: Annotated[
        bool,
        typer.Option("--keep", help="Leave everything running until Enter or Ctrl-C."),
    ] = False,
) -> None:
    """Two real MCP servers, two tenants, two processes, one embedded Redis: a tour.

    Takes seconds. Exits with 0 only if all that was stored was read back equal by the
    other process, no tenant saw another's, every change was rung, nothing that was
    accepted while Redis was dead is lost or stands over something newer, and every
    event of the agents was handled by every group that wants it, or purged by hand.
    """
    if find_spec("mcp") is None:
        _complain(
            "mcp is not installed; pip install 'mcp-crew-redis[cli,mcp,embedded]'"
        )
        raise typer.Exit(2)
    raise typer.Exit(_run_demo(is_plain=plain, keep=keep))


def _run_demo(*, is_plain: bool, keep: bool) -> int:
    logging.getLogger("mcp").setLevel(logging.CRITICAL)
    _watch_children_without_threads()
    report = Report(sys.stdout, is_plain=is_plain)
    try:
        # A tour must not write into the application's own folder.
        settings = CrewSettings(data_dir=None, journal_dir=None)
        find_server_binary(settings.embedded_server.binary)
        return anyio.run(_tell, report, settings, keep)
    except Exception as error:
        code = _exit_code(error)
        if code is None:
            raise  # a fault of ours: its traceback is what helps
        return code


async def _tell(report: Report, settings: CrewSettings, keep: bool) -> int:  # noqa: FBT001 - anyio.run
    ending = Ending()
    async with stoppable() as stop:
        # The SDK takes most of a second to import: by now Ctrl-C is listened to.
        from mcp_crew_redis.cli.demo import Stage, tell

        await tell(Stage(report=report, settings=settings, keep=keep), ending)
    return ending.exit_code(stop)


def _exit_code(error: Exception) -> int | None:
    """Say what went wrong and return its code; None for what nobody foresaw."""
    causes = list(leaves(error))
    if any(isinstance(cause, ReaderGoneError) for cause in causes):
        _discard_output()
        return 1
    reason = reason_of(error)
    if reason is None:
        return None
    _complain(reason)
    return 2 if any(isinstance(cause, ConfigurationError) for cause in causes) else 1


def _watch_children_without_threads() -> None:
    """On Python 3.11 asyncio takes a thread for each child, unless told otherwise."""
    if sys.version_info < (3, 12) and hasattr(os, "pidfd_open"):
        try:
            os.close(os.pidfd_open(os.getpid()))
        except OSError:
            return  # an old kernel, or a sandbox that forbids it
        asyncio.get_event_loop_policy().set_child_watcher(asyncio.PidfdChildWatcher())


def _complain(reason: str) -> None:
    typer.echo(f"mcp-crew-redis: {reason}", err=True)


def _discard_output() -> None:
    """Keep the interpreter from flushing into the broken pipe once more."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, sys.stdout.fileno())
    os.close(nowhere)
