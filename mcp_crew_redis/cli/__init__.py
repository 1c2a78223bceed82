"""The command line: `python -m mcp_crew_redis` and `mcp-crew-redis`.

The top floor. Only this folder imports typer, rich and the MCP SDK, which are extras;
nothing below imports it.
"""
