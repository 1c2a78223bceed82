"""The page on keys says what the code does."""

from __future__ import annotations

import doctest
import re
from pathlib import Path

from mcp_crew_redis._wire.keys import KeySpace
from mcp_crew_redis._wire.ttl import DEFAULT_KINDS, TTL_TABLE, is_permanent

DOCUMENT = Path(__file__).parents[3] / "docs" / "keys.md"
UNITS = {"min": 60.0, "h": 3_600.0, "d": 86_400.0}


def test_ttl_table_in_the_document_is_the_table():
    """Row by row, the usual kinds in bold."""
    text = DOCUMENT.read_text(encoding="utf-8")
    table = text.partition("<!-- ttl table")[2].partition("<!-- end of ttl table")[0]
    row = re.compile(r"^\| (\w+) \| (\**\w+\**) \| (\d+) (min|h|d) \|$", re.MULTILINE)

    written = [
        (data_type, kind.strip("*"), kind.startswith("**"), float(count) * UNITS[unit])
        for data_type, kind, count, unit in row.findall(table)
    ]
    assert written == [
        (data_type.value, str(kind), kind == DEFAULT_KINDS[data_type], seconds)
        for data_type, kinds in TTL_TABLE.items()
        for kind, seconds in kinds.items()
    ]


def test_keys_in_the_document_are_built_as_it_says():
    """Every key of the tables parses, and those called permanent are."""
    text = DOCUMENT.read_text(encoding="utf-8")
    rows = re.findall(r"^\| `(mcp-crew:[^`]+)` \| (.+) \|$", text, re.MULTILINE)
    space = KeySpace()

    assert len(rows) == 14
    for key, meaning in rows:
        raw = key.encode()
        assert raw == space.tenants or space.parse(raw) is not None
        assert is_permanent(space, raw) == ("permanent" in meaning)


def test_examples_in_the_document_run():
    """Each prompt gives the answer that is printed below it."""
    outcome = doctest.testfile(
        str(DOCUMENT),
        module_relative=False,
        optionflags=doctest.IGNORE_EXCEPTION_DETAIL,
    )

    assert outcome.attempted > 15
    assert outcome.failed == 0
