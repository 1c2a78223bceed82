"""A directory of journals for each test."""

from __future__ import annotations

import pytest

from tests.unit.journal.parts import Bench


@pytest.fixture
def bench(tmp_path):
    made = Bench(tmp_path / "journals")
    yield made
    made.close()
