"""The settings: names, ranges, one error that says everything but secrets."""

import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from mcp_crew_redis.errors import ConfigurationError
from mcp_crew_redis.settings import CrewSettings

SECRET = "hunter2"


@pytest.fixture(autouse=True)
def _empty_environment(monkeypatch):
    """What the developer's own shell says is no part of a test."""
    for name in list(os.environ):
        if name.startswith(("REDIS_CREW_", "REDIS_CIRCUIT_BREAKER_")):
            monkeypatch.delenv(name)


def refusal(**values: object) -> str:
    """Return what is said about settings that cannot be used."""
    with pytest.raises(ConfigurationError) as caught:
        CrewSettings(**values)
    assert caught.value.__context__ is None, "pydantic's error would hold the values"
    assert caught.value.__cause__ is None
    return str(caught.value)


# --- names and defaults -------------------------------------------------------
def test_defaults_are_the_original_ones():
    """What the original team documented holds without any variable."""
    settings = CrewSettings()

    assert (settings.host, settings.port, settings.db) == ("localhost", 6380, 0)
    assert settings.password is None
    assert settings.prefix == "mcp-crew:"
    assert settings.pool_size == 10
    assert settings.circuit_breaker_threshold == 5
    assert settings.circuit_breaker_timeout == 60.0


@pytest.mark.parametrize(
    ("variable", "given", "name", "expected"),
    [
        ("REDIS_CREW_HOST", "redis.internal", "host", "redis.internal"),
        ("REDIS_CREW_PORT", "7000", "port", 7000),
        ("REDIS_CREW_DB", "3", "db", 3),
        ("REDIS_CREW_PREFIX", "other:", "prefix", "other:"),
        ("REDIS_CREW_POOL_SIZE", "20", "pool_size", 20),
        ("REDIS_CIRCUIT_BREAKER_THRESHOLD", "7", "circuit_breaker_threshold", 7),
        ("REDIS_CIRCUIT_BREAKER_TIMEOUT", "30", "circuit_breaker_timeout", 30.0),
        ("REDIS_CREW_COMMAND_TIMEOUT", "0.5", "command_timeout", 0.5),
        ("REDIS_CREW_CONNECT_TIMEOUT", "5", "connect_timeout", 5.0),
        ("REDIS_CREW_EMBEDDED", "true", "embedded", True),
        ("REDIS_CREW_JOURNAL_FSYNC", "always", "journal_fsync", "always"),
        ("REDIS_CREW_REPLAY_WINDOW", "0", "replay_window", 0.0),
        ("REDIS_CREW_TOMBSTONE_TTL", "3600", "tombstone_ttl", 3600.0),
        ("REDIS_CREW_MAX_VALUE_BYTES", "1024", "max_value_bytes", 1024),
        ("REDIS_CREW_START", "strict", "start", "strict"),
        ("REDIS_CREW_TTL", '{"tools.mongodb": 60}', "ttl", {"tools.mongodb": 60.0}),
        ("REDIS_CREW_DATA_DIR", "/var/lib/crew", "data_dir", Path("/var/lib/crew")),
    ],
)
def test_each_variable_sets_its_field(monkeypatch, variable, given, name, expected):
    """The environment is read under the documented names."""
    monkeypatch.setenv(variable, given)

    assert getattr(CrewSettings(), name) == expected


def test_arguments_go_before_the_environment(monkeypatch):
    """Also where a field's variable is not its prefixed name."""
    monkeypatch.setenv("REDIS_CREW_PORT", "7000")
    monkeypatch.setenv("REDIS_CIRCUIT_BREAKER_THRESHOLD", "9")

    settings = CrewSettings(port=7001, circuit_breaker_threshold=8)

    assert (settings.port, settings.circuit_breaker_threshold) == (7001, 8)


def test_no_file_is_read(monkeypatch, tmp_path):
    """A `.env` in the working directory changes nothing."""
    (tmp_path / ".env").write_text("REDIS_CREW_PORT=7000\n")
    monkeypatch.chdir(tmp_path)

    assert CrewSettings().port == 6380


def test_settings_are_frozen():
    """Nobody changes them behind a component's back."""
    with pytest.raises(ValidationError, match="frozen"):
        CrewSettings().port = 1


