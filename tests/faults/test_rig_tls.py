"""The TLS proxy is a real TLS server in front of a real Redis."""

import asyncio
import ssl

import pytest
import redis.asyncio
from redis.exceptions import ConnectionError as RedisConnectionError

from mcp_crew_redis.errors import ConfigurationError
from mcp_crew_redis.testing import FaultProxy


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost"])
@pytest.mark.leaks("resolving localhost leaves redis-py's loop a resolver thread")
async def test_a_client_that_trusts_the_authority_gets_through(
    tls_proxy, certificates, host
):
    """redis-py verifies the certificate and the name."""
    kwargs = {**tls_proxy.client_kwargs, "host": host}

    async with redis.asyncio.Redis(
        **kwargs, ssl_ca_certs=certificates.ca_file
    ) as client:
        assert await client.set("k", "v")
        assert await client.get("k") == b"v"


async def test_a_client_that_does_not_trust_it_is_refused(tls_proxy):
    """Without the authority's file the handshake fails."""
    async with redis.asyncio.Redis(**tls_proxy.client_kwargs, retry=None) as client:
        with pytest.raises(RedisConnectionError, match="CERTIFICATE_VERIFY_FAILED"):
            await client.ping()


async def test_a_cut_ends_a_tls_connection(tls_proxy, certificates):
    """Faults work on TLS connections as well."""
    context = ssl.create_default_context(cafile=certificates.ca_file)
    reader, writer = await asyncio.open_connection(
        "127.0.0.1", tls_proxy.port, ssl=context
    )
    writer.write(b"PING\r\n")
    assert await reader.readline() == b"+PONG\r\n"

    tls_proxy.cut()

    assert await reader.read() == b""
    writer.close()


def test_tls_needs_tcp():
    """TLS over a unix socket is refused with the remedy."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)

    with pytest.raises(ConfigurationError, match="tcp=True"):
        FaultProxy("/tmp/s", tls=context)
