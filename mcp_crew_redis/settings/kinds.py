"""The kinds of value a setting may have, beyond pydantic's own."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Annotated, TypeAlias

from pydantic import AfterValidator, BeforeValidator, Field, SecretStr
from pydantic_settings import NoDecode

from mcp_crew_redis.settings.url import parse_url

__all__ = [
    "Directory",
    "Executable",
    "ReadableFile",
    "Seconds",
    "Secret",
    "SecretUrl",
    "Sentinels",
    "SocketPath",
    "Ttls",
]

_MAX_SOCKET_PATH = 107  # bytes; what the kernel's sockaddr_un holds
_MAX_PORT = 65_535


def _not_empty(value: object) -> object:
    # pydantic takes "" for the current folder.
    if isinstance(value, str) and not value.strip():
        raise ValueError("empty")
    return value


def _file(path: Path) -> Path:
    if not (path.is_file() and os.access(path, os.R_OK)):
        raise ValueError("no readable file")
    return path


def _executable(path: Path) -> Path:
    if not (path.is_file() and os.access(path, os.X_OK)):
        raise ValueError("no executable file")
    return path


def _directory(path: Path) -> Path:
    if path.exists() and not path.is_dir():
        raise ValueError("not a folder")
    return path


def _socket_path(path: Path) -> Path:
    if len(os.fsencode(path)) > _MAX_SOCKET_PATH:
        raise ValueError("too long")
    return path


def _url(value: SecretStr) -> SecretStr:
    parse_url(value.get_secret_value())
    return value


def _sentinels(value: object) -> object:
    """Read `host:port,host:port`; an IPv6 host stands in brackets."""
    if not isinstance(value, str):
        return value
    return tuple(_address(part.strip()) for part in value.split(","))


def _address(text: str) -> tuple[str, int]:
    host, colon, port = text.rpartition(":")
    host = host.removeprefix("[").removesuffix("]")
    if not (colon and host and port.isascii() and port.isdigit()):
        raise ValueError("not host:port")
    if "@" in host or "/" in host or not 1 <= int(port) <= _MAX_PORT:
        raise ValueError("not host:port")
    return host, int(port)


def _mapping(value: object) -> object:
    return json.loads(value) if isinstance(value, str) else value


_Path: TypeAlias = Annotated[Path, BeforeValidator(_not_empty)]
_Ttl: TypeAlias = Annotated[float, Field(gt=0, le=1e9, allow_inf_nan=False)]

Directory: TypeAlias = Annotated[_Path, AfterValidator(_directory)]
Executable: TypeAlias = Annotated[_Path, AfterValidator(_executable)]
ReadableFile: TypeAlias = Annotated[_Path, AfterValidator(_file)]
SocketPath: TypeAlias = Annotated[_Path, AfterValidator(_socket_path)]
Seconds: TypeAlias = Annotated[float, Field(allow_inf_nan=False)]
Secret: TypeAlias = Annotated[SecretStr, Field(min_length=1)]
SecretUrl: TypeAlias = Annotated[SecretStr, AfterValidator(_url)]
Sentinels: TypeAlias = Annotated[
    tuple[tuple[str, int], ...], NoDecode, BeforeValidator(_sentinels)
]
Ttls: TypeAlias = Annotated[dict[str, _Ttl], NoDecode, BeforeValidator(_mapping)]
