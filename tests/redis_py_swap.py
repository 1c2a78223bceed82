"""Pytest plugin of `redis_py_suite.py`: swaps the class, notes the outcomes.

Loaded by `-p redis_py_swap`, before redis-py's own conftest imports anything. It reads
two variables that the suite sets: `SWAP_CLASS` (`module:Class`, or empty to leave
redis-py as it is) and `SWAP_OUTCOMES` (a file that gets one JSON line per phase, at
once, so that a run that hangs or dies still tells how far it came).
"""

from __future__ import annotations

import importlib
import json
import os
from collections.abc import Iterator
from pathlib import Path

import pytest
import redis.asyncio
import redis.asyncio.client

__all__ = ["pytest_runtest_logreport", "swap_class"]


def swap_class(spec: str) -> None:
    """Replace redis-py's asyncio class by `module:Class`, wherever a test finds it."""
    module, _, name = spec.partition(":")
    ours = getattr(importlib.import_module(module), name)
    for home in (redis.asyncio, redis.asyncio.client):
        for alias in ("Redis", "StrictRedis"):
            if hasattr(home, alias):
                setattr(home, alias, ours)


def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    """Append the outcome of one phase (setup, call or teardown) of one test."""
    expected = hasattr(report, "wasxfail")
    line = {
        "test": report.nodeid.removeprefix("tests/test_asyncio/"),
        "when": report.when,
        "outcome": ("x" if expected else "") + report.outcome,
        "said": next(_last_words(report), ""),
    }
    with Path(os.environ["SWAP_OUTCOMES"]).open("a") as file:
        file.write(json.dumps(line) + "\n")


def _last_words(report: pytest.TestReport) -> Iterator[str]:
    """Yield the first line of what a failed phase said."""
    if not report.failed:
        return
    crash = getattr(report.longrepr, "reprcrash", None)
    text = crash.message if crash is not None else report.longreprtext
    yield from text.strip().splitlines()[:1]


if os.environ.get("SWAP_CLASS"):
    swap_class(os.environ["SWAP_CLASS"])
