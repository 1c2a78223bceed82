"""Which connection a command may use.

Many callers share one lane, so a command that waits, that changes the state of its
connection or that shifts replies must not travel there. Data, not code: the tests
compare it with `COMMAND INFO` of every server they run on.
"""

from __future__ import annotations

from collections.abc import Sequence
from enum import Enum

from mcp_crew_redis.errors import LifecycleError

__all__ = ["READS", "SHARED", "CommandClass", "block_seconds", "classify", "is_read"]


class CommandClass(Enum):
    """Where a command travels."""

    SHARED = "shared"  # a lane
    DEDICATED = "dedicated"  # a connection of its own, for the time of the command
    OWN = "own"  # changes its connection's state: only through client()
    REFUSED = "refused"  # would shift or hijack the replies of other callers


def _words(text: str) -> frozenset[str]:
    # A subcommand is written with ">" for its space: names themselves hold "_" and "-".
    return frozenset(word.replace(">", " ") for word in text.split())


READS = _words(
    """
    BITCOUNT BITFIELD_RO BITPOS CLUSTERSCAN DBSIZE DUMP EVALSHA_RO EVAL_RO EXISTS
    EXPIRETIME FCALL_RO GEODIST GEOHASH GEOPOS GEORADIUSBYMEMBER_RO GEORADIUS_RO
    GEOSEARCH GET GETBIT GETRANGE HEXISTS HEXPIRETIME HGET HGETALL HKEYS HLEN HMGET
    HPEXPIRETIME HPTTL HRANDFIELD HSCAN HSTRLEN HTTL HVALS KEYS LCS LINDEX LLEN LOLWUT
    LPOS LRANGE MEMORY>USAGE MGET OBJECT>ENCODING OBJECT>FREQ OBJECT>IDLETIME
    OBJECT>REFCOUNT PEXPIRETIME PFCOUNT PTTL RANDOMKEY SCAN SCARD SDIFF SINTER
    SINTERCARD SISMEMBER SMEMBERS SMISMEMBER SORT_RO SRANDMEMBER SSCAN STRLEN SUBSTR
    SUNION TOUCH TTL TYPE XINFO>CONSUMERS XINFO>GROUPS XINFO>STREAM XLEN XPENDING
    XRANGE XREAD XREVRANGE ZCARD ZCOUNT ZDIFF ZINTER ZINTERCARD ZLEXCOUNT ZMSCORE
    ZRANDMEMBER ZRANGE ZRANGEBYLEX ZRANGEBYSCORE ZRANK ZREVRANGE ZREVRANGEBYLEX
    ZREVRANGEBYSCORE ZREVRANK ZSCAN ZSCORE ZUNION
    """
)

WRITES = _words(
    """
    APPEND BITFIELD BITOP COPY DECR DECRBY DEL DELEX DELIFEQ EXPIRE EXPIREAT FLUSHALL
    FLUSHDB FUNCTION>DELETE FUNCTION>FLUSH FUNCTION>LOAD FUNCTION>RESTORE GEOADD
    GEORADIUS GEORADIUSBYMEMBER GEOSEARCHSTORE GETDEL GETEX GETSET HDEL HEXPIRE
    HEXPIREAT HGETDEL HGETEX HINCRBY HINCRBYFLOAT HMSET HPERSIST HPEXPIRE HPEXPIREAT
    HSET HSETEX HSETNX INCR INCRBY INCRBYFLOAT INCREX LINSERT LMOVE LMPOP LPOP LPUSH
    LPUSHX LREM LSET LTRIM MOVE MSET MSETEX MSETNX PERSIST PEXPIRE PEXPIREAT PFADD
    PFDEBUG PFMERGE PSETEX RENAME RENAMENX RESTORE RPOP RPOPLPUSH RPUSH RPUSHX SADD
    SDIFFSTORE SET SETBIT SETEX SETNX SETRANGE SINTERSTORE SMOVE SORT SPOP SREM
    SUNIONSTORE SWAPDB UNLINK XACK XACKDEL XADD XAUTOCLAIM XCLAIM XDEL XDELEX
    XGROUP>CREATE XGROUP>CREATECONSUMER XGROUP>DELCONSUMER XGROUP>DESTROY XGROUP>SETID
    XREADGROUP XSETID XTRIM ZADD ZDIFFSTORE ZINCRBY ZINTERSTORE ZMPOP ZPOPMAX ZPOPMIN
    ZRANGESTORE ZREM ZREMRANGEBYLEX ZREMRANGEBYRANK ZREMRANGEBYSCORE ZUNIONSTORE
    EVAL EVALSHA FCALL PUBLISH SPUBLISH
    """
)

