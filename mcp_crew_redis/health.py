"""What a health endpoint reports."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TypeAlias

__all__ = ["ComponentHealth", "HealthReport", "Scalar"]

Scalar: TypeAlias = str | int | float | bool | None


@dataclass(frozen=True, slots=True, kw_only=True)
class ComponentHealth:
    """One component at one moment.

    Attributes:
        name: "redis", "embedded", "loop" or a service's name.
        state: A short word, such as "running", "closed" (a circuit) or "failed".
        detail: Figures; their names carry the unit. Never a secret, never a value.
        reason: Why it is not as it should be; None if it is.
        is_bearable: Whether the process serves in spite of the reason.
    """

    name: str
    state: str
    detail: Mapping[str, Scalar] = field(default_factory=dict)
    reason: str | None = None
    is_bearable: bool = False

    @property
    def is_well(self) -> bool:
        """Whether there is nothing to complain of."""
        return self.reason is None

    @property
    def is_serving(self) -> bool:
        """Whether work can be sent here as far as this component is concerned."""
        return self.is_well or self.is_bearable

    def as_dict(self) -> dict[str, object]:
        """Return it as plain data, ready for JSON."""
        return {
            "name": self.name,
            "state": self.state,
            "detail": dict(self.detail),
            "reason": self.reason,
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class HealthReport:
    """Whether to restart this process, and whether to send it work.

    Attributes:
        is_live: False asks for a restart: it has failed, has ended or its loop hangs.
            Redis being away is no reason to restart.
        is_ready: False asks to send work elsewhere for now. Redis being away is no
            reason as long as the journal has room.
        components: Each part with its own state and, if any, its complaint.
    """

    is_live: bool
    is_ready: bool
    components: tuple[ComponentHealth, ...] = ()

    @property
    def is_degraded(self) -> bool:
        """Whether any component has something to complain of."""
        return bool(self.reasons)

    @property
    def reasons(self) -> tuple[str, ...]:
        """What is not as it should be, each with its component's name."""
        return tuple(
            f"{each.name}: {each.reason}" for each in self.components if each.reason
        )

    def as_dict(self) -> dict[str, object]:
        """Return it as plain data, ready for JSON."""
        return {
            "is_live": self.is_live,
            "is_ready": self.is_ready,
            "is_degraded": self.is_degraded,
            "components": [component.as_dict() for component in self.components],
        }
