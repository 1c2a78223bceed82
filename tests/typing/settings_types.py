"""What type checkers make of the settings: checked by mypy and pyright, never run."""

from __future__ import annotations

from pathlib import Path
from typing import Literal, assert_type

from pydantic import SecretStr

from mcp_crew_redis import CrewSettings, DataType, WriteOutcome


def settings() -> None:
    """Each field has one narrow type."""
    made = CrewSettings(host="localhost", port=6380)
    assert_type(made.host, str)
    assert_type(made.port, int)
    assert_type(made.password, SecretStr | None)
    assert_type(made.command_timeout, float)
    assert_type(made.data_dir, Path | None)
    assert_type(made.start, Literal["degraded", "strict"])
    assert_type(made.ttl, dict[str, float])
    assert_type(made.wire.pool_size, int)
    assert_type(made.endpoint.host, str)


def takes_text(text: str) -> None:
    """Any function that wants a string."""


def words() -> None:
    """Enumerations are strings too."""
    assert_type(DataType("tools"), DataType)
    takes_text(WriteOutcome.STORED)
