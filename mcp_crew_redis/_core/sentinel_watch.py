"""One sentinel: asked again and again over one connection, at once if it is urgent."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from redis import exceptions as redis_errors

from mcp_crew_redis._core.seam import close_quietly, dialled
from mcp_crew_redis._core.topology import DOWN, Fault, Place, Report
from mcp_crew_redis.log import get_logger

__all__ = ["SentinelWatch", "read_report"]

log = get_logger(__name__)


class SentinelWatch:
    """Keeps the latest report of one sentinel.

    Args:
        place: Where the sentinel listens.
        master: The name to ask for.
        make: Makes an unconnected connection to it.
        patience: Seconds until it counts as silent, dialling included.
        interval: Seconds between two questions.
        heard: Told of each report.

    Attributes:
        report: The latest, None before the first.
        number: How many reports there have been.
    """

    def __init__(
        self,
        place: Place,
        master: str,
        make: Callable[[Place], Any],
        *,
        patience: float,
        interval: float,
        heard: Callable[[], None],
    ) -> None:
        self.place = place
        self.report: Report | None = None
        self.number = 0
        self._master = master
        self._make = make
        self._patience = patience
        self._interval = interval
        self._heard = heard
        self._connection: Any = None
        self._asking = 0
        self._poked = asyncio.Event()

    @property
    def is_trusted(self) -> bool:
        """Whether an answer may be expected soon: the last question had one."""
        return self.report is None or self.report.fault is None

    def poke(self) -> int:
        """Ask at once; the report of the returned number was asked for after this."""
        self._poked.set()
        return self._asking + 1

    async def run(self) -> None:
        """Ask until cancelled; then the connection is closed."""
        try:
            while True:
                self._poked.clear()
                self._asking += 1
                self._take(await self._ask())
                try:
                    async with asyncio.timeout(self._interval):
                        await self._poked.wait()
                except TimeoutError:
                    pass
        finally:
            self._close()

    def _take(self, report: Report) -> None:
        before = None if self.report is None else self.report.fault
        if report.fault is not before:
            if report.fault is not None:
                cause = report.fault.name.lower()
                log.warning("sentinel.lost", sentinel=str(self.place), cause=cause)
            else:
                log.info("sentinel.found", sentinel=str(self.place))
        self.report, self.number = report, self._asking
        self._heard()

    async def _ask(self) -> Report:
        """Ask once; over a new connection too if the kept one turns out to be dead."""
        was_kept = self._connection is not None
        try:
            async with asyncio.timeout(self._patience):
                try:
                    return await self._exchange()
                except (redis_errors.ConnectionError, OSError):
                    self._close()
                    if not was_kept:
                        raise
                    return await self._exchange()
        except redis_errors.AuthenticationError:
            report = Report(fault=Fault.REFUSED)
        except (redis_errors.ConnectionError, redis_errors.TimeoutError, OSError):
            report = Report(fault=Fault.SILENT)
        except redis_errors.RedisError:  # an answer, and not one of a sentinel
            report = Report(fault=Fault.REFUSED)
        except BaseException:
            self._close()
            raise
        self._close()
        return report

    async def _exchange(self) -> Report:
        if self._connection is None:
            connection = self._make(self.place)
            try:
                await dialled(connection)
            except BaseException:
                close_quietly(connection)
                raise
            self._connection = connection
        # One write: the sentinel answers both in one state.
        address, details = await self._connection.ask(
            ("SENTINEL", "GET-MASTER-ADDR-BY-NAME", self._master),
            ("SENTINEL", "MASTER", self._master),
        )
        return read_report(address, details)

    def _close(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            close_quietly(connection)


def read_report(address: object, details: object) -> Report:
    """Read the replies to GET-MASTER-ADDR-BY-NAME and to MASTER.

    In the middle of a failover the first names the new master already, while the
    second describes the old one: its flags then mean nothing for the new.
    """
    if isinstance(address, Exception):
        return Report(fault=Fault.REFUSED)
    if address is None:
        return Report(fault=Fault.UNKNOWN)
    try:
        place = _place(address)
        fields = _fields(details)
        epoch = int(fields.get("config-epoch", "0"))
        described = (fields.get("ip", ""), fields.get("port", ""))
    except (TypeError, ValueError, AttributeError):
        return Report(fault=Fault.REFUSED)
    flags: set[str] = set()
    if described == (place.host, str(place.port)):
        flags = set(fields.get("flags", "").split(","))
    return Report(
        place=place,
        epoch=epoch,
        is_suspected=bool(flags & DOWN),
        is_down="o_down" in flags,
    )


def _place(address: object) -> Place:
    if not isinstance(address, (list, tuple)):
        raise TypeError("not a pair")
    host, port = address
    return Place(host.decode(), int(port))


def _fields(details: object) -> dict[str, str]:
    """Return the fields of SENTINEL MASTER: a map in RESP3, a flat list in RESP2."""
    if isinstance(details, Exception):
        # Forbidden, or forgotten since the first question: the address stands alone.
        return {}
    pairs: Iterable[tuple[bytes, bytes]]
    if isinstance(details, Mapping):
        pairs = details.items()
    elif isinstance(details, list):
        pairs = zip(details[::2], details[1::2], strict=True)
    else:
        raise TypeError("neither a map nor a list")
    return {name.decode(): value.decode() for name, value in pairs}
