"""The asyncio Redis layer for multi-agent (MCP) systems."""
