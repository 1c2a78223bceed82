"""`CrewRedis`: the one object that an application enters."""

from mcp_crew_redis.crew.crew import CrewRedis
from mcp_crew_redis.crew.spec import ServiceSpec

__all__ = ["CrewRedis", "ServiceSpec"]
