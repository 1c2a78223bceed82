"""What the tests of scripts share."""

import pytest


@pytest.fixture
def exhaust(any_server):
    """Take the server's memory away until the test ends."""

    def exhaust():
        any_server.execute("CONFIG", "SET", "maxmemory", 1)

    yield exhaust
    any_server.execute("CONFIG", "SET", "maxmemory", 0)
