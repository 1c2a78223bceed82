"""Put the URL and the single settings together to one address."""

from __future__ import annotations

from collections.abc import Set as AbstractSet
from pathlib import Path
from typing import Protocol

from pydantic import SecretStr

from mcp_crew_redis.settings.sections import Endpoint, TlsSection
from mcp_crew_redis.settings.url import URL_PORT, UrlParts, parse_url

__all__ = ["AddressFields", "endpoint_of", "url_parts_of"]


class AddressFields(Protocol):
    """The settings that say where the server is."""

    @property
    def url(self) -> SecretStr | None: ...  # noqa: D102 - see `CrewSettings`
    @property
    def host(self) -> str: ...  # noqa: D102
    @property
    def port(self) -> int: ...  # noqa: D102
    @property
    def db(self) -> int: ...  # noqa: D102
    @property
    def username(self) -> str | None: ...  # noqa: D102
    @property
    def password(self) -> SecretStr | None: ...  # noqa: D102
    @property
    def unix_socket(self) -> Path | None: ...  # noqa: D102
    @property
    def tls(self) -> bool: ...  # noqa: D102
    @property
    def tls_ca_file(self) -> Path | None: ...  # noqa: D102
    @property
    def tls_cert_file(self) -> Path | None: ...  # noqa: D102
    @property
    def tls_key_file(self) -> Path | None: ...  # noqa: D102
    @property
    def tls_check_hostname(self) -> bool: ...  # noqa: D102
    @property
    def model_fields_set(self) -> AbstractSet[str]: ...  # noqa: D102


def url_parts_of(settings: AddressFields) -> UrlParts:
    """Return what the URL says, or nothing at all if there is none."""
    if settings.url is None:
        return UrlParts()
    return parse_url(settings.url.get_secret_value())


def endpoint_of(settings: AddressFields) -> Endpoint:
    """Return the address: the URL where it speaks, the single settings elsewhere."""
    parts = url_parts_of(settings)
    port = settings.port
    if parts.host is not None and "port" not in settings.model_fields_set:
        port = URL_PORT
    return Endpoint(
        host=parts.host or settings.host,
        port=port if parts.port is None else parts.port,
        db=settings.db if parts.db is None else parts.db,
        username=parts.username or settings.username,
        password=parts.password or settings.password,
        unix_socket=parts.unix_socket or settings.unix_socket,
        tls=_tls(settings) if parts.is_tls or settings.tls else None,
        source=_source(settings),
    )


def _source(settings: AddressFields) -> str:
    if settings.url is not None:
        return "REDIS_CREW_URL"
    if settings.unix_socket is not None:
        return "REDIS_CREW_UNIX_SOCKET"
    return "REDIS_CREW_HOST and REDIS_CREW_PORT"


def _tls(settings: AddressFields) -> TlsSection:
    return TlsSection(
        ca_file=settings.tls_ca_file,
        cert_file=settings.tls_cert_file,
        key_file=settings.tls_key_file,
        is_hostname_checked=settings.tls_check_hostname,
    )
