"""Every Lua file keeps the house's contract."""

from pathlib import Path

import pytest

from mcp_crew_redis._core.scripts import ScriptLoader

TESTS = Path(__file__).resolve().parent.parent / "lua"
NAMES = ScriptLoader().names()


def test_the_scan_finds_scripts():
    """An empty folder would make every check below pass."""
    assert NAMES


@pytest.mark.parametrize("name", NAMES)
def test_a_script_has_a_header_that_its_code_keeps(name):
    """Summary, parameters, returns and expiry are declared, and used as declared."""
    contract = ScriptLoader().load(name).contract

    assert contract.expiry
    assert contract.summary.endswith(".")


@pytest.mark.parametrize("name", NAMES)
def test_a_script_has_a_test_of_its_own_name(name):
    """tests/lua/test_<name>.py exists and tests something."""
    path = TESTS / f"test_{name}.py"

    assert path.is_file(), f"write {path.name}"
    assert "def test_" in path.read_text()


@pytest.mark.parametrize("name", NAMES)
def test_a_script_never_walks_the_keyspace(name):
    """KEYS and SCAN block the server and cross slots."""
    source = ScriptLoader().load(name).source.upper()

    assert "CALL('KEYS'" not in source
    assert "CALL('SCAN'" not in source


@pytest.mark.parametrize("path", sorted(TESTS.glob("test_*.py")), ids=lambda p: p.stem)
def test_a_lua_test_has_its_script(path):
    """No test stays behind when its script goes."""
    assert path.stem.removeprefix("test_") in NAMES
