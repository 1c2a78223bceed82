"""What is believed of what sentinels say, without any of them."""

from __future__ import annotations

import pytest
from redis.exceptions import ResponseError

from mcp_crew_redis._core.sentinel_watch import read_report
from mcp_crew_redis._core.topology import (
    Fault,
    MasterNotFoundError,
    MasterUnknownError,
    Place,
    Report,
    SentinelSettings,
    decide,
)
from mcp_crew_redis.errors import ConfigurationError, UnavailableError

OLD, NEW = Place("10.0.0.1", 6379), Place("10.0.0.2", 6379)
SILENT = Report(fault=Fault.SILENT)
UNKNOWN = Report(fault=Fault.UNKNOWN)
REFUSED = Report(fault=Fault.REFUSED)


def says(place, epoch=1, **flags):
    return Report(place=place, epoch=epoch, **flags)


def judged(*reports, asked=3, known_epoch=0):
    return decide(reports, asked=asked, known_epoch=known_epoch)


def details(flags=b"master"):
    place = {b"ip": b"10.0.0.1", b"port": b"6379"}
    return place | {b"flags": flags, b"config-epoch": b"7"}


# --- whom to believe ---------------------------------------------------------------
def test_what_all_say_is_believed():
    """The ordinary case."""
    verdict = judged(says(OLD), says(OLD), says(OLD))

    assert (verdict.found(), verdict.epoch) == (OLD, 1)


def test_one_sentinel_is_enough_when_the_others_are_down():
    """Dead sentinels do not take the data with them."""
    assert judged(SILENT, says(OLD), SILENT).found() == OLD


def test_the_newest_configuration_wins_over_any_majority():
    """Two who were cut off name the old master; the third has seen the failover."""
    assert judged(says(OLD, 1), says(NEW, 2), says(OLD, 1)).found() == NEW


def test_votes_decide_between_names_of_the_same_configuration():
    """One that is configured wrongly stands alone."""
    assert judged(says(NEW), says(OLD), says(OLD)).found() == OLD


def test_a_lone_sentinel_that_is_behind_leads_nobody_back():
    """This process has followed configuration 2 already."""
    verdict = judged(SILENT, says(OLD, 1), SILENT, known_epoch=2)

    with pytest.raises(MasterNotFoundError, match="behind"):
        verdict.found()


def test_most_sentinels_may_start_counting_anew():
    """They were set up again: no process has to be restarted for it."""
    assert judged(says(NEW, 0), says(NEW, 0), SILENT, known_epoch=9).found() == NEW


# --- masters that are not dialled ----------------------------------------------------
def test_a_master_that_is_agreed_to_be_down_is_not_dialled():
    """`o_down`: a failover is about to come."""
    down = says(OLD, is_suspected=True, is_down=True)

    with pytest.raises(MasterNotFoundError, match="hold the master down"):
        judged(says(OLD), down, says(OLD)).found()


def test_a_master_that_every_sentinel_has_lost_is_not_dialled():
    """Nobody agrees on anything yet, but nobody reaches it either."""
    lost = says(OLD, is_suspected=True)

    with pytest.raises(MasterNotFoundError, match="hold the master down"):
        judged(lost, lost, SILENT).found()


def test_a_master_that_one_sentinel_has_lost_is_dialled():
    """That sentinel has a problem, not the master."""
    assert judged(says(OLD), says(OLD, is_suspected=True)).found() == OLD


def test_flags_of_an_older_configuration_do_not_count():
    """The old master is down; the new one is not."""
    old = says(OLD, 1, is_suspected=True, is_down=True)

    assert judged(old, old, says(NEW, 2)).found() == NEW


# --- nobody --------------------------------------------------------------------------
def test_silent_sentinels_are_unavailable_and_named_by_their_variable():
    """An outage, not a mistake: the fallback may take over."""
    verdict = judged(SILENT, SILENT, SILENT)

    with pytest.raises(UnavailableError, match="REDIS_CREW_SENTINELS") as caught:
        verdict.found()
    assert not isinstance(caught.value, ConfigurationError)


def test_no_report_at_all_is_unavailable():
    """Nobody answered in time."""
    with pytest.raises(MasterNotFoundError):
        judged().found()


def test_a_name_that_most_sentinels_do_not_know_is_a_mistake():
    """A typing error in the setting: trying again will not help."""
    with pytest.raises(MasterUnknownError, match="REDIS_CREW_SENTINEL_MASTER"):
        judged(UNKNOWN, UNKNOWN, SILENT).found()


def test_a_name_that_one_sentinel_does_not_know_is_an_outage():
    """It may have been set up a moment ago, while the others are down."""
    verdict = judged(UNKNOWN, SILENT, SILENT)

    assert not verdict.is_final
    with pytest.raises(MasterNotFoundError):
        verdict.found()


def test_addresses_that_refuse_are_a_mistake():
    """Data servers, or sentinels with a password."""
    with pytest.raises(MasterUnknownError, match="REDIS_CREW_SENTINELS refuse"):
        judged(REFUSED, REFUSED, REFUSED).found()


# --- what sentinels write -----------------------------------------------------------
def test_a_report_is_read_from_a_map():
    """RESP3."""
    report = read_report([b"10.0.0.1", b"6379"], details())

    assert report == Report(place=OLD, epoch=7)


def test_a_report_is_read_from_a_flat_list():
    """RESP2."""
    flat = [part for pair in details().items() for part in pair]

    assert read_report([b"10.0.0.1", b"6379"], flat) == Report(place=OLD, epoch=7)


@pytest.mark.parametrize(
    ("flags", "suspected", "down"),
    [
        (b"master", False, False),
        (b"s_down,master", True, False),
        (b"s_down,o_down,master", True, True),
        (b"master,disconnected", False, False),
    ],
)
def test_flags_are_read(flags, suspected, down):
    """Down for one, down for enough of them."""
    report = read_report([b"10.0.0.1", b"6379"], details(flags=flags))

    assert (report.is_suspected, report.is_down) == (suspected, down)


def test_flags_of_the_old_master_are_not_those_of_the_new():
    """In a failover the address is the new master's and the description the old's."""
    report = read_report([b"10.0.0.2", b"6379"], details(flags=b"o_down,master"))

    assert report == Report(place=NEW, epoch=7)


def test_a_name_unknown_to_the_sentinel_is_told_apart():
    """It answers with nothing."""
    assert read_report(None, ResponseError("No such master")).fault is Fault.UNKNOWN


@pytest.mark.parametrize(
    "address",
    [
        ResponseError("unknown command 'SENTINEL'"),
        b"text",
        [b"one"],
        [b"10.0.0.1", b"port"],
        [None, None],
        7,
    ],
)
def test_an_answer_of_something_else_is_refused(address):
    """Whatever stands at that address, it is no sentinel."""
    assert read_report(address, {}).fault is Fault.REFUSED


def test_a_forbidden_description_leaves_the_address():
    """An ACL that allows the one question and not the other."""
    report = read_report([b"10.0.0.1", b"6379"], ResponseError("NOPERM"))

    assert report == Report(place=OLD, epoch=0)


# --- settings ----------------------------------------------------------------------
@pytest.mark.parametrize(
    "values",
    [
        {"places": (), "master": "m"},
        {"places": (("a", 1),), "master": ""},
        {"places": (("a", 1),), "master": "m", "interval": 0.0},
        {"places": (("a", 1),), "master": "m", "interval": float("nan")},
    ],
)
def test_settings_that_cannot_work_are_refused(values):
    """Before anything is dialled."""
    with pytest.raises(ConfigurationError):
        SentinelSettings(**values)
