"""Entries to events: old schemas, wrong payloads, and what is no event at all."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import pytest
from pydantic import BaseModel

from mcp_crew_redis._wire.codec import MsgpackCodec
from mcp_crew_redis._wire.envelope import pack_envelope
from mcp_crew_redis._wire.streams import StreamName
from mcp_crew_redis.errors import CodecError
from mcp_crew_redis.events.decoding import FOREIGN, Decoder, parts_of
from mcp_crew_redis.events.event import Event
from mcp_crew_redis.events.making import make_envelope
from mcp_crew_redis.events.schemas import EventCatalog, EventSchema

CODEC = MsgpackCodec()
NAME = StreamName("acme", "tool.discovered", 1)


class Tool(BaseModel):
    name: str
    version: int = 1


@dataclass
class Plain:
    name: str


def fields(payload: object, **attributes: Any) -> list[bytes]:
    """Return an entry as a publisher writes it."""
    envelope = pack_envelope(make_envelope(**attributes))
    return [b"m", envelope, b"d", CODEC.encode(payload)]


def decoder(*schemas: EventSchema) -> Decoder:
    """Return a decoder with a catalog of these."""
    return Decoder(CODEC, EventCatalog(schemas))


def read(table: Decoder, entry: list[bytes] | None, kind: Any = None) -> Event[Any]:
    """Decode one entry of NAME."""
    return table.entry(NAME, b"7-1", entry, 3, kind)


def test_an_event_says_where_it_stood_and_how_often_it_came() -> None:
    """Tenant, type and priority are the stream's; id and count are the delivery's."""
    event = read(decoder(), fields({"name": "find"}, key="k", event_id="e-1"))
    assert (event.tenant_id, event.type, event.priority) == NAME[:3]
    assert (event.stream_id, event.delivery_count) == ("7-1", 3)
    assert (event.id, event.key, event.payload) == ("e-1", "k", {"name": "find"})


def test_the_catalog_says_what_a_payload_is() -> None:
    """Without a type of the subscription the schema's is what the handler gets."""
    table = decoder(EventSchema(type="tool.discovered", payload=Tool))
    assert read(table, fields({"name": "find"})).payload == Tool(name="find")


def test_the_subscription_goes_before_the_catalog() -> None:
    """A handler's own type of payload wins."""
    table = decoder(EventSchema(type="tool.discovered", payload=Tool))
    assert read(table, fields({"name": "find"}), Plain).payload == Plain("find")


def test_an_old_payload_is_brought_up_to_date() -> None:
    """The upcasters run before the payload is validated."""
    schema = EventSchema(
        type="tool.discovered",
        payload=Tool,
        version=2,
        upcasters={1: lambda old: {"name": old["title"], "version": 2}},
    )
    event = read(decoder(schema), fields({"title": "find"}))
    assert event.payload == Tool(name="find", version=2)
    assert event.schema_version == 1


def raises(old: Any) -> Any:
    """Fail as a user's upcaster may."""
    raise ValueError(old)


@pytest.mark.parametrize(
    ("schema", "entry", "reason"),
    [
        ({"version": 1}, fields({"s": "x"}, schema_version=2), "newer than the 1"),
        ({"version": 2}, fields({"s": "x"}), "no upcaster"),
        ({"version": 2, "upcasters": {1: raises}}, fields("secret"), "ValueError"),
        ({"payload": Tool}, fields({"name": ["secret"]}), "string_type at 'name'"),
        ({}, [b"m", b"\xc1", b"d", b"\x01"], "no envelope"),
        ({}, [*fields({})[:3], b"\xc1secret"], "payload|decode|byte|value"),
    ],
)
def test_what_cannot_be_decoded_says_why_and_no_more(
    schema: dict[str, Any], entry: list[bytes], reason: str
) -> None:
    """Each has a reason, none of which tells the value."""
    table = decoder(EventSchema(type="tool.discovered", **schema))
    with pytest.raises(CodecError, match=reason) as caught:
        read(table, entry)
    assert "secret" not in str(caught.value)


@pytest.mark.parametrize(
    "entry", [None, [], [b"a", b"1"], [b"m", b"x"], [b"d", b"x", b"e", b"y"], [b"m"]]
)
def test_an_entry_of_somebody_else_is_foreign(entry: list[bytes] | None) -> None:
    """Missing fields are told apart from fields that cannot be read."""
    with pytest.raises(CodecError, match=FOREIGN):
        read(decoder(), entry)


def test_more_fields_and_another_order_do_no_harm() -> None:
    """A later release may add fields."""
    entry = fields({"name": "find"})
    assert parts_of([b"z", b"1", *entry[2:], *entry[:2]]) == (entry[1], entry[3])
