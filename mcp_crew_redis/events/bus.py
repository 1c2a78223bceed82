"""`crew.events` and `tenant.events`: where events are published."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Any, Final, Unpack

from mcp_crew_redis._wire.keys import TenantKeys
from mcp_crew_redis.events.dead_letters import DeadLetters
from mcp_crew_redis.events.event import Event, EventReceipt
from mcp_crew_redis.events.hub import EventHub
from mcp_crew_redis.events.kinds import EventPriority
from mcp_crew_redis.events.line import Draft, Lines
from mcp_crew_redis.events.many import ManyEvents
from mcp_crew_redis.events.options import EventAttributes, PublishOptions
from mcp_crew_redis.events.publishing import Publisher, Waiting
from mcp_crew_redis.events.replaying import Replay
from mcp_crew_redis.events.rewinding import rewind
from mcp_crew_redis.events.stats import GroupStats, group_stats
from mcp_crew_redis.events.tailing import OnOverflow, Tail, Tails
from mcp_crew_redis.events.transacting import Transactor
from mcp_crew_redis.events.transaction import Transaction

__all__ = ["EventBus", "TenantEvents"]

MAX_TENANTS_KEPT: Final = 4_096


class TenantEvents:
    """The events of one tenant: cheap to make, and it cannot reach another's.

    Attributes:
        hub: What the rooms of the events share.
        keys: Builds the tenant's keys.
    """

    __slots__ = ("_lines", "_publisher", "_tails", "_transactor", "hub", "keys")

    def __init__(
        self,
        hub: EventHub,
        keys: TenantKeys,
        publisher: Publisher,
        transactor: Transactor,
        tails: Tails,
    ) -> None:
        self.hub = hub
        self.keys = keys
        self._publisher = publisher
        self._transactor = transactor
        self._tails = tails
        self._lines = Lines(keys, hub.catalog)

    def __repr__(self) -> str:
        return f"<TenantEvents {self.keys.tenant_id}>"

    def publish(
        self,
        event_type: str,
        payload: object,
        *,
        priority: EventPriority = EventPriority.NORMAL,
        key: str | None = None,
        delay: float | None = None,
        idempotent: bool = False,
        durable: bool = False,
        **attributes: Unpack[EventAttributes],
    ) -> Waiting[EventReceipt]:
        """Say that something has happened.

        What is published inside a handler descends from the event that it handles.

        A plain publish whose reply is lost may or may not have happened: it is neither
        sent again nor kept, and raises OutcomeUnknownError. One that is `idempotent` is
        sent again under its id and stands once.

        Args:
            event_type: An `EventType` or dotted lower-case words.
            payload: What its schema asks for; without one, any value of the codec.
            priority: Which lane it takes.
            key: What it is about; events of one key may be kept in order.
            delay: Seconds before which nobody gets it.
            idempotent: Published once under its id, however often this is called
                within REDIS_CREW_TOMBSTONE_TTL.
            durable: Return only when a replica has it too.
            **attributes: Those of `Event.new`: event_id, source, correlation_id,
                causation_id, traceparent, tracestate, schema_version, expires_in,
                occurred_at, extensions.

        Returns:
            Its id and place; DEFERRED without a place when it waits in the journal.

        Raises:
            InvalidEventTypeError: The type is not one.
            InvalidIdentifierError: An id, key or source is empty or over 256 bytes.
            CodecError: The payload is not what the schema asks for, or no value.
            ValueTooLargeError: It has more than `MAX_PAYLOAD_BYTES`.
            DataError: Another argument is out of range.
            FallbackFullError: Redis is away and the journal is full.
            UnavailableError: Redis did not answer, and the journal may not take it.
            ReplicationError: It is published, but on too few replicas.
        """
        line = self._lines.of(event_type, priority)
        draft = line.draft(payload, key, attributes)
        if not (delay or idempotent or durable):
            return self._publisher.append(draft)
        return self._publisher.otherwise(
            draft, delay=delay or None, idempotent=idempotent, durable=durable
        )

    def publish_many(
        self,
        events: Sequence[Event[Any]],
        *,
        idempotent: bool = False,
        durable: bool = False,
    ) -> Waiting[list[EventReceipt]]:
        """Publish events made by `Event.new`, in their order; few round trips.

        All are checked before the first is sent. Afterwards each has an outcome of its
        own: this is no transaction. Of a type with a schema they are of its version.

        Args:
            events: Any number; they leave in chunks of 1,000 or 1 MiB.
            idempotent: As for `publish`, for each.
            durable: Likewise.

        Returns:
            A receipt for each, in order.

        Raises:
            PublishManyError: Some were not published, or nobody knows; it has what
                became of each.
            CodecError: As `publish`, and so on; nothing was sent.
            ReplicationError: All are published, some on too few replicas.
        """
        drafts = [self._draft(event) for event in events]
        return ManyEvents(
            self._publisher, drafts, idempotent=idempotent, durable=durable
        ).run()

    def transaction(self) -> Transaction:
        """Return an empty transaction; see `Transaction`."""
        return Transaction(self._transactor, self.keys, self._lines)

    def tail(
        self,
        pattern: str,
        *,
        limit: int = 1_000,
        on_overflow: OnOverflow = "drop_oldest",
    ) -> Tail:
        """Return the events from now on, for an `async for`; see `Tail`.

        Raises:
            InvalidEventTypeError: The pattern is not one.
            DataError: Another argument is out of range.
        """
        return self._tails.open(self.keys, pattern, limit, on_overflow)

    def replay(
        self,
        pattern: str,
        *,
        since: datetime,
        until: datetime | None = None,
        batch: int = 500,
        include_expired: bool = False,
    ) -> Replay:
        """Return the events that are retained, for an `async for`; see `Replay`.

        Raises:
            InvalidEventTypeError: The pattern is not one.
            DataError: A time has no time zone, or `batch` is out of range.
        """
        return Replay(
            *(self.hub, self.keys, pattern),
            since=since,
            until=until,
            batch=batch,
            include_expired=include_expired,
        )

    def dead_letters(self, group: str) -> DeadLetters:
        """Return what a group has given up; "-" for what the journal has.

        Raises:
            InvalidIdentifierError: The group's name is not one.
        """
        return DeadLetters(self.hub, self.keys, group)

    def rewind(self, group: str, pattern: str, to: datetime | str) -> Waiting[int]:
        """Have a group go on at a time, an event, "earliest" or "latest"; see `rewind`.

        Raises:
            InvalidEventTypeError: The pattern is not one.
            InvalidIdentifierError: The group's name is not one.
            DataError: `to` is none of these.
            UnavailableError: Redis did not answer; the group may have moved in part.
        """
        return rewind(self.hub, self.keys, group, pattern, to)

    def stats(self, group: str | None = None) -> Waiting[list[GroupStats]]:
        """Return how groups stand: what waits, and what was counted; see `GroupStats`.

        Raises:
            InvalidIdentifierError: The group's name is not one.
            UnavailableError: Redis did not answer.
        """
        return group_stats(self.hub, self.keys, group)

    def _draft(self, event: Event[Any]) -> Draft:
        line = self._lines.of(event.type, event.priority)
        envelope = event.envelope
        if envelope.schema_version == 1 != line.version:  # nobody has named one
            envelope = envelope._replace(schema_version=line.version)
        return line.fill(envelope, event.payload)


class EventBus:
    """The events of all tenants.

    Args:
        hub: What the rooms of the events share.

    Attributes:
        hub: What the rooms of the events share.
    """

    __slots__ = ("_publisher", "_tails", "_tenants", "_transactor", "hub")

    def __init__(self, hub: EventHub) -> None:
        self.hub = hub
        self._publisher = Publisher(hub)
        self._transactor = Transactor(hub, self._publisher.outbox)
        self._tails = Tails(hub)
        self._tenants: dict[str, TenantEvents] = {}

    def __repr__(self) -> str:
        return f"<EventBus {self.hub.catalog!r}>"

    async def aclose(self) -> None:
        """End what is under way; the crew calls it at its end. Idempotent."""
        await self._tails.aclose()
        await self._transactor.aclose()
        await self._publisher.outbox.aclose()

    def of(self, tenant_id: str) -> TenantEvents:
        """Return the events of one tenant, the same object while it is remembered.

        Raises:
            InvalidTenantError: The name is not one.
        """
        try:
            return self._tenants[tenant_id]
        except (KeyError, TypeError):
            keys = self.hub.keys.tenant(tenant_id)
        if len(self._tenants) >= MAX_TENANTS_KEPT:
            del self._tenants[next(iter(self._tenants))]  # the oldest; made again soon
        events = TenantEvents(
            self.hub, keys, self._publisher, self._transactor, self._tails
        )
        self._tenants[tenant_id] = events
        return events

    def publish(
        self,
        event_type: str,
        payload: object,
        *,
        tenant_id: str,
        **options: Unpack[PublishOptions],
    ) -> Waiting[EventReceipt]:
        """Say that something has happened to a tenant; see `TenantEvents.publish`.

        Raises:
            InvalidTenantError: The name is not one.
        """
        return self.of(tenant_id).publish(event_type, payload, **options)

    def publish_many(
        self,
        events: Sequence[Event[Any]],
        *,
        tenant_id: str,
        idempotent: bool = False,
        durable: bool = False,
    ) -> Waiting[list[EventReceipt]]:
        """Publish events of a tenant, in order; see `TenantEvents.publish_many`.

        Raises:
            InvalidTenantError: The name is not one.
        """
        tenant = self.of(tenant_id)
        return tenant.publish_many(events, idempotent=idempotent, durable=durable)
