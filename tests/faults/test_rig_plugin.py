"""The pytest plugin serves users' own suites, whatever their asyncio mode."""

import os
import subprocess
import sys
import textwrap

import pytest

SUITE = """
    import pytest

    {mark}
    async def test_one(crew_redis):
        assert await crew_redis.redis.set("k", "v")

    {mark}
    async def test_two(crew_redis, crew_redis_server):
        assert await crew_redis.redis.exists("k")
        assert crew_redis_server.is_running
"""


def run_python(*arguments, cwd=None):
    environment = {**os.environ, "REDIS_CREW_HOST": "nowhere.invalid"}
    return subprocess.run(
        [sys.executable, *arguments],
        cwd=cwd,
        env=environment,
        capture_output=True,
        text=True,
        timeout=50,
        check=False,
    )


INI = """
    [pytest]
    filterwarnings = error
    asyncio_default_fixture_loop_scope = {scope}
    asyncio_default_test_loop_scope = {scope}
"""


@pytest.mark.parametrize("scope", ["function", "session"])
@pytest.mark.parametrize("mode", ["auto", "strict"])
def test_the_fixtures_work_in_each_asyncio_mode(tmp_path, mode, scope):
    """A started crew per test on one server; nothing of the environment is used."""
    mark = "@pytest.mark.asyncio" if mode == "strict" else ""
    suite = textwrap.dedent(SUITE).format(mark=mark)
    (tmp_path / "test_mine.py").write_text(suite)
    ini = textwrap.dedent(INI).format(scope=scope)
    (tmp_path / "pytest.ini").write_text(ini)
    options = ("-q", "-p", "no:cacheprovider", f"--asyncio-mode={mode}")

    done = run_python("-m", "pytest", *options, cwd=tmp_path)

    assert "2 passed" in done.stdout, done.stdout + done.stderr


def test_the_plugin_costs_other_suites_nothing():
    """Pytest imports it in every run: it must not bring the wire along."""
    program = (
        "import sys, mcp_crew_redis.testing; "
        "print([m for m in ('redis', 'numpy', 'pydantic', 'mcp_crew_redis._core')"
        " if m in sys.modules])"
    )

    done = run_python("-c", program)

    assert done.stdout.strip() == "[]", done.stdout + done.stderr


def test_what_it_does_not_have_is_an_attribute_error():
    """A misspelt name fails like in any module."""
    import mcp_crew_redis.testing

    with pytest.raises(AttributeError, match="FaultPrxy"):
        _ = mcp_crew_redis.testing.FaultPrxy