# --- refusals -----------------------------------------------------------------
@pytest.mark.parametrize(
    ("variable", "value"),
    [
        ("REDIS_CREW_HOST", ""),
        ("REDIS_CREW_HOST", "a host"),
        ("REDIS_CREW_PORT", ""),
        ("REDIS_CREW_PORT", "abc"),
        ("REDIS_CREW_PORT", "-1"),
        ("REDIS_CREW_PORT", "0"),
        ("REDIS_CREW_PORT", "65536"),
        ("REDIS_CREW_DB", "-1"),
        ("REDIS_CREW_DB", "1.5"),
        ("REDIS_CREW_PREFIX", ""),
        ("REDIS_CREW_PREFIX", "no-colon"),
        ("REDIS_CREW_PREFIX", "{tag}:"),
        ("REDIS_CREW_POOL_SIZE", "2"),
        ("REDIS_CREW_POOL_SIZE", "ten"),
        ("REDIS_CIRCUIT_BREAKER_THRESHOLD", "0"),
        ("REDIS_CIRCUIT_BREAKER_TIMEOUT", "-60"),
        ("REDIS_CIRCUIT_BREAKER_TIMEOUT", "inf"),
        ("REDIS_CREW_COMMAND_TIMEOUT", "0"),
        ("REDIS_CREW_COMMAND_TIMEOUT", "nan"),
        ("REDIS_CREW_MAX_VALUE_BYTES", "0"),
        ("REDIS_CREW_TLS", "maybe"),
        ("REDIS_CREW_TLS_CA_FILE", "/does/not/exist"),
        ("REDIS_CREW_UNIX_SOCKET", "/" + "x" * 107),
        ("REDIS_CREW_EMBEDDED_BINARY", "/does/not/exist"),
        ("REDIS_CREW_DATA_DIR", ""),
        ("REDIS_CREW_JOURNAL_DIR", "/dev/null"),
        ("REDIS_CREW_JOURNAL_FSYNC", "sometimes"),
        ("REDIS_CREW_SENTINELS", "host-without-port"),
        ("REDIS_CREW_START", "maybe"),
        ("REDIS_CREW_DRAIN_TIMEOUT", "-1"),
    ],
)
def test_a_bad_value_names_variable_value_and_range(monkeypatch, variable, value):
    """Whoever reads the error knows what to change and to what."""
    monkeypatch.setenv(variable, value)

    message = refusal()

    assert message.startswith(f"{variable}='{value[:80]}")
    assert ": accepted is " in message


def test_all_bad_values_come_in_one_error(monkeypatch):
    """Nobody has to correct one variable to hear of the next."""
    monkeypatch.setenv("REDIS_CREW_PORT", "abc")
    monkeypatch.setenv("REDIS_CREW_DB", "-1")
    monkeypatch.setenv("REDIS_CIRCUIT_BREAKER_THRESHOLD", "none")

    message = refusal()

    assert message.startswith("3 settings cannot be used:\n  ")
    for variable in (
        *("REDIS_CREW_PORT", "REDIS_CREW_DB", "REDIS_CIRCUIT_BREAKER_THRESHOLD"),
    ):
        assert variable in message


def test_a_bad_entry_of_a_mapping_is_named():
    """The one bad time to live is shown, not the whole object."""
    message = refusal(ttl={"tools.mongodb": 60, "event.alert": -5})

    assert message.startswith("REDIS_CREW_TTL='event.alert: -5'")


def test_an_unknown_argument_is_refused_without_its_value():
    """It may be a password under a misspelt name."""
    message = refusal(passwrod=SECRET)

    assert "did you mean 'password'?" in message
    assert SECRET not in message


# --- secrets ------------------------------------------------------------------
@pytest.mark.parametrize(
    "values",
    [
        {"url": f"redis://:{SECRET}@"},
        {"url": f"redis://user:{SECRET}"},
        {"url": f"http://user:{SECRET}@host"},
        {"url": f"redis://user:a/{SECRET}@host:x"},
        {"url": f"redis://host?password={SECRET}"},
        {"url": SECRET},
        {"host": f"redis://:{SECRET}@host"},
        {"host": f"redis://:{SECRET}"},
        {"host": f"user:{SECRET}@host"},
        {"sentinels": f"user:{SECRET}@host:1"},
        {"password": SECRET, "port": 0},
        {"url": f"redis://:{SECRET}@host", "password": "another"},
    ],
)
def test_no_refusal_shows_a_secret(values):
    """Neither passwords nor URLs that may hold them."""
    assert SECRET not in refusal(**values)


def test_an_empty_password_is_refused():
    """No password is said by leaving the variable unset."""
    message = refusal(password="")

    assert message.startswith("REDIS_CREW_PASSWORD='' (empty)")
    assert "unset for none" in message


def test_no_repr_shows_a_secret():
    """Neither the settings' nor a section's."""
    settings = CrewSettings(url=f"redis://user:{SECRET}@host")

    for shown in (repr(settings), str(settings), repr(settings.endpoint)):
        assert SECRET not in shown


@given(st.text(min_size=4, max_size=40))
def test_no_url_is_repeated_that_is_not_plainly_harmless(text):
    """Whatever stands where a password may stand stays unsaid."""
    try:
        CrewSettings(url=f"redis://:{text}SECRET{text}@")
    except ConfigurationError as error:
        assert "SECRET" not in str(error)  # noqa: PT017 - some texts are fine


