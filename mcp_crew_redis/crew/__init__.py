"""`CrewRedis`: the one object that an application enters."""

from mcp_crew_redis.crew.crew import CrewRedis, ServiceSpec

__all__ = ["CrewRedis", "ServiceSpec"]
