"""What an event is called, how urgent it is, and who wants to hear of it."""

from __future__ import annotations

import re
from enum import IntEnum, StrEnum
from typing import Final

from mcp_crew_redis._wire.streams import MAX_TYPE_CHARACTERS, TYPE_GRAMMAR
from mcp_crew_redis.errors import InvalidEventTypeError, InvalidIdentifierError

__all__ = [
    "MAX_TYPE_CHARACTERS",
    "EventPriority",
    "EventType",
    "Pattern",
    "check_group",
    "check_type",
]

_MAX_KNOWN: Final = 4_096  # names of types that are checked but once
_WORD: Final = r"[a-z0-9_-]+"
_TYPE: Final = re.compile(TYPE_GRAMMAR)
_PATTERN: Final = re.compile(rf"(?:(?:\*|{_WORD})\.)*(?:\*|>|{_WORD})")
_GROUP: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]*")
_MAX_GROUP: Final = 64


class EventPriority(IntEnum):
    """How urgent an event is. Lanes are read by weights 8, 4, 2 and 1: none starves."""

    CRITICAL = 0
    HIGH = 1
    NORMAL = 2
    LOW = 3


class EventType(StrEnum):
    """The crew's own types. Any other dotted lower-case name is accepted too."""

    TOOL_DISCOVERED = "tool.discovered"
    TOOL_UPDATED = "tool.updated"
    TOOL_REMOVED = "tool.removed"
    KNOWLEDGE_UPDATED = "knowledge.updated"
    KNOWLEDGE_DELETED = "knowledge.deleted"
    CONVERSATION_UPDATED = "conversation.updated"
    AGENT_STARTED = "agent.started"
    AGENT_STOPPED = "agent.stopped"
    SESSION_EXPIRED = "session.expired"
    ALERT_RAISED = "alert.raised"
    AUDIT_RECORDED = "audit.recorded"
    TELEMETRY_SAMPLED = "telemetry.sampled"
    EVENTS_LOST = "crew.events_lost"


_known: dict[str, str] = {}


def check_type(event_type: str) -> str:
    """Return a type's name as a plain string.

    Raises:
        InvalidEventTypeError: It is not 1 to 128 characters of dotted lower-case words.
    """
    try:
        return _known[event_type]
    except (KeyError, TypeError):  # not seen yet; a list
        pass
    if not _is_text(_TYPE, event_type, MAX_TYPE_CHARACTERS):
        raise InvalidEventTypeError(
            "an event type has 1 to 128 characters: words of a-z 0-9 _ - joined by "
            "dots, the first beginning with a letter, as in tool.discovered"
        )
    name = str(event_type)
    if len(_known) < _MAX_KNOWN:
        _known[name] = name
    return name


def check_group(group: str) -> str:
    """Return a group's name.

    Raises:
        InvalidIdentifierError: It is not 1 to 64 of `A-Z a-z 0-9 _ . -`, beginning
            with a letter or digit.
    """
    if not _is_text(_GROUP, group, _MAX_GROUP):
        raise InvalidIdentifierError(
            "a group's name has 1 to 64 of A-Z a-z 0-9 _ . - and begins with a letter "
            "or digit"
        )
    return str(group)


def _is_text(grammar: re.Pattern[str], text: object, most: int) -> bool:
    return (
        isinstance(text, str)
        and len(text) <= most
        and grammar.fullmatch(text) is not None
    )


class Pattern:
    """Which types are meant: `tool.*` one word more, `tool.>` any number, `>` all.

    `*` stands for exactly one word anywhere, `>` for one or more at the end.

    Args:
        text: Words, `*` and `>`, joined by dots.

    Raises:
        InvalidEventTypeError: It is no pattern.
    """

    __slots__ = ("_matches", "text")

    def __init__(self, text: str) -> None:
        if not _is_text(_PATTERN, text, MAX_TYPE_CHARACTERS):
            raise InvalidEventTypeError(
                "a pattern is a type's name in which * stands for one word and a last "
                "> for all that follow, as in tool.* or tool.>"
            )
        self.text = str(text)
        head, dot, last = self.text.rpartition(".")
        if last == ">":
            body = re.escape(head).replace(r"\*", _WORD)
            expression = body + (r"\." if dot else "") + rf"{_WORD}(?:\.{_WORD})*"
        else:
            expression = re.escape(self.text).replace(r"\*", _WORD)
        self._matches = re.compile(expression).fullmatch

    def matches(self, event_type: str) -> bool:
        """Whether a type is meant."""
        return self._matches(event_type) is not None

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Pattern) and other.text == self.text

    def __hash__(self) -> int:
        return hash(self.text)

    def __repr__(self) -> str:
        return f"<Pattern {self.text}>"
