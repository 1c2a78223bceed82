"""Settings that are fine alone and cannot stand together."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Protocol

from mcp_crew_redis.settings.endpoint import AddressFields, endpoint_of, url_parts_of

__all__ = ["AllFields", "contradictions"]

_ADDRESS = ("url", "host", "port", "unix_socket", "sentinels", "cluster", "tls")
_TLS_FILES = ("tls_ca_file", "tls_cert_file", "tls_key_file")


class AllFields(AddressFields, Protocol):
    """The settings that may contradict each other."""

    @property
    def sentinels(self) -> tuple[tuple[str, int], ...]: ...  # noqa: D102
    @property
    def sentinel_master(self) -> str | None: ...  # noqa: D102
    @property
    def cluster(self) -> bool: ...  # noqa: D102
    @property
    def embedded(self) -> bool: ...  # noqa: D102


def contradictions(settings: AllFields) -> list[str]:
    """Return one line for each pair of settings that contradict each other."""
    checks = (_of_url, _of_socket, _of_tls, _of_topology, _of_embedded)
    return [line for check in checks for line in check(settings)]


def _variable(name: str) -> str:
    return f"REDIS_CREW_{name.upper()}"


def _of_url(settings: AllFields) -> Iterator[str]:
    parts, given = url_parts_of(settings), settings.model_fields_set
    if settings.url is None:
        return
    for name in ("host", "port", "db", "username", "password", "unix_socket"):
        said, single = getattr(parts, name), getattr(settings, name)
        if name in given and said is not None and single not in (None, said):
            yield (
                f"REDIS_CREW_URL and {_variable(name)} name different values; "
                "set one of them"
            )
    if "tls" in given and settings.tls != parts.is_tls:
        yield (
            f"REDIS_CREW_TLS={str(settings.tls).lower()}: REDIS_CREW_URL says "
            "otherwise; TLS is rediss://, clear text is redis://"
        )


def _of_socket(settings: AllFields) -> Iterator[str]:
    parts, given = url_parts_of(settings), settings.model_fields_set
    if (parts.unix_socket or settings.unix_socket) is None:
        return
    source = "REDIS_CREW_URL" if parts.unix_socket else "REDIS_CREW_UNIX_SOCKET"
    others = [name for name in ("host", "port") if name in given]
    others += ["tls"] if settings.tls else []
    if parts.host is not None:
        others.append("url")
    for name in others:
        yield f"{source} names a unix socket; {_variable(name)} has no meaning with it"


def _of_tls(settings: AllFields) -> Iterator[str]:
    is_tls = endpoint_of(settings).tls is not None
    for name in _TLS_FILES:
        if getattr(settings, name) is not None and not is_tls:
            yield (
                f"{_variable(name)} has no meaning without TLS; set "
                "REDIS_CREW_TLS=true or a rediss:// URL"
            )
    if (settings.tls_cert_file is None) != (settings.tls_key_file is None):
        yield "REDIS_CREW_TLS_CERT_FILE and REDIS_CREW_TLS_KEY_FILE come as a pair"


def _of_topology(settings: AllFields) -> Iterator[str]:
    given = settings.model_fields_set
    if bool(settings.sentinels) != bool(settings.sentinel_master):
        yield "REDIS_CREW_SENTINELS and REDIS_CREW_SENTINEL_MASTER come as a pair"
    if settings.sentinels:
        for name in ("url", "host", "port", "unix_socket"):
            if name in given and getattr(settings, name) is not None:
                yield f"REDIS_CREW_SENTINELS find the server; unset {_variable(name)}"
    if settings.sentinels and settings.cluster:
        yield "REDIS_CREW_SENTINELS and REDIS_CREW_CLUSTER exclude each other"
    if settings.cluster and endpoint_of(settings).db != 0:
        yield "REDIS_CREW_DB: a cluster has database 0 only"


def _of_embedded(settings: AllFields) -> Iterator[str]:
    if not settings.embedded:
        return
    for name in _ADDRESS:
        if name in settings.model_fields_set and getattr(settings, name):
            yield (
                "REDIS_CREW_EMBEDDED=true: an embedded server has its own address; "
                f"unset {_variable(name)}"
            )
