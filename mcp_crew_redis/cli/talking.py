"""The demo's act of events: a slow subscriber is overtaken, a poisonous one is healed.

    backlog ... critical alert overtakes it ... poison: retries, dead letter, operator

What tools were found and what knowledge was written has been told while it was stored,
before the second process was there. What is still behind at the end of this act has the
next ones to catch up; `talk_count.py` counts it all.
"""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Awaitable, Callable, Sequence

from mcp_crew_redis.cli.cast import TENANTS, edited
from mcp_crew_redis.cli.checks import Stand
from mcp_crew_redis.cli.failure import DemoError
from mcp_crew_redis.cli.items import Item
from mcp_crew_redis.cli.report import printable
from mcp_crew_redis.cli.subscribers import ARCHIVE, ATTEMPTS, POISON, REVIEW
from mcp_crew_redis.cli.talk import Heard, Said
from mcp_crew_redis.cli.talk_history import Operator
from mcp_crew_redis.events.dead_letters import DeadLetter
from mcp_crew_redis.events.kinds import EventPriority, EventType
from mcp_crew_redis.types import DataType

__all__ = ["behind", "let_agents_talk", "until"]

_SAMPLES = 100
"""What the agents of each tenant measure at once: most of the slow one's backlog."""
_TIMEOUT = 10.0
_PAUSE = 0.01


async def let_agents_talk(
    stand: Stand, items: Sequence[Item], operator: Operator
) -> bool:
    """Play the act and tell it; return whether all went as it should.

    Raises:
        DemoError: A subscriber does not get what was published.
        CrewRedisError: Redis does not answer.
    """
    report, desk = stand.report, stand.desk
    report.title("The agents talk by events")
    told = Counter(one.type for one in desk.talk.said)
    report.line(
        "said",
        f"{', '.join(f'{count} {kind}' for kind, count in sorted(told.items()))}: "
        "each tool when it was found, each document when it was written",
    )
    report.line(
        "heard",
        "by 4 groups: index (both processes share it), archive (slow), review "
        "(poisoned), watch (the other process, a subscriber for each tenant)",
    )
    poisons = await _fall_behind(stand, items)
    is_overtaken = await _overtake(stand)
    is_dead = await _wait_for_the_dead(stand, poisons, operator)
    return await _operate(stand, poisons, operator) and is_overtaken and is_dead


# --- the slow one --------------------------------------------------------------------
async def _fall_behind(stand: Stand, items: Sequence[Item]) -> list[Said]:
    """Say more than the archive can take; return the events that are poison."""
    desk, documents = (
        stand.desk,
        [edited(item) for item in items if item.data_type is DataType.KNOWLEDGE],
    )
    poisons = [
        await desk.say(
            tenant.id,
            EventType.KNOWLEDGE_UPDATED,
            {"name": "minutes", "edition": POISON},
        )
        for tenant in TENANTS
    ]
    for item in documents:
        await stand.crew.tenant(item.tenant_id).set(
            item.data_type, item.identifier, item.value, kind=item.kind
        )
        await desk.say_of(item)
    for number in range(_SAMPLES):
        for tenant in TENANTS:
            await desk.say(
                tenant.id,
                EventType.TELEMETRY_SAMPLED,
                {"sample": number},
                priority=EventPriority.LOW,
            )
    return poisons


async def _overtake(stand: Stand) -> bool:
    """Raise an alert over the backlog, which it must not have to wait for."""
    desk = stand.desk
    before = {one.event_id for one in desk.talk.said}
    waiting = await behind(stand, ARCHIVE)
    alerts = [
        await desk.say(
            tenant.id,
            EventType.ALERT_RAISED,
            {"what": "the archive is behind", "events": waiting},
            priority=EventPriority.CRITICAL,
        )
        for tenant in TENANTS
    ]
    heard = [await _heard(stand, ARCHIVE, alert.event_id) for alert in alerts]
    earlier = {
        one.event_id
        for one in desk.talk.heard
        if one.group == ARCHIVE and one.at < heard[-1].at
    }
    overtaken = len(before - earlier)
    took = max(one.at - alert.began for one, alert in zip(heard, alerts, strict=True))
    stand.report.line("slow", f"the archive takes one at a time: {waiting} wait for it")
    stand.report.check(
        overtaken > 0,
        f"critical alerts passed {overtaken} events that were published before them: "
        f"the archive had both tenants' after {took * 1e3:.0f} ms",
    )
    return overtaken > 0


