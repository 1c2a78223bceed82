"""Loggers that never write where they could do harm.

structlog that nobody has configured prints to standard output, which in an MCP server
over stdio *is* the protocol. So until the application configures structlog, warnings
and errors go to standard error and the rest is dropped; afterwards its configuration
rules.
"""

from __future__ import annotations

import logging
import sys
from typing import Any

import structlog

__all__ = ["Log", "get_logger"]


class Log:
    """A logger that looks at structlog's configuration when it is used.

    Events are `component.past_tense` with key-values.
    """

    def __init__(self, name: str) -> None:
        self._name = name

    def debug(self, event: str, **values: object) -> None:
        """Log what happens per item."""
        self._logger().debug(event, **values)

    def info(self, event: str, **values: object) -> None:
        """Log a change of state that is as it should be."""
        self._logger().info(event, **values)

    def warning(self, event: str, **values: object) -> None:
        """Log a failure that was dealt with."""
        self._logger().warning(event, **values)

    def error(self, event: str, **values: object) -> None:
        """Log a failure that somebody must look at."""
        self._logger().error(event, **values)

    def _logger(self) -> Any:
        if structlog.is_configured():
            return structlog.get_logger(self._name)
        return structlog.wrap_logger(
            structlog.PrintLogger(sys.stderr),
            wrapper_class=structlog.make_filtering_bound_logger(logging.WARNING),
        )


def get_logger(name: str) -> Log:
    """Return the logger of one module."""
    return Log(name)
