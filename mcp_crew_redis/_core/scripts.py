"""Lua scripts by name: read once, checked against their headers, called by digest."""

from __future__ import annotations

import hashlib
from collections.abc import Awaitable, Sequence
from enum import IntEnum
from importlib import resources
from typing import Any, NamedTuple, Protocol

from redis.exceptions import NoScriptError

from mcp_crew_redis._core.contracts import Parameters, ScriptContract, parse_contract
from mcp_crew_redis.errors import ConfigurationError

__all__ = [
    "CommandClient",
    "NewerOutcome",
    "NewerResult",
    "Script",
    "ScriptLoader",
    "set_newer",
]

#: What can be a key or an argument of a script.
Argument = bytes | str | int | float


class CommandClient(Protocol):
    """The one method of a redis-py client that a script needs."""

    def execute_command(self, *args: Any, **options: Any) -> Awaitable[Any]:
        """Run one command."""
        ...


class Script:
    """One operation on the server, called like a coroutine function.

    Attributes:
        name: The file's name without its suffix.
        contract: What its header promises.
        sha: SHA-1 of the source, its name on the server.
        source: The text.
    """

    def __init__(self, name: str, source: str) -> None:
        self.name = name
        self.contract: ScriptContract = parse_contract(name, source)
        self.sha = hashlib.sha1(source.encode(), usedforsecurity=False).hexdigest()
        self.source = source

    def __repr__(self) -> str:
        return f"<Script {self.name} {self.sha[:8]}>"

    async def __call__(
        self,
        client: CommandClient,
        keys: Sequence[bytes | str] = (),
        args: Sequence[Argument] = (),
    ) -> Any:
        """Run it and return the server's reply.

        Atomic. A node that does not know the script has executed nothing: it is sent
        the source with the same keys, and knows it from then on. EVAL and not SCRIPT
        LOAD, because it goes to the very node that refused, takes one round trip, and
        leaves no gap for a SCRIPT FLUSH.

        Raises:
            TypeError: The numbers of keys or arguments are not the header's; nothing
                was sent.
        """
        self.check(keys, args)
        tail = (len(keys), *keys, *args)
        try:
            return await client.execute_command("EVALSHA", self.sha, *tail)
        except NoScriptError:
            return await client.execute_command("EVAL", self.source, *tail)

    def check(self, keys: Sequence[object], args: Sequence[object]) -> None:
        """Compare the numbers of keys and arguments with the header.

        Raises:
            TypeError: They differ.
        """
        self._check("keys", self.contract.keys, len(keys))
        self._check("arguments", self.contract.arguments, len(args))

    def _check(self, kind: str, parameters: Parameters, count: int) -> None:
        if not parameters.accepts(count):
            raise TypeError(f"{self.name} takes {kind} {parameters}, got {count}")


class ScriptLoader:
    """Reads the scripts of a package, each once.

    Args:
        package: Where the .lua files are.
    """

    def __init__(self, package: str = "mcp_crew_redis.lua") -> None:
        self._folder = resources.files(package)
        self._scripts: dict[str, Script] = {}

    def names(self) -> list[str]:
        """Return the names of all scripts, sorted."""
        files = (entry.name for entry in self._folder.iterdir())
        return sorted(name[:-4] for name in files if name.endswith(".lua"))

    def load(self, name: str) -> Script:
        """Return the script of that name.

        Raises:
            ConfigurationError: There is none, or its header breaks the contract.
        """
        if (script := self._scripts.get(name)) is None:
            try:
                source = (self._folder / f"{name}.lua").read_text(encoding="utf-8")
            except FileNotFoundError as error:
                raise ConfigurationError(f"lua/{name}.lua does not exist") from error
            script = self._scripts[name] = Script(name, source)
        return script


class NewerOutcome(IntEnum):
    """What `set_newer` did, as the script numbers it."""

    NEWER_STANDS = 0
    STORED = 1
    DUPLICATE = 2
    CONFLICT = 3


class NewerResult(NamedTuple):
    """What `set_newer` answered.

    Attributes:
        outcome: What was done.
        stamp: The stamp that the key holds now.
    """

    outcome: NewerOutcome
    stamp: int


async def set_newer(
    client: CommandClient,
    loader: ScriptLoader,
    key: bytes | str,
    value: bytes,
    *,
    ttl_ms: int,
    floor: bytes | str,
) -> NewerResult:
    """Store a sealed value unless the key holds a newer one; see lua/set_newer.lua.

    `floor` is the key that holds the stamp of the tenant's last purge.
    """
    script = loader.load("set_newer")
    outcome, stamp = await script(client, (key, floor), (value, ttl_ms))
    return NewerResult(NewerOutcome(outcome), stamp)
