"""The key-leak check sees what it should see, and nothing else."""

from __future__ import annotations

import os
import subprocess
import sys
import textwrap

import pytest
from redis.asyncio import Redis

from mcp_crew_redis.errors import ConfigurationError
from mcp_crew_redis.testing import find_key_leaks

pytestmark = pytest.mark.every_server


@pytest.fixture
async def client(server):
    async with Redis(**server.client_kwargs) as client:
        yield client


@pytest.mark.key_leaks(reason="leaves keys on purpose")
async def test_a_key_that_never_expires_is_a_leak(client):
    """Under the prefix asked for, whatever its form."""
    await client.set("p:state:{acme}:k", "v")
    await client.hset("p:anything", "f", "v")
    await client.set("q:state:{acme}:k", "v")

    leaks = await find_key_leaks(client, "p:")

    assert sorted(leaks) == ["p:anything", "p:state:{acme}:k"]


async def test_what_expires_or_is_on_the_list_is_no_leak(client):
    """The same list that the layer itself keeps."""
    await client.set("p:state:{acme}:k", "v", ex=60)
    await client.set("p:meta:{acme}:floor", "1")
    await client.sadd("p:meta:{acme}:types", "tool.updated")
    await client.zadd("p:tenants", {"acme": 1})

    assert await find_key_leaks(client, "p:") == []
    assert await find_key_leaks(client, prefix=None) == []


@pytest.mark.key_leaks(reason="leaves keys on purpose")
async def test_under_any_prefix_only_tenants_keys_are_looked_at(client):
    """What this layer cannot have written is let be."""
    for key in ("k", "a:b", "{x}:y", "P!:state:{acme}:k", "p:state:{a*}:k"):
        await client.set(key, "v")
    assert await find_key_leaks(client, prefix=None) == []

    await client.set("x:y:state:{acme}:k", "v")
    await client.set("p:meta:{acme}:other", "v")

    leaks = await find_key_leaks(client, prefix=None)
    assert sorted(leaks) == ["p:meta:{acme}:other", "x:y:state:{acme}:k"]


@pytest.mark.key_leaks(reason="leaves keys on purpose")
async def test_many_leaks_are_told_by_ten_names(client):
    """One would be enough to find the mistake."""
    await client.mset({f"p:state:{{acme}}:{at}": "v" for at in range(3_000)})

    assert len(await find_key_leaks(client, "p:")) == 10


@pytest.mark.key_leaks(reason="leaves a key on purpose")
async def test_a_client_that_decodes_serves_as_well(server):
    """Keys are then text."""
    async with Redis(**server.client_kwargs, decode_responses=True) as client:
        await client.set("p:state:{acme}:ü", "v")

        assert await find_key_leaks(client, "p:") == ["p:state:{acme}:ü"]


async def test_a_prefix_that_is_none_is_refused(client):
    """As everywhere."""
    with pytest.raises(ConfigurationError):
        await find_key_leaks(client, "no colon")


@pytest.mark.every_server
def test_the_guard_is_on_for_every_test(request, server):
    """No test has to ask for it."""
    assert "_every_key_expires" in request.fixturenames


SUITE = """
    import pytest

    pytestmark = pytest.mark.usefixtures("crew_redis_key_leaks")

    async def test_clean(crew_redis):
        key = f"{crew_redis.settings.prefix}state:{{acme}}:k"
        await crew_redis.redis.set(key, "v", ex=60)

    async def test_leaky(crew_redis):
        await crew_redis.redis.set(f"{crew_redis.settings.prefix}state:{{acme}}:k", "v")
"""


def test_the_fixture_guards_a_users_suite(tmp_path):
    """The test that leaks ends in an error that names the key."""
    (tmp_path / "test_mine.py").write_text(textwrap.dedent(SUITE))
    options = ("-q", "-p", "no:cacheprovider", "--asyncio-mode=auto")
    done = subprocess.run(
        [sys.executable, "-m", "pytest", *options],
        cwd=tmp_path,
        env={**os.environ, "REDIS_CREW_HOST": "nowhere.invalid"},
        capture_output=True,
        text=True,
        timeout=50,
        check=False,
    )

    assert "2 passed, 1 error" in done.stdout, done.stdout + done.stderr
    assert "state:{acme}:k" in done.stdout
