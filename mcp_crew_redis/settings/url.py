"""Read a Redis URL. No message here ever repeats a part of one."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from urllib.parse import SplitResult, parse_qs, unquote, urlsplit

from pydantic import SecretStr

__all__ = ["URL_PORT", "UrlParts", "parse_url"]

URL_PORT = 6379  # what every Redis client takes a URL without a port to mean


@dataclass(frozen=True, slots=True, kw_only=True)
class UrlParts:
    """What a URL says; None where it says nothing."""

    is_tls: bool = False
    host: str | None = None
    port: int | None = None
    db: int | None = None
    username: str | None = None
    password: SecretStr | None = None
    unix_socket: Path | None = None


def parse_url(text: str) -> UrlParts:
    """Read `redis://`, `rediss://` or `unix://`.

    Raises:
        ValueError: It is none of these, or names something that a URL may not.
    """
    try:
        url = urlsplit(text)
        port = url.port
    except ValueError:
        raise ValueError("not a URL") from None
    if url.fragment or any(letter.isspace() for letter in text):
        raise ValueError("not a URL")
    if url.scheme in ("redis", "rediss"):
        return _of_host(url, port)
    if url.scheme == "unix":
        return _of_socket(url)
    raise ValueError("not a Redis URL")


def _of_host(url: SplitResult, port: int | None) -> UrlParts:
    if not url.hostname or url.query or port == 0:
        raise ValueError("no host, or a query")
    return UrlParts(
        is_tls=url.scheme == "rediss",
        host=url.hostname,
        port=port,
        db=_database(url.path.removeprefix("/")),
        username=_username(url),
        password=_password(url),
    )


def _of_socket(url: SplitResult) -> UrlParts:
    query = parse_qs(url.query, keep_blank_values=True)
    if url.hostname or not url.path or query.keys() - {"db"}:
        raise ValueError("no path, or a host, or a query other than db")
    return UrlParts(
        db=_database(query["db"][0]) if "db" in query else None,
        username=_username(url),
        password=_password(url),
        unix_socket=Path(unquote(url.path)),
    )


def _database(text: str) -> int | None:
    if not text:
        return None
    if not (text.isascii() and text.isdigit()):
        raise ValueError("the database is not a number")
    return int(text)


def _username(url: SplitResult) -> str | None:
    return unquote(url.username) if url.username else None


def _password(url: SplitResult) -> SecretStr | None:
    return SecretStr(unquote(url.password)) if url.password else None
