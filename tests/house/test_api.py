"""The public API changes only when somebody means it to."""

from __future__ import annotations

import re
from pathlib import Path

import mcp_crew_redis
from tests.house.api import describe
from tests.house.documents import DOCUMENTS, ROOT

SNAPSHOT = Path(__file__).with_name("api.txt")


def test_the_public_api_is_the_one_written_down():
    """Meant? `python -m tests.house.api > tests/house/api.txt`, and say so."""
    assert describe() == SNAPSHOT.read_text(encoding="utf-8")


def test_public_names_are_sorted_and_each_has_a_home():
    """`__all__` and the table of lazy names are the same names."""
    names = mcp_crew_redis.__all__

    assert names == sorted(names)
    assert len(names) == len(set(names))
    assert set(names) == set(mcp_crew_redis._HOME_OF)


def test_type_checkers_see_every_public_name():
    """What is loaded lazily is imported under TYPE_CHECKING, and nothing else."""
    source = Path(mcp_crew_redis.__file__).read_text(encoding="utf-8")
    # The formatter breaks a line that is too long.
    line = re.compile(
        r"^    from [\w.]+ import (?:\(\s+)?(\w+) as (\w+),?$", re.MULTILINE
    )
    imported = line.findall(source)

    assert all(name == alias for name, alias in imported)
    assert sorted(name for name, _ in imported) == mcp_crew_redis.__all__


def test_every_public_name_stands_in_a_document():
    """What nobody wrote about, nobody finds; errors are drawn in their module."""
    errors = (ROOT / "mcp_crew_redis" / "errors.py").read_text(encoding="utf-8")
    texts = [errors, *(each.read_text(encoding="utf-8") for each in DOCUMENTS)]
    written = set(re.findall(r"\w+", "\n".join(texts)))

    assert [name for name in mcp_crew_redis.__all__ if name not in written] == []