ADMINISTRATION = _words(
    """
    ACL>CAT ACL>DELUSER ACL>DRYRUN ACL>GENPASS ACL>GETUSER ACL>HELP ACL>LIST ACL>LOAD
    ACL>LOG ACL>SAVE ACL>SETUSER ACL>USERS ACL>WHOAMI BGREWRITEAOF BGSAVE
    CLIENT>GETNAME CLIENT>GETREDIR CLIENT>HELP CLIENT>ID CLIENT>INFO CLIENT>KILL
    CLIENT>LIST CLIENT>PAUSE CLIENT>SETINFO CLIENT>SETNAME CLIENT>TRACKINGINFO
    CLIENT>UNBLOCK CLIENT>UNPAUSE CLUSTER>ADDSLOTS CLUSTER>ADDSLOTSRANGE
    CLUSTER>BUMPEPOCH CLUSTER>COUNT-FAILURE-REPORTS CLUSTER>COUNTKEYSINSLOT
    CLUSTER>DELSLOTS CLUSTER>DELSLOTSRANGE CLUSTER>FAILOVER CLUSTER>FLUSHSLOTS
    CLUSTER>FORGET CLUSTER>GETKEYSINSLOT CLUSTER>HELP CLUSTER>INFO CLUSTER>KEYSLOT
    CLUSTER>LINKS CLUSTER>MEET CLUSTER>MYID CLUSTER>MYSHARDID CLUSTER>NODES
    CLUSTER>REPLICAS CLUSTER>REPLICATE CLUSTER>RESET CLUSTER>SAVECONFIG
    CLUSTER>SET-CONFIG-EPOCH CLUSTER>SETSLOT CLUSTER>SHARDS CLUSTER>SLAVES
    CLUSTER>SLOT-STATS CLUSTER>SLOTS COMMAND COMMAND>COUNT COMMAND>DOCS
    COMMAND>GETKEYS COMMAND>GETKEYSANDFLAGS COMMAND>HELP COMMAND>INFO COMMAND>LIST
    COMMANDLOG>GET COMMANDLOG>HELP COMMANDLOG>LEN COMMANDLOG>RESET CONFIG>GET
    CONFIG>HELP CONFIG>RESETSTAT CONFIG>REWRITE CONFIG>SET ECHO FUNCTION>DUMP
    FUNCTION>HELP FUNCTION>KILL FUNCTION>LIST FUNCTION>STATS INFO LASTSAVE
    LATENCY>DOCTOR LATENCY>GRAPH LATENCY>HELP LATENCY>HISTOGRAM LATENCY>HISTORY
    LATENCY>LATEST LATENCY>RESET MEMORY>DOCTOR MEMORY>HELP MEMORY>MALLOC-STATS
    MEMORY>PURGE MEMORY>STATS MODULE>HELP MODULE>LIST OBJECT>HELP PING
    PUBSUB>CHANNELS PUBSUB>HELP PUBSUB>NUMPAT PUBSUB>NUMSUB PUBSUB>SHARDCHANNELS
    PUBSUB>SHARDNUMSUB ROLE SCRIPT>EXISTS SCRIPT>FLUSH SCRIPT>HELP SCRIPT>KILL
    SCRIPT>LOAD SCRIPT>SHOW SLOWLOG>GET SLOWLOG>HELP SLOWLOG>LEN SLOWLOG>RESET TIME
    XGROUP>HELP XINFO>HELP
    """
)

