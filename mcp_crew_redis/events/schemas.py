"""What is agreed on about types of events: payload, version, retention, partitions."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any, Final

from mcp_crew_redis._wire.streams import MAX_PARTITIONS
from mcp_crew_redis._wire.ttl import TtlPolicy, ttl_ms
from mcp_crew_redis._wire.validation import convert, type_name
from mcp_crew_redis.errors import CodecError, ConfigurationError, InvalidTtlError
from mcp_crew_redis.events.kinds import Pattern, check_type
from mcp_crew_redis.events.making import MAX_SCHEMA_VERSION
from mcp_crew_redis.types import DataType

__all__ = ["HARD_FACTOR", "EventCatalog", "EventSchema", "Upcaster"]

HARD_FACTOR: Final = 4.0
"""Where no hard limit is given it is that many times the soft one."""

Upcaster = Callable[[Any], Any]
"""Takes the payload of one version and returns that of the next."""


@dataclass(frozen=True, slots=True, kw_only=True)
class EventSchema:
    """What publishers and consumers of one type have agreed on.

    A mapping of `upcasters` is copied.

    Attributes:
        type: The type's name.
        payload: What the payload is validated as, when it is published and when it is
            handled; None takes any.
        version: Of the payload. An event of a newer one goes to the dead letters.
        upcasters: By version, how its payload becomes that of the next one. Each
            takes plain data, as it was stored, and so does what validates the last.
        retention: Seconds that an event is kept once every group has acknowledged it;
            None takes the row of the time-to-live table.
        hard_retention: Seconds after which it goes whoever has not; what is lost so
            is counted and told. None: four times `retention`.
        partitions: Into how many streams a lane is divided by the events' keys, so
            that several processes can keep the order of each key.
    """

    type: str
    payload: Any = None
    version: int = 1
    upcasters: Mapping[int, Upcaster] = field(default_factory=dict, hash=False)
    retention: float | None = None
    hard_retention: float | None = None
    partitions: int = 1

    def __post_init__(self) -> None:
        """Refuse what does not fit together.

        Raises:
            InvalidEventTypeError: The type is not one.
            ConfigurationError: Names the attribute and what is accepted.
        """
        object.__setattr__(self, "type", check_type(self.type))
        is_fit = type(self.version) is int and 1 <= self.version <= MAX_SCHEMA_VERSION
        _require("version", is_fit, f"an integer from 1 to {MAX_SCHEMA_VERSION}")
        is_fit = _are_steps(self.upcasters, self.version)
        _require("upcasters", is_fit, "functions by versions below `version`, from 1")
        _require_seconds("retention", self.retention)
        _require_seconds("hard_retention", self.hard_retention)
        if self.retention is not None and self.hard_retention is not None:
            is_fit = self.hard_retention >= self.retention
            _require("hard_retention", is_fit, "at least `retention`")
        count = self.partitions
        is_fit = type(count) is int and 1 <= count <= MAX_PARTITIONS
        _require("partitions", is_fit, f"1 to {MAX_PARTITIONS}")
        object.__setattr__(self, "upcasters", MappingProxyType(dict(self.upcasters)))

    def upcast(self, payload: Any, version: int) -> Any:
        """Return a payload of an older version as one of this.

        Raises:
            CodecError: It is of a newer version, an upcaster is missing, or one raised.
        """
        if version > self.version:
            raise CodecError(
                f"the payload is of version {version}, newer than the {self.version} "
                "that is known here"
            )
        for step in range(version, self.version):
            upcaster = self.upcasters.get(step)
            if upcaster is None:
                raise CodecError(f"no upcaster leads on from version {step}")
            try:
                payload = upcaster(payload)
            except Exception as error:  # noqa: BLE001 - the user's own code
                raise CodecError(
                    f"the upcaster from version {step} raised {type(error).__name__}"
                ) from None
        return payload

    def check(self, payload: object) -> object:
        """Return a payload that is about to be published, validated.

        Raises:
            CodecError: It is not what was agreed on; names the field, never the value.
        """
        kind = self.payload
        if kind is None or _is_instance(payload, kind):
            return payload
        try:
            return convert(payload, kind)
        except CodecError as error:
            # It speaks of what it is made to read: values that are stored.
            text = str(error).replace("the stored value", "the payload", 1)
            raise CodecError(text) from None

    def __repr__(self) -> str:
        return f"<EventSchema {self.type} {type_name(self.payload)} v{self.version}>"


class EventCatalog:
    """The schemas of an application, by type; a type without one takes any payload.

    Args:
        schemas: At most one for each type.

    Raises:
        ConfigurationError: A type is named twice.
    """

    def __init__(self, schemas: Iterable[EventSchema] = ()) -> None:
        self._schemas: dict[str, EventSchema] = {}
        for schema in schemas:
            if schema.type in self._schemas:
                raise ConfigurationError(f"two schemas are called {schema.type!r}")
            self._schemas[schema.type] = schema
        # The dict's own method: it is called for every event.
        self.get: Callable[[str], EventSchema | None] = self._schemas.get

    def __len__(self) -> int:
        return len(self._schemas)

    def partitions(self, event_type: str) -> int:
        """Return into how many streams a lane of a type is divided."""
        schema = self._schemas.get(event_type)
        return 1 if schema is None else schema.partitions

    def most_partitions(self, pattern: Pattern) -> int:
        """Return the most partitions of any type that is meant; 0 for one of each."""
        counts = [
            schema.partitions
            for schema in self._schemas.values()
            if schema.partitions > 1 and pattern.matches(schema.type)
        ]
        return max(counts, default=0)

    def retention_ms(self, event_type: str, ttl: TtlPolicy) -> tuple[int, int]:
        """Return for how long a type's events are kept, softly and at most, in ms.

        Without a schema the row of the time-to-live table counts that is called like
        the type or like one of the words it begins with, else the row `default`.
        """
        schema = self._schemas.get(event_type)
        soft = schema.retention if schema is not None else None
        if soft is None:
            soft = _row(event_type, ttl)
        hard = schema.hard_retention if schema is not None else None
        if hard is None:
            hard = soft * HARD_FACTOR
        return round(soft * 1_000), round(max(hard, soft) * 1_000)

    def __repr__(self) -> str:
        return f"<EventCatalog {len(self)} schemas>"


def _row(event_type: str, ttl: TtlPolicy) -> float:
    name = event_type
    while name:
        if ttl.has(DataType.EVENT, name):
            return ttl.seconds(DataType.EVENT, name)
        name = name.rpartition(".")[0]
    return ttl.seconds(DataType.EVENT)


def _is_instance(payload: object, kind: object) -> bool:
    try:
        return isinstance(kind, type) and isinstance(payload, kind)
    except TypeError:  # a TypedDict or a Protocol
        return False


def _are_steps(upcasters: Mapping[int, Upcaster], version: int) -> bool:
    if not isinstance(upcasters, Mapping):
        return False
    return all(
        type(step) is int and 1 <= step < version and callable(upcaster)
        for step, upcaster in upcasters.items()
    )


def _require(name: str, is_fit: bool, accepted: str) -> None:  # noqa: FBT001 - a condition
    if not is_fit:
        raise ConfigurationError(f"EventSchema.{name}: accepted is {accepted}")


def _require_seconds(name: str, value: float | None) -> None:
    try:
        if value is not None:
            ttl_ms(value)
    except InvalidTtlError as error:
        raise ConfigurationError(f"EventSchema.{name}: {error}") from None
