"""The header of a Lua file, read and held against its code."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

from mcp_crew_redis.errors import ConfigurationError

__all__ = ["Parameters", "ScriptContract", "parse_contract"]

_DECLARED = re.compile(r"^(KEYS|ARGV)\[(\d+)(\+?)\]\s+(\w+)\s+(\S.*)$")
_USED = re.compile(r"\b(KEYS|ARGV)\s*\[\s*([^\]]+?)\s*\]")
_WHOLE = re.compile(r"#\s*(KEYS|ARGV)\b|\bunpack\s*\(\s*(KEYS|ARGV)\b")
_COMMENT = re.compile(r"--.*$", re.MULTILINE)


@dataclass(frozen=True, slots=True)
class Parameters:
    """The keys or the arguments of a script.

    Attributes:
        names: One per declared line, in order.
        is_open: Whether the last one stands for any number, none included.
    """

    names: tuple[str, ...]
    is_open: bool

    @property
    def fixed_count(self) -> int:
        """How many there must be."""
        return len(self.names) - self.is_open

    def accepts(self, count: int) -> bool:
        """Whether `count` values fit."""
        return count >= self.fixed_count if self.is_open else count == self.fixed_count

    def __str__(self) -> str:
        more = "+" if self.is_open else ""
        return f"{self.fixed_count}{more} ({', '.join(self.names)})"


@dataclass(frozen=True, slots=True, kw_only=True)
class ScriptContract:
    """What a script's header promises."""

    summary: str
    keys: Parameters
    arguments: Parameters
    returns: str
    expiry: str


def parse_contract(name: str, source: str) -> ScriptContract:
    """Read the header of a Lua file and hold it against the code below it.

    Raises:
        ConfigurationError: A part is missing, out of order, or not what the code uses.
    """
    header, code = _split(source)
    declared: dict[str, list[re.Match[str]]] = {"KEYS": [], "ARGV": []}
    texts: dict[str, str] = {"summary": "", "Returns": "", "Expiry:": ""}
    current = "summary"
    for line in header:
        if (match := _DECLARED.match(line)) is not None:
            declared[match[1]].append(match)
            current = ""
            continue
        word = line.split(maxsplit=1)[0] if line else ""
        current = word if word in texts else current
        if current:
            texts[current] = f"{texts[current]} {line}".strip()
    for part, text in texts.items():
        _require(bool(text), name, f"the header has no {part.rstrip(':').lower()}")
    return ScriptContract(
        summary=texts["summary"],
        keys=_parameters(name, "KEYS", declared["KEYS"], code),
        arguments=_parameters(name, "ARGV", declared["ARGV"], code),
        returns=texts["Returns"],
        expiry=texts["Expiry:"],
    )


def _split(source: str) -> tuple[list[str], str]:
    lines = source.splitlines()
    size = next(
        (at for at, line in enumerate(lines) if not line.startswith("--")), len(lines)
    )
    header = [line.removeprefix("--").strip() for line in lines[:size]]
    return header, _COMMENT.sub("", "\n".join(lines[size:]))


def _parameters(
    name: str,
    kind: Literal["KEYS", "ARGV"],
    declared: list[re.Match[str]],
    code: str,
) -> Parameters:
    numbers = [int(match[2]) for match in declared]
    expected = list(range(1, len(declared) + 1))
    _require(numbers == expected, name, f"{kind} are not declared from 1 in order")
    is_open = bool(declared) and declared[-1][3] == "+"
    _require(
        not any(match[3] for match in declared[:-1]),
        name,
        f"only the last of {kind} may be open",
    )
    fixed = set(numbers[:-1] if is_open else numbers)
    _check_use(name, kind, code, fixed=fixed, is_open=is_open)
    return Parameters(tuple(match[4] for match in declared), is_open)


def _check_use(
    name: str, kind: str, code: str, *, fixed: set[int], is_open: bool
) -> None:
    indices = [match[2] for match in _USED.finditer(code) if match[1] == kind]
    used = {int(index) for index in indices if index.isdecimal()}
    computed = [index for index in indices if not index.isdecimal()]
    whole = any(kind in match.groups() for match in _WHOLE.finditer(code))
    missing = fixed - used
    _require(not missing, name, f"{kind} {_list(missing)} declared and not used")
    if is_open:
        _require(bool(computed) or whole, name, f"the open {kind} are not used")
        return
    _require(not computed, name, f"{kind}[{_list(computed)}] needs an open declaration")
    _require(used <= fixed, name, f"{kind} {_list(used - fixed)} used, not declared")


def _list(items: Iterable[object]) -> str:
    return ", ".join(str(item) for item in sorted(items, key=str))


def _require(condition: bool, name: str, problem: str) -> None:  # noqa: FBT001 - assert
    if not condition:
        raise ConfigurationError(f"lua/{name}.lua: {problem}")
