"""Who listens to the agents' events: four groups, in two processes, for two tenants.

index     tools and knowledge; both processes share its events
archive   everything; slow, so it falls behind
review    knowledge; poisoned by an edition that is no number
watch     alerts, one subscriber for each tenant; answers each with an event
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from mcp_crew_redis._core.backoff import Backoff
from mcp_crew_redis.cli.talk import Desk, Payload
from mcp_crew_redis.events.event import Event
from mcp_crew_redis.events.kinds import EventType
from mcp_crew_redis.events.subscriptions import Subscriptions

__all__ = [
    "ARCHIVE",
    "ATTEMPTS",
    "GROUPS",
    "POISON",
    "REVIEW",
    "Reviewer",
    "first_subscribers",
    "second_subscribers",
]

INDEX = "index"
ARCHIVE = "archive"
REVIEW = "review"
WATCH = "watch"
GROUPS = {
    INDEX: ("tool.", "knowledge."),
    ARCHIVE: ("",),
    REVIEW: ("knowledge.",),
    WATCH: ("alert.",),
}
"""The groups, and what the types that they want begin with."""
ATTEMPTS = 3
"""Deliveries after which the reviewer's poison is a dead letter."""
POISON = "two"
"""An edition that the reviewer cannot read until it is repaired."""
_SLOW = 0.005
"""Seconds that the archive takes for each event, one after the other."""
_BACKOFF = Backoff(base=0.1, factor=2.0, jitter=False)


@dataclass(slots=True)
class Reviewer:
    """The subscriber that fails; an operator may repair it.

    Attributes:
        desk: Where it notes what it hears.
        is_repaired: Whether it can read editions that are words.
    """

    desk: Desk
    is_repaired: bool = field(default=False)

    async def review(self, event: Event[Payload]) -> None:
        """Read the edition of what has changed.

        Raises:
            ValueError: It is no number.
        """
        edition = event.payload["edition"]
        if self.is_repaired and edition == POISON:
            edition = 2
        try:
            int(edition)
        except ValueError as error:
            self.desk.note(REVIEW, event, failure=str(error))
            raise
        self.desk.note(REVIEW, event)


def first_subscribers(desk: Desk, reviewer: Reviewer) -> Subscriptions:
    """Return those of the first process."""
    subscriptions = Subscriptions()
    _index(subscriptions, desk)

    # A dead letter that is replayed comes to every group: who has had it skips it.
    @subscriptions.on(">", group=ARCHIVE, concurrency=1, dedup=True)
    async def archive(event: Event[Payload]) -> None:
        await desk.clock.sleep(_SLOW)
        desk.note(ARCHIVE, event)

    @subscriptions.on(
        "knowledge.>", group=REVIEW, max_deliveries=ATTEMPTS, backoff=_BACKOFF
    )
    async def review(event: Event[Payload]) -> None:
        await reviewer.review(event)

    return subscriptions


def second_subscribers(desk: Desk, tenants: Sequence[str]) -> Subscriptions:
    """Return those of the second process."""
    subscriptions = Subscriptions()
    _index(subscriptions, desk)
    for tenant_id in tenants:

        @subscriptions.on("alert.>", group=WATCH, tenants=[tenant_id])
        async def answer(event: Event[Payload]) -> None:
            # Under a name of its own: delivered again, it answers once all the same.
            await desk.say(
                event.tenant_id,
                EventType.AUDIT_RECORDED,
                {"answers": event.id},
                event_id=f"{event.id}-answered",
            )
            desk.note(WATCH, event)

    return subscriptions


def _index(subscriptions: Subscriptions, desk: Desk) -> None:
    async def index(event: Event[Payload]) -> None:
        desk.note(INDEX, event)

    for pattern in ("tool.>", "knowledge.>"):
        subscriptions.on(pattern, group=INDEX, dedup=True)(index)
