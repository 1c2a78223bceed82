"""The words every floor shares: kinds of data, their classes, outcomes."""

from __future__ import annotations

from enum import StrEnum

__all__ = [
    "DataClass",
    "DataType",
    "DeleteOutcome",
    "EmbeddingType",
    "Importance",
    "KnowledgeType",
    "WriteOutcome",
]


class DataType(StrEnum):
    """What a key holds. The value is the key's namespace."""

    TOOLS = "tools"
    CONVERSATION = "conversation"
    KNOWLEDGE = "knowledge"
    EMBEDDING = "embedding"
    SESSION = "session"
    TASK = "task"
    EVENT = "event"
    RATE_LIMIT = "rate_limit"
    COUNTER = "counter"
    CACHE = "cache"
    STATE = "state"

    @property
    def data_class(self) -> DataClass:
        """How values of this type are written and who may write them."""
        return DATA_CLASSES[self]


class DataClass(StrEnum):
    """How a data type is written, and what an outage means for it."""

    CACHE = "cache"  # plain SET; may be lost, may be missing
    SYNCHRONISED = "synchronised"  # ordered by stamps, journaled, synchronised
    OWNED = "owned"  # written by its own module only


DATA_CLASSES: dict[DataType, DataClass] = {
    DataType.TOOLS: DataClass.CACHE,
    DataType.CACHE: DataClass.CACHE,
    DataType.CONVERSATION: DataClass.SYNCHRONISED,
    DataType.KNOWLEDGE: DataClass.SYNCHRONISED,
    DataType.STATE: DataClass.SYNCHRONISED,
    DataType.COUNTER: DataClass.SYNCHRONISED,
    DataType.EMBEDDING: DataClass.OWNED,
    DataType.SESSION: DataClass.OWNED,
    DataType.RATE_LIMIT: DataClass.OWNED,
    DataType.EVENT: DataClass.OWNED,
    DataType.TASK: DataClass.OWNED,
}


class WriteOutcome(StrEnum):
    """Where a write that returned now is."""

    STORED = "stored"  # in Redis
    DEFERRED = "deferred"  # in the local journal, synchronised later


class DeleteOutcome(StrEnum):
    """What a delete that returned did."""

    DELETED = "deleted"
    ABSENT = "absent"
    DEFERRED = "deferred"  # in the local journal, synchronised later


class EmbeddingType(StrEnum):
    """What an embedding was made of; selects how long it is kept."""

    DOCUMENT = "document"
    QUERY = "query"
    CONVERSATION = "conversation"


class KnowledgeType(StrEnum):
    """What an item of shared knowledge is about; selects how long it is kept."""

    PRODUCT = "product"
    PROCEDURE = "procedure"
    CUSTOMER = "customer"
    GENERAL = "general"
    MARKET = "market"


class Importance(StrEnum):
    """How much a conversation matters; selects how long its context is kept."""

    HIGH = "high"
    MEDIUM = "medium"
    LOW = "low"
