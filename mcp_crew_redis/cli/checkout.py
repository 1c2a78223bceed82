"""A git checkout for the git MCP server to look at: this one, else a small new one."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import AsyncGenerator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import anyio

from mcp_crew_redis.cli.failure import DemoError

__all__ = ["Checkout", "git_checkout"]

_TIMEOUT = 10.0
_AUTHOR = (
    *("-c", "user.name=mcp-crew-redis demo", "-c", "user.email=demo@localhost"),
    *("-c", "commit.gpgsign=false", "-c", "core.hooksPath=/dev/null"),
)


@dataclass(frozen=True, slots=True)
class Checkout:
    """A folder with at least one commit, and whether it was made for the demo."""

    path: Path
    is_temporary: bool


@asynccontextmanager
async def git_checkout(start: Path) -> AsyncGenerator[Checkout | None, None]:
    """Find the checkout that `start` is in, or make one for as long as the body runs.

    Yields:
        The checkout; None when this machine has no git.

    Raises:
        DemoError: git cannot make one, or takes longer than 10 s.
    """
    if shutil.which("git") is None:
        yield None
        return
    code, out, _ = await _git("rev-parse", "--show-toplevel", "HEAD", cwd=start)
    if code == 0:
        yield Checkout(Path(out.splitlines()[0]), is_temporary=False)
        return
    with tempfile.TemporaryDirectory(prefix="mcr-git-") as folder:
        path = Path(folder)
        await _must(("init", "--quiet"), cwd=path)
        message = "A commit for the demo to find"
        command = (*_AUTHOR, "commit", "--quiet", "--allow-empty", "-m", message)
        await _must(command, cwd=path)
        yield Checkout(path, is_temporary=True)


async def _must(command: Sequence[str], *, cwd: Path) -> None:
    code, _, complaint = await _git(*command, cwd=cwd)
    if code != 0:
        raise DemoError(f"git cannot make a checkout for the demo: {complaint}")


async def _git(*command: str, cwd: Path) -> tuple[int, str, str]:
    # A hook that runs the demo has GIT_DIR and the like set: not meant for this.
    clean = {k: v for k, v in os.environ.items() if not k.startswith("GIT_")}
    with anyio.move_on_after(_TIMEOUT):
        done = await anyio.run_process(
            ["git", *command], cwd=cwd, env=clean, check=False
        )
        output = done.stdout.decode(errors="surrogateescape")
        return done.returncode, output, done.stderr.decode(errors="replace").strip()
    raise DemoError(f"git took longer than {_TIMEOUT:g} s")