OWN = _words(
    """
    ASKING CLIENT>CACHING CLIENT>CAPA CLIENT>IMPORT-SOURCE CLIENT>NO-EVICT
    CLIENT>NO-TOUCH CLIENT>TRACKING DISCARD EXEC MONITOR MULTI PSUBSCRIBE PSYNC
    PUNSUBSCRIBE READONLY READWRITE REPLCONF RESTORE-ASKING SCRIPT>DEBUG SELECT
    SSUBSCRIBE SUBSCRIBE SUNSUBSCRIBE SYNC UNSUBSCRIBE UNWATCH WATCH
    """
)

REFUSED = _words("AUTH CLIENT>REPLY HELLO QUIT RESET")

# Where a blocking command keeps its timeout: from the front or from the back, and
# the seconds in one unit of it.
BLOCKING: dict[str, tuple[int, float]] = {
    "BLPOP": (-1, 1.0),
    "BRPOP": (-1, 1.0),
    "BRPOPLPUSH": (-1, 1.0),
    "BLMOVE": (-1, 1.0),
    "BZPOPMIN": (-1, 1.0),
    "BZPOPMAX": (-1, 1.0),
    "BLMPOP": (1, 1.0),
    "BZMPOP": (1, 1.0),
    "WAIT": (-1, 0.001),
    "WAITAOF": (-1, 0.001),
}

READ_STREAMS = frozenset({"XREAD", "XREADGROUP"})

# One word, never blocking: what the hot path may send without a second look.
SHARED = frozenset(
    name
    for name in READS | WRITES | ADMINISTRATION
    if " " not in name and name not in READ_STREAMS
)

_TRAVEL = READS | WRITES | ADMINISTRATION
_CONTAINERS = frozenset(
    name.partition(" ")[0] for name in _TRAVEL | OWN | REFUSED if " " in name
)


def command_name(args: Sequence[object]) -> str:
    """Return the canonical name: upper case, with its subcommand."""
    words = _text(args[0]).upper().split()
    if len(words) == 1 and words[0] in _CONTAINERS and len(args) > 1:
        words.append(_text(args[1]).upper())
    return " ".join(words[:2])


def classify(args: Sequence[object]) -> CommandClass:
    """Return where the command `args` may travel; unknown ones travel alone."""
    name = command_name(args)
    if name in READ_STREAMS:
        blocks = block_seconds(args) is not None
        return CommandClass.DEDICATED if blocks else CommandClass.SHARED
    if name in _TRAVEL:
        return CommandClass.SHARED
    if name in OWN:
        return CommandClass.OWN
    if name in REFUSED:
        return CommandClass.REFUSED
    return CommandClass.DEDICATED


def is_read(args: Sequence[object]) -> bool:
    """Whether the command changes nothing, so that sending it twice is harmless."""
    return command_name(args) in READS


def block_seconds(args: Sequence[object]) -> float | None:
    """Return how long the command may wait in the server: 0.0 is for ever.

    None means that it does not wait.
    """
    name = command_name(args)
    if name in READ_STREAMS:
        return _block_option(args)
    place = BLOCKING.get(name)
    if place is None:
        return None
    index, unit = place
    try:
        return float(_text(args[index])) * unit
    except (ValueError, IndexError):
        return None  # the server will say what is wrong with it


def _block_option(args: Sequence[object]) -> float | None:
    for position, argument in enumerate(args[1:-1], start=1):
        word = _text(argument).upper()
        if word == "STREAMS":
            return None
        if word == "BLOCK":
            try:
                return float(_text(args[position + 1])) / 1000.0
            except ValueError:
                return None
    return None


def refuse(args: Sequence[object], kind: CommandClass) -> LifecycleError:
    """Return the error for a command that must not travel on a shared lane."""
    name = command_name(args)
    if kind is CommandClass.OWN:
        return LifecycleError(
            f"{name} changes the state of its connection, which many callers share "
            "here; run it on a connection of your own: `async with client.client() as "
            "own: ...` (or pipeline(), pubsub(), monitor())"
        )
    return LifecycleError(
        f"{name} is refused on a shared client: it would shift or hijack the replies "
        "of other callers; give credentials and protocol when you make the client"
    )


def _text(argument: object) -> str:
    if isinstance(argument, str):
        return argument
    if isinstance(argument, (bytes, bytearray, memoryview)):
        return bytes(argument).decode("ascii", "replace")
    return str(argument)
