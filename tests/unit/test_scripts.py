"""A Lua file's header is its contract, and the loader holds it to it."""

import pytest
from redis.exceptions import NoScriptError, ResponseError

from mcp_crew_redis._core.contracts import parse_contract
from mcp_crew_redis._core.scripts import Script, ScriptLoader
from mcp_crew_redis.errors import ConfigurationError

GOOD = """\
-- Count a thing
-- and return how many there are.
-- KEYS[1] counter   the number
-- ARGV[1] step      how many to add
-- ARGV[2+] ids      what is counted
-- Returns the new number
-- Expiry: PEXPIRE 1000
for i = 2, #ARGV do redis.call('SADD', 'x', ARGV[i]) end -- not KEYS[9]
return redis.call('INCRBY', KEYS[1], ARGV[1])
"""


class Recorder:
    """Answers with what it is given, in order, and keeps what it was asked."""

    def __init__(self, *answers):
        self.asked = []
        self._answers = list(answers)

    async def execute_command(self, *args):
        self.asked.append(args)
        answer = self._answers.pop(0)
        if isinstance(answer, Exception):
            raise answer
        return answer


def test_a_header_is_read_part_by_part():
    """Summary, parameters, returns and expiry are all there."""
    contract = parse_contract("count", GOOD)

    assert contract.summary == "Count a thing and return how many there are."
    assert contract.keys.names == ("counter",)
    assert contract.arguments.names == ("step", "ids")
    assert contract.arguments.is_open
    assert contract.returns == "Returns the new number"
    assert contract.expiry == "Expiry: PEXPIRE 1000"


@pytest.mark.parametrize(
    ("old", "new", "problem"),
    [
        ("-- Expiry: PEXPIRE 1000\n", "", "has no expiry"),
        ("-- Returns the new number\n", "", "has no returns"),
        ("-- Count a thing\n-- and return how many there are.\n", "", "no summary"),
        ("KEYS[1] counter", "KEYS[2] counter", "not declared from 1"),
        ("'INCRBY', KEYS[1]", "'INCRBY', KEYS[2]", "KEYS 1 declared and not used"),
        ("'INCRBY', KEYS[1]", "KEYS[1], KEYS[3]", "KEYS 3 used, not declared"),
        ("'INCRBY', KEYS[1]", "KEYS[1], KEYS[n]", r"KEYS\[n\] needs an open"),
        ("ARGV[2+] ids", "ARGV[2] ids", "ARGV 2 declared and not used"),
        ("ARGV[1] step", "ARGV[1+] step", "only the last of ARGV"),
    ],
)
def test_a_broken_contract_is_refused_by_name(old, new, problem):
    """The error names the file and what is wrong with it."""
    assert old in GOOD

    with pytest.raises(ConfigurationError, match=rf"lua/count\.lua: .*{problem}"):
        parse_contract("count", GOOD.replace(old, new))


async def test_a_known_script_takes_one_command():
    """EVALSHA with the digest, the number of keys, the keys and the arguments."""
    client, script = Recorder(7), Script("count", GOOD)

    assert await script(client, ["k"], [3, "a"]) == 7

    assert client.asked == [("EVALSHA", script.sha, 1, "k", 3, "a")]


async def test_an_unknown_script_is_sent_with_the_same_keys():
    """NOSCRIPT was not executed: the source follows, on the same keys."""
    client, script = Recorder(NoScriptError("NOSCRIPT"), 7), Script("count", GOOD)

    assert await script(client, ["k"], [3]) == 7

    assert client.asked[1] == ("EVAL", GOOD, 1, "k", 3)


async def test_any_other_error_is_the_callers():
    """Only NOSCRIPT is answered with the source."""
    client, script = Recorder(ResponseError("OOM")), Script("count", GOOD)

    with pytest.raises(ResponseError, match="OOM"):
        await script(client, ["k"], [3])

    assert len(client.asked) == 1


@pytest.mark.parametrize(
    ("keys", "args", "message"),
    [
        ([], [1], r"count takes keys 1 \(counter\), got 0"),
        (["a", "b"], [1], r"count takes keys 1 \(counter\), got 2"),
        (["a"], [], r"count takes arguments 1\+ \(step, ids\), got 0"),
    ],
)
async def test_a_wrong_number_of_arguments_is_not_sent(keys, args, message):
    """Arity is checked before anything leaves."""
    client = Recorder()

    with pytest.raises(TypeError, match=message):
        await Script("count", GOOD)(client, keys, args)

    assert client.asked == []


def test_a_script_is_read_once():
    """The loader hands out the same object again."""
    loader = ScriptLoader()

    assert loader.load("set_newer") is loader.load("set_newer")
    assert "set_newer" in loader.names()


def test_a_script_that_does_not_exist_is_named():
    """A wrong name is a configuration error, not a file error."""
    with pytest.raises(ConfigurationError, match="no_such"):
        ScriptLoader().load("no_such")
