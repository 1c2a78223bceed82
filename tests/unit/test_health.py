"""The health report as data."""

import json
from dataclasses import FrozenInstanceError

import pytest

from mcp_crew_redis.health import ComponentHealth, HealthReport


def test_a_component_without_a_reason_is_well():
    """A reason is a complaint."""
    assert ComponentHealth(name="redis", state="closed").is_well
    assert not ComponentHealth(name="redis", state="open", reason="refused").is_well


def test_a_report_is_json_ready():
    """An endpoint returns `as_dict()` as it is."""
    redis = ComponentHealth(name="redis", state="closed", detail={"ping_ms": 0.2})
    report = HealthReport(is_live=True, is_ready=True, components=(redis,))

    assert json.loads(json.dumps(report.as_dict())) == {
        "is_live": True,
        "is_ready": True,
        "is_degraded": False,
        "components": [
            {
                "name": "redis",
                "state": "closed",
                "detail": {"ping_ms": 0.2},
                "reason": None,
            }
        ],
    }


def test_a_report_is_frozen():
    """What was reported stays as it was reported."""
    report = HealthReport(is_live=True, is_ready=True)
    with pytest.raises(FrozenInstanceError):
        report.is_ready = False  # type: ignore[misc]  # the point of the test
