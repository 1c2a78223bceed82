"""Fixtures of the whole suite: real servers, and guards that nothing leaks.

`server`         the default server (Valkey), emptied before each test; a test marked
                 `every_server` runs on each kind, the one-node cluster included.
`any_server`     the same as `server` in a test marked `every_server`.
`own_server`     a private server that the test may kill, pause and restart.
`make_server`    a factory of private servers: `make_server("redis8", "--maxmemory",
                 "1mb", tcp=True, password="...")`.
`certificates`   PEM files of a test authority and of a server on localhost.
`tls_proxy`      a `FaultProxy` over TCP that speaks TLS in front of `server`; connect
                 with `**tls_proxy.client_kwargs, ssl_ca_certs=certificates.ca_file`.
"""

from __future__ import annotations

import sys
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from redis.asyncio import Redis
from redis.exceptions import ConnectionError as RedisConnectionError

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from mcp_crew_redis.testing.key_leaks import find_key_leaks
from tests.rig.binaries import SERVER_NAMES, find_binary
from tests.rig.leaks import Footprint, find_leaks
from tests.rig.servers import RealServer

if TYPE_CHECKING:
    from mcp_crew_redis.testing import FaultProxy
    from tests.rig.certificates import Certificates

_FAILED = pytest.StashKey[bool]()

# Below the store, tests write keys by hand, and no rule of ours is on them. A single
# test above says so with @pytest.mark.key_leaks(reason="...").
_KEYS_BY_HAND = (
    "tests/lua/",
    "tests/integration/core/",
    "tests/faults/test_bell",
    "tests/faults/test_wire",
    "test_values.py::test_a_newer_format_is_not_written_over",
    "test_values.py::test_another_redis_type_under_the_key_is_a_data_error",
    "test_values.py::test_bytes_that_are_not_ours_are_typed_errors",
    "test_values.py::test_foreign_bytes_are_given_no_time_to_live",
)


def pytest_configure(config: pytest.Config) -> None:
    for line in (
        "every_server: run on each kind of server that this machine has",
        "leaks(reason): the leak guard looks away, for the reason given",
        "key_leaks(reason): the key-leak guard looks away, for the reason given",
    ):
        config.addinivalue_line("markers", line)


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    names = metafunc.fixturenames
    if "any_server" in names:
        metafunc.parametrize("any_server", SERVER_NAMES, indirect=True)
    elif "server" in names and metafunc.definition.get_closest_marker("every_server"):
        metafunc.parametrize("server", SERVER_NAMES, indirect=True)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo[None]
) -> Iterator[None]:
    report = yield
    if report.failed:
        item.stash[_FAILED] = True
    return report


# --- servers ------------------------------------------------------------------
@pytest.fixture(scope="session")
def session_servers() -> Iterator[Callable[[str], RealServer]]:
    """Start each kind of server once, when it is first asked for."""
    running: dict[str, RealServer] = {}
    with ExitStack() as stack:

        def get(name: str) -> RealServer:
            if find_binary(name) is None:
                pytest.skip(f"no {name} server on this machine")
            if name not in running:
                running[name] = stack.enter_context(RealServer(name))
            running[name].reset()
            return running[name]

        yield get


@pytest.fixture
def server(
    request: pytest.FixtureRequest, session_servers: Callable[[str], RealServer]
) -> RealServer:
    return session_servers(getattr(request, "param", "valkey"))


@pytest.fixture
def any_server(
    request: pytest.FixtureRequest, session_servers: Callable[[str], RealServer]
) -> RealServer:
    return session_servers(request.param)


@pytest.fixture
def make_server() -> Iterator[Callable[..., RealServer]]:
    with ExitStack() as stack:

        def make(name: str = "valkey", *options: str, **keywords: object) -> RealServer:
            if find_binary(name) is None:
                pytest.skip(f"no {name} server on this machine")
            return stack.enter_context(RealServer(name, *options, **keywords))

        yield make


@pytest.fixture
def own_server(make_server: Callable[..., RealServer]) -> RealServer:
    return make_server("valkey")


@pytest.fixture(scope="session")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Certificates:
    from tests.rig.certificates import make_certificates

    return make_certificates(tmp_path_factory.mktemp("tls"))


@pytest.fixture
async def tls_proxy(
    server: RealServer, certificates: Certificates
) -> AsyncIterator[FaultProxy]:
    from mcp_crew_redis.testing import FaultProxy

    context = certificates.server_context()
    async with FaultProxy(server.unix_socket, tcp=True, tls=context) as proxy:
        yield proxy


# --- guards -------------------------------------------------------------------
@pytest.fixture(autouse=True)
async def _every_key_expires(request: pytest.FixtureRequest) -> AsyncIterator[None]:
    """No tenant's key stays for ever, unless it is on the permanent list."""
    names = {"server", "any_server"} & set(request.fixturenames)
    server = request.getfixturevalue(names.pop()) if names else None
    yield
    is_marked = request.node.get_closest_marker("key_leaks") is not None or any(
        part in request.node.nodeid for part in _KEYS_BY_HAND
    )
    if server is None or is_marked or request.node.stash.get(_FAILED, False):
        return
    async with Redis(**server.client_kwargs) as client:
        try:
            leaks = await find_key_leaks(client, prefix=None)
        except RedisConnectionError:
            return  # the test has ended its server, or turned it into a loading one
    assert not leaks, "keys that never expire:\n  " + "\n  ".join(leaks)


@pytest.fixture(autouse=True)
async def _nothing_leaks(request: pytest.FixtureRequest) -> AsyncIterator[None]:
    """No task, child process, file descriptor or thread outlives its test."""
    before = Footprint.take()
    yield
    # A failed test's traceback keeps its objects alive: one failure is enough.
    marked = request.node.get_closest_marker("leaks") is not None
    if marked or request.node.stash.get(_FAILED, False):
        return
    leaks = await find_leaks(before)
    assert not leaks, "left behind:\n  " + "\n  ".join(leaks)