async def behind(stand: Stand, group: str) -> int:
    """Return how many events a group has not acknowledged, of all tenants.

    Raises:
        CrewRedisError: Redis does not answer.
    """
    waiting = 0
    for tenant in TENANTS:
        for one in await stand.crew.tenant(tenant.id).events.stats(group):
            waiting += one.pending + (1 if one.lag is None else one.lag)
    return waiting


# --- the poisonous one ---------------------------------------------------------------
async def _wait_for_the_dead(
    stand: Stand, poisons: Sequence[Said], operator: Operator
) -> bool:
    """Wait until each poison is a dead letter; meanwhile the others are handled."""
    heard = stand.desk.talk.heard
    is_right, ends = True, 0.0
    for poison in poisons:
        letter = await _letter(stand, poison)
        calls = [
            one.at
            for one in heard
            if one.group == REVIEW and one.event_id == poison.event_id
        ]
        _tell_letter(stand, poison, letter, calls)
        name = "" if letter.event is None else letter.event.id
        operator.dead.add(name)
        is_right &= name == poison.event_id
        is_right &= letter.attempts == len(calls) == ATTEMPTS
        ends = max(ends, calls[-1])
    began = min(one.began for one in poisons)
    others = sum(
        one.group == REVIEW and not one.failure and began < one.at < ends
        for one in heard
    )
    is_right &= others > 0
    stand.report.check(
        is_right,
        f"each poison was tried {ATTEMPTS} times, while the reviewer handled {others} "
        "others",
    )
    return is_right


async def _letter(stand: Stand, poison: Said) -> DeadLetter:
    letters = stand.crew.tenant(poison.tenant_id).events.dead_letters(REVIEW)

    async def is_there() -> bool:
        return bool(await letters.list())

    await until(stand, f"{poison.tenant_id}'s dead letter", is_there)
    return (await letters.list())[0]


def _tell_letter(
    stand: Stand, poison: Said, letter: DeadLetter, calls: Sequence[float]
) -> None:
    pauses = [later - at for at, later in itertools.pairwise(calls)]
    stand.report.line(
        "dead",
        f"{poison.tenant_id}: {letter.event_type} of review, after {letter.attempts} "
        f"deliveries with pauses of {', '.join(f'{each:.2f}' for each in pauses)} s: "
        f"{printable(letter.reason)}",
    )


async def _operate(stand: Stand, poisons: Sequence[Said], operator: Operator) -> bool:
    """Repair the reviewer, replay one dead letter and purge the other."""
    replayed, purged = poisons
    stand.reviewer.is_repaired = True
    events = [stand.crew.tenant(one.tenant_id).events for one in poisons]
    letters = [one.dead_letters(REVIEW) for one in events]
    counts = await letters[0].replay(), await letters[1].purge()
    operator.replayed.add(replayed.event_id)
    operator.purged.add(purged.event_id)
    heard = await _heard(stand, REVIEW, replayed.event_id)
    left = [len(await one.list()) for one in letters]
    is_right = counts == (1, 1) and left == [0, 0] and not heard.failure
    stand.report.check(
        is_right,
        f"by hand: the reviewer was repaired, {replayed.tenant_id}'s dead letter "
        f"replayed and handled, {purged.tenant_id}'s purged",
    )
    return is_right


# --- waiting -------------------------------------------------------------------------
async def _heard(stand: Stand, group: str, event_id: str) -> Heard:
    """Wait until a group of this process has handled an event."""
    found: list[Heard] = []

    async def is_handled() -> bool:
        found.extend(
            one
            for one in stand.desk.talk.heard
            if one.group == group and one.event_id == event_id and not one.failure
        )
        return bool(found)

    await until(stand, f"{event_id} at {group}", is_handled)
    return found[0]


async def until(stand: Stand, what: str, holds: Callable[[], Awaitable[bool]]) -> None:
    """Ask every 10 ms, for 10 s at most.

    Raises:
        DemoError: It does not hold; names `what` was waited for.
    """
    deadline = stand.clock.monotonic() + _TIMEOUT
    while not await holds():
        if stand.clock.monotonic() > deadline:
            raise DemoError(f"{what} has not come within {_TIMEOUT:g} s")
        await stand.clock.sleep(_PAUSE)