# --- addresses ----------------------------------------------------------------
def test_url_wins_over_the_defaults():
    """Everything a URL says ends in the endpoint."""
    endpoint = CrewSettings(url="rediss://me:p%40ss@redis.internal:7000/3").endpoint

    assert (endpoint.host, endpoint.port, endpoint.db) == ("redis.internal", 7000, 3)
    assert endpoint.username == "me"
    assert endpoint.password is not None
    assert endpoint.password.get_secret_value() == "p@ss"
    assert endpoint.tls is not None


def test_url_without_a_port_means_the_port_of_every_redis_url():
    """6379, not our own default; an explicit REDIS_CREW_PORT completes it."""
    assert CrewSettings(url="redis://host").endpoint.port == 6379
    assert CrewSettings(url="redis://host", port=7000).endpoint.port == 7000


def test_password_may_stand_outside_the_url():
    """What the URL leaves out, the single settings complete."""
    endpoint = CrewSettings(url="redis://host", password=SECRET, db=2).endpoint

    assert endpoint.password is not None
    assert endpoint.db == 2


def test_url_of_a_unix_socket():
    """The database comes as a query, as in redis-py."""
    endpoint = CrewSettings(url="unix:///run/redis/s%20s?db=4").endpoint

    assert endpoint.unix_socket == Path("/run/redis/s s")
    assert endpoint.db == 4
    assert str(endpoint) == "unix socket /run/redis/s s"


def test_ipv6_addresses_are_read_and_shown():
    """In a URL and among sentinels an IPv6 host stands in brackets."""
    assert str(CrewSettings(url="redis://[::1]:7000").endpoint) == "[::1]:7000"
    settings = CrewSettings(sentinels="[::1]:26379, b:26380", sentinel_master="m")
    assert settings.topology.sentinels == (("::1", 26379), ("b", 26380))


@pytest.mark.parametrize(
    ("values", "named"),
    [
        ({"url": "redis://a", "host": "b"}, ("URL", "HOST")),
        ({"url": "redis://a:1", "port": 2}, ("URL", "PORT")),
        ({"url": "redis://a/1", "db": 2}, ("URL", "DB")),
        ({"url": "redis://u:p@a", "username": "v"}, ("URL", "USERNAME")),
        ({"url": "redis://u:p@a", "password": "q"}, ("URL", "PASSWORD")),
        ({"url": "redis://a", "tls": True}, ("URL", "TLS")),
        ({"url": "rediss://a", "tls": False}, ("URL", "TLS")),
        ({"url": "redis://a", "unix_socket": "/s"}, ("URL", "UNIX_SOCKET")),
        ({"unix_socket": "/s", "port": 1}, ("UNIX_SOCKET", "PORT")),
        ({"unix_socket": "/s", "tls": True}, ("UNIX_SOCKET", "TLS")),
        ({"tls_ca_file": __file__}, ("TLS_CA_FILE", "TLS")),
        ({"tls": True, "tls_cert_file": __file__}, ("TLS_CERT_FILE", "TLS_KEY_FILE")),
        ({"sentinels": "a:1"}, ("SENTINELS", "SENTINEL_MASTER")),
        ({"sentinel_master": "m"}, ("SENTINELS", "SENTINEL_MASTER")),
        (
            {"sentinels": "a:1", "sentinel_master": "m", "host": "b"},
            ("SENTINELS", "HOST"),
        ),
        ({"cluster": True, "db": 1}, ("DB",)),
        ({"embedded": True, "host": "a"}, ("EMBEDDED", "HOST")),
    ],
)
def test_contradictions_name_both_sides(values, named):
    """Of two settings that cannot both hold, neither is ignored in silence."""
    message = refusal(**values)

    for name in named:
        assert f"REDIS_CREW_{name}" in message


def test_the_same_value_twice_is_no_contradiction():
    """A URL and parts that agree are fine."""
    endpoint = CrewSettings(url="redis://a:1/2", host="a", port=1, db=2).endpoint

    assert str(endpoint) == "a:1"


# --- what the floors above accept ---------------------------------------------
@pytest.mark.parametrize("prefix", ["mcp-crew:", "a:", "A.b_c/d-e:f:", "x" * 63 + ":"])
def test_accepted_prefixes_are_accepted_by_the_keys(prefix):
    """The settings do not promise what `KeySpace` refuses."""
    from mcp_crew_redis._wire.keys import KeySpace

    KeySpace(CrewSettings(prefix=prefix).values.prefix)


@pytest.mark.parametrize("pool_size", [3, 10_000])
def test_accepted_limits_are_accepted_by_the_wire(pool_size):
    """The settings' ranges are the components' ranges."""
    from mcp_crew_redis._core.circuit import BreakerSettings
    from mcp_crew_redis._core.wire_settings import WireSettings

    settings = CrewSettings(pool_size=pool_size, command_timeout=3600)

    WireSettings(
        pool_size=settings.wire.pool_size,
        command_timeout=settings.wire.command_timeout,
        connect_timeout=settings.wire.connect_timeout,
    )
    BreakerSettings(
        threshold=settings.breaker.threshold, timeout=settings.breaker.timeout
    )
