"""The janitor: moves what is due, removes what nobody needs, counts what that costs.

janitor      the service: who does what, and when
rounds       one kind of work, by due times
schedule     delayed events into their streams
retention    streams trimmed
survey       what there is already
losses       what is told of it
"""

from mcp_crew_redis.events.janitor.janitor import Janitor

__all__ = ["Janitor"]
