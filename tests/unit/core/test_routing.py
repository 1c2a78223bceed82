"""Which lane a command takes: size, count, what was large lately, and order per key."""

from __future__ import annotations

import pytest

from mcp_crew_redis._core.routing import Routing


class Bench:
    def __init__(self, large_for: float = 60.0) -> None:
        self.now = 0.0
        self.routing = Routing(large_for=large_for, monotonic=lambda: self.now)

    def fly(self, number: int, *args: object) -> None:
        """Send `args` as the bulk lane's command `number`."""
        self.routing.flies(self.routing.pin(args), number)

    def bulk(self, *args: object) -> bool:
        return self.routing.is_active and self.routing.takes_bulk(args)


def test_small_commands_are_interactive():
    """Nothing learned, nothing pinned: not even a look."""
    bench = Bench()
    assert not bench.routing.is_active
    assert not bench.routing.takes_bulk(("GET", "k"))
    assert not bench.routing.takes_bulk(("PING",))


def test_many_keys_are_bulk():
    """The reply to MGET of 513 keys is large whatever they hold."""
    bench = Bench()
    assert bench.routing.takes_bulk(("MGET", *range(600)))
    assert not bench.routing.takes_bulk(("MGET", *range(100)))


def test_kind_of_a_large_reply_is_learned_for_all_keys_of_its_type():
    """Our keys carry the type before the hash tag; another type is not meant."""
    bench = Bench()
    bench.routing.learn(("GET", "mcp:knowledge:{a}:1"))
    assert bench.bulk("GET", "mcp:knowledge:{b}:2")
    assert not bench.bulk("GET", "mcp:session:{a}:1")
    assert not bench.bulk("TTL", "mcp:knowledge:{a}:1")


def test_kind_of_a_foreign_key_is_the_key():
    """Without a hash tag nothing is said of other keys."""
    bench = Bench()
    bench.routing.learn(("HGETALL", "big"))
    assert bench.bulk("HGETALL", "big")
    assert bench.bulk("HGETALL", b"big")
    assert not bench.bulk("HGETALL", "bigger")


def test_learned_kind_is_forgotten_in_time():
    """`large_for` after the last large reply; the direct way opens again."""
    bench = Bench(large_for=10.0)
    bench.routing.learn(("GET", "big"))
    bench.now = 9.9
    assert bench.bulk("GET", "big")
    bench.routing.learn(("GET", "big"))
    bench.now = 19.8
    assert bench.bulk("GET", "big")
    bench.now = 20.0
    assert not bench.bulk("GET", "big")
    assert not bench.routing.is_active


def test_memory_of_kinds_is_bounded():
    """The oldest goes first."""
    bench = Bench()
    for number in range(3000):
        bench.routing.learn(("GET", f"key{number}"))
    assert bench.bulk("GET", "key2999")
    assert not bench.bulk("GET", "key0")
    assert len(bench.routing._large) <= 1024


@pytest.mark.parametrize("key", ["k", b"k", bytearray(b"k"), memoryview(b"k")])
def test_key_of_an_unanswered_large_command_is_pinned(key):
    """In every form of the key, on reads and writes, until its reply."""
    bench = Bench()
    bench.fly(1, "SET", key, b"x" * 100_000)
    for other in ("k", b"k", memoryview(b"k")):
        assert bench.bulk("GET", other)
        assert bench.bulk("MGET", "other", other)
    assert not bench.bulk("GET", "other")

    bench.routing.landed(1)

    assert not bench.bulk("GET", "k")
    assert not bench.routing.is_active


@pytest.mark.parametrize("key", [7, 7.5, "7", b"x" * 2000])
def test_unusual_keys_are_pinned_too(key):
    """Numbers and long names are keys as well."""
    bench = Bench()
    bench.fly(1, "SET", key, b"v" * 100_000)
    same = key if isinstance(key, bytes) else str(key)
    assert bench.bulk("SET", same, "small")


def test_key_pinned_twice_is_free_after_both_replies():
    """Counted, not set; in one command or in two."""
    bench = Bench()
    bench.fly(1, "MSET", "k", "1", "k", "2")
    bench.fly(2, "SET", "k", "3")
    bench.routing.landed(1)
    assert bench.bulk("GET", "k")
    bench.routing.landed(2)
    assert not bench.bulk("GET", "k")


def test_replies_free_everything_up_to_their_number():
    """A reply that is counted late frees the ones before it."""
    bench = Bench()
    for number in range(1, 6):
        bench.fly(number, "SET", f"k{number}", "v")
    bench.routing.landed(3)
    assert [bench.bulk("GET", f"k{number}") for number in range(1, 6)] == [
        False, False, False, True, True
    ]  # fmt: skip


def test_end_of_the_bulk_lane_frees_every_key():
    """Its strays gate both lanes from then on."""
    bench = Bench()
    bench.fly(1, "SET", "k", "v")
    bench.routing.reset()
    assert not bench.bulk("GET", "k")
    bench.routing.landed(1)
    bench.fly(1, "SET", "k2", "v")
    bench.routing.landed(1)
    assert not bench.routing.is_active


def test_key_is_pinned_from_the_decision_on():
    """While the command still waits for its lane; and free if it is never sent."""
    bench = Bench()
    pin = bench.routing.pin(("SET", "k", "v"))
    assert bench.bulk("GET", "k")
    bench.routing.landed(10)
    bench.routing.reset()
    assert bench.bulk("GET", "k")
    bench.routing.unpin(pin)
    assert not bench.routing.is_active
