"""`redis_manager`: one instance, whatever loops and processes use it."""

import asyncio
import gc
import os
import subprocess
import sys
import textwrap

import pytest

from mcp_crew_redis import DataType, redis_manager
from mcp_crew_redis.crew.default import DefaultManager
from mcp_crew_redis.errors import ConfigurationError, ConnectionLostError
from mcp_crew_redis.settings import CrewSettings
from tests.rig.waiting import wait_until

NAMES = {"tenant_id": "acme", "data_type": DataType.STATE, "identifier": "k"}


@pytest.fixture
def manager(server):
    return DefaultManager(lambda: CrewSettings(unix_socket=server.unix_socket))


def clients(server):
    """Client connections besides the one that asks."""
    return int(server.info("clients")["connected_clients"]) - 1


def run_apart(server, code):
    """Run a program in a fresh interpreter, where every warning is an error."""
    environment = {**os.environ, "REDIS_CREW_UNIX_SOCKET": server.unix_socket}
    done = subprocess.run(
        [sys.executable, "-X", "dev", "-W", "error", "-c", textwrap.dedent(code)],
        env=environment,
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )
    # A warning in a finalizer cannot raise: it is printed.
    assert "Warning" not in done.stderr, done.stderr
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_two_runs_use_one_manager(manager, server):
    """Each loop has its own client, closed when the loop ends."""
    asyncio.run(manager.set(**NAMES, value=1))
    assert clients(server) == 0

    assert asyncio.run(manager.get(**NAMES)) == 1
    assert clients(server) == 0

    gc.collect()  # an unclosed socket would warn here


def test_two_runs_leave_no_warning(server):
    """In a fresh interpreter, through the public name."""
    out = run_apart(
        server,
        """
        import asyncio
        from mcp_crew_redis import DataType, redis_manager

        names = dict(tenant_id="acme", data_type=DataType.STATE, identifier="k")
        asyncio.run(redis_manager.set(**names, value=1))
        print(asyncio.run(redis_manager.get(**names)))
        """,
    )

    assert out == "1\n"


async def test_it_is_usable_again_after_aclose(manager, server):
    """Closing is idempotent; the next use connects anew."""
    await manager.set(**NAMES, value=1)
    await manager.aclose()
    await manager.aclose()
    await wait_until(lambda: clients(server) == 0, "the connection is closed")

    assert await manager.get(**NAMES) == 1
    await manager.aclose()


async def test_many_first_uses_share_one_client(manager, server):
    """A hundred callers at once make one connection."""
    async with asyncio.TaskGroup() as group:
        for n in range(100):
            group.create_task(
                manager.set(
                    tenant_id="acme",
                    data_type=DataType.STATE,
                    identifier=f"k{n}",
                    value=n,
                )
            )

    assert clients(server) == 1
    await manager.aclose()


FORK = """
    import asyncio, os, sys
    from mcp_crew_redis import DataType, redis_manager

    names = dict(tenant_id="acme", data_type=DataType.STATE)

    async def use(name):
        for n in range(50):
            await redis_manager.set(**names, identifier=name, value=n)
            assert await redis_manager.get(**names, identifier=name) == n
        await redis_manager.increment(tenant_id="acme", identifier="c")

    def child():
        try:
            asyncio.run(use("child"))
            print("child", redis_manager._connected.pid == os.getpid(), flush=True)
            os._exit(0)
        finally:
            os._exit(1)
"""


def test_a_child_forked_between_two_runs_has_its_own_client(server):
    """The parent goes on as if nothing had happened."""
    out = run_apart(
        server,
        FORK
        + """
    asyncio.run(use("parent"))
    pid = os.fork()
    if pid == 0:
        child()
    asyncio.run(use("parent"))
    assert os.waitpid(pid, 0)[1] == 0
    print("parent")
    """,
    )

    assert sorted(out.split("\n")) == ["", "child True", "parent"]


def test_a_child_forked_inside_a_run_never_touches_the_parents_loop(server):
    """The parent's connection answers the parent, during the child's life and after."""
    out = run_apart(
        server,
        FORK
        + """
    async def main():
        await use("parent")
        client = redis_manager._connected.client
        pid = os.fork()
        if pid == 0:
            child()
        await use("parent")
        assert await asyncio.to_thread(os.waitpid, pid, 0) == (pid, 0)
        await use("parent")
        assert redis_manager._connected.client is client
        assert client.statistics().dials == 1, client.statistics()

    asyncio.run(main())
    print("parent")
    """,
    )

    assert sorted(out.split("\n")) == ["", "child True", "parent"]


def test_a_child_lets_go_of_its_parents_connection(server):
    """When the parent closes, the server sees it, although the child lives on."""
    out = run_apart(
        server,
        """
        import asyncio, os
        from mcp_crew_redis import DataType, redis_manager

        names = dict(tenant_id="acme", data_type=DataType.STATE, identifier="k")

        async def main():
            await redis_manager.set(**names, value=1)
            parents = redis_manager._connected.client.node.interactive.client_id
            to_child, to_parent = os.pipe(), os.pipe()
            pid = os.fork()
            if pid == 0:
                async def child():
                    await redis_manager.get(**names)
                    os.write(to_parent[1], b"x")
                    os.read(to_child[0], 1)
                    redis = redis_manager._connected.client
                    async with asyncio.timeout(5):
                        while True:
                            ids = [c["id"] for c in await redis.client_list()]
                            if str(parents) not in ids:
                                break
                    os.write(to_parent[1], b"y")
                try:
                    asyncio.run(child())
                finally:
                    os._exit(0)
            os.close(to_parent[1])  # a child that fails ends the wait below
            os.read(to_parent[0], 1)
            await redis_manager.aclose()
            os.write(to_child[1], b"x")
            print((await asyncio.to_thread(os.read, to_parent[0], 1)).decode())
            os.waitpid(pid, 0)

        asyncio.run(main())
        """,
    )

    assert out == "y\n"


def test_importing_it_reads_no_environment(server):
    """A bad variable is found by the first use, and named."""
    out = run_apart(
        server,
        """
        import asyncio, os
        os.environ["REDIS_CREW_PORT"] = "nonsense"
        from mcp_crew_redis import DataType, redis_manager
        from mcp_crew_redis.errors import ConfigurationError

        async def main():
            try:
                await redis_manager.exists(
                    tenant_id="acme", data_type=DataType.STATE, identifier="k"
                )
            except ConfigurationError as error:
                print("REDIS_CREW_PORT" in str(error))

        asyncio.run(main())
        """,
    )

    assert out == "True\n"


async def test_it_runs_no_server():
    """An embedded server needs somebody who ends it: a crew."""
    manager = DefaultManager(lambda: CrewSettings(embedded=True))

    with pytest.raises(ConfigurationError, match="CrewRedis"):
        await manager.get(**NAMES)


async def test_without_redis_it_says_so(tmp_path):
    """And the next use tries again."""
    manager = DefaultManager(lambda: CrewSettings(unix_socket=tmp_path / "none"))

    with pytest.raises(ConnectionLostError):
        await manager.get(**NAMES)

    await manager.aclose()


def test_there_is_one_and_it_is_not_connected():
    """The original team's name."""
    assert isinstance(redis_manager, DefaultManager)
    assert "not connected" in repr(redis_manager)
