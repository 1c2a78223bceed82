"""Helpers for tests of code that uses the crew, and a pytest plugin.

`ManualClock` is a clock that the test moves. `FaultProxy` stands between a client and
its server and breaks on command. `LocalServer` is a real server that the test may kill,
pause, restart and make to refuse. `find_key_leaks` tells which keys never expire. With
pytest-asyncio installed, these fixtures exist:

    crew_redis_server       an embedded server for the whole test session
    crew_redis              a started `CrewRedis` on it, with a key prefix of its own
    crew_redis_key_leaks    fails the test if `crew_redis` leaves a key for ever

pytest imports this module in every run on this machine: what it offers is loaded when
it is first used.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import pytest

    from mcp_crew_redis.testing.key_leaks import find_key_leaks
    from mcp_crew_redis.testing.manual_clock import ManualClock
    from mcp_crew_redis.testing.proxy import FaultProxy
    from mcp_crew_redis.testing.server import LocalServer

__all__ = ["FaultProxy", "LocalServer", "ManualClock", "find_key_leaks"]

_HOMES = {
    "FaultProxy": "mcp_crew_redis.testing.proxy",
    "LocalServer": "mcp_crew_redis.testing.server",
    "ManualClock": "mcp_crew_redis.testing.manual_clock",
    "find_key_leaks": "mcp_crew_redis.testing.key_leaks",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(_HOMES[name]), name)


def pytest_configure(config: pytest.Config) -> None:
    """Offer the fixtures where pytest-asyncio can run them."""
    if config.pluginmanager.hasplugin("asyncio"):
        for name in ("fixtures", "key_leaks"):
            module = importlib.import_module(f"mcp_crew_redis.testing.{name}")
            config.pluginmanager.register(module, f"mcp_crew_redis.{name}")
