"""docs/settings.md lists every setting as the model has it."""

from __future__ import annotations

import re

from mcp_crew_redis import CrewSettings
from mcp_crew_redis.settings.problems import variable_of
from tests.house.documents import ROOT

PAGE = ROOT / "docs" / "settings.md"
ROW = re.compile(r"^\| (`[A-Z_]+` \| [^|]+ \| [^|]+) \|", re.MULTILINE)


def default_of(value: object) -> str:
    if value is None or value in ((), {}):
        return "none"
    if isinstance(value, bool):
        return f"`{str(value).lower()}`"
    return f"`{value:.15g}`" if isinstance(value, float) else f"`{value}`"


def rows() -> list[str]:
    """The first three cells of each row: variable, default, what is accepted."""
    return [
        f"`{variable_of(name, field)}` | {default_of(field.default)} | "
        f"{field.description}"
        for name, field in CrewSettings.model_fields.items()
    ]


def test_the_page_lists_every_setting():
    """Variable, default and what is accepted, in the order of the model."""
    assert ROW.findall(PAGE.read_text(encoding="utf-8")) == rows()
