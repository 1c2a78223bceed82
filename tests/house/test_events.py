"""Every event that the package logs is documented, and no other."""

from __future__ import annotations

import ast
import re
from pathlib import Path

from tests.house.documents import ROOT

PAGE = ROOT / "docs" / "operations-events.md"
LEVELS = ("debug", "info", "warning", "error")
ROW = re.compile(r"^\| `([\w.]+)` \| (\w+) \|([^|]*)\|", re.MULTILINE)


def logged():
    """Yield event, level and keys of every call of a logger in the package."""
    for module in sorted((ROOT / "mcp_crew_redis").rglob("*.py")):
        if module == ROOT / "mcp_crew_redis" / "log.py":
            continue  # it passes on what it is given
        for node in ast.walk(ast.parse(module.read_text(encoding="utf-8"))):
            if is_log_call(node):
                yield module, node


def is_log_call(node: ast.AST) -> bool:
    return (
        isinstance(node, ast.Call)
        and isinstance(node.func, ast.Attribute)
        and node.func.attr in LEVELS
        and isinstance(node.func.value, ast.Name)
        and node.func.value.id in ("log", "_log", "logger", "_logger")
    )


def literals(node: ast.Call) -> list[str]:
    """The event's name; a choice between two counts as both."""
    values = [each for each in ast.walk(node.args[0]) if isinstance(each, ast.Constant)]
    return [each.value for each in values if isinstance(each.value, str)]


def events() -> set[tuple[str, str]]:
    return {(name, call.func.attr) for _, call in logged() for name in literals(call)}


def test_every_call_of_a_logger_names_its_event():
    """An event whose name is computed cannot be searched for."""
    nameless = [
        f"{Path(module).relative_to(ROOT)}:{call.lineno}"
        for module, call in logged()
        if not call.args or not literals(call)
    ]

    assert nameless == []
    assert len(events()) > 10


def test_event_names_are_component_and_past_tense():
    """`component.what_happened`, in lower case."""
    odd = [name for name, _ in events() if not re.fullmatch(r"[a-z]+\.[a-z_]+", name)]

    assert odd == []


def test_the_page_lists_every_event_at_its_level():
    """docs/operations-events.md has a row for each, and none for what is gone."""
    rows = {(name, level) for name, level, _ in ROW.findall(PAGE.read_text("utf-8"))}

    assert rows == events()


def test_the_page_lists_the_keys_of_each_event():
    """What is searched for in the logs is written on the page."""
    written: dict[str, set[str]] = {}
    for name, _, keys in ROW.findall(PAGE.read_text("utf-8")):
        written.setdefault(name, set()).update(re.findall(r"`(\w+)`", keys))
    missing = [
        f"{name}: {keyword.arg}"
        for _, call in logged()
        for name in literals(call)
        for keyword in call.keywords
        if keyword.arg is not None and keyword.arg not in written.get(name, set())
    ]

    assert missing == []
