"""Decoded values into the user's own types, through pydantic; errors without values."""

from __future__ import annotations

from functools import lru_cache
from typing import Any, Final, TypeVar

from pydantic import (
    BaseModel,
    ConfigDict,
    PydanticSchemaGenerationError,
    TypeAdapter,
    ValidationError,
)

from mcp_crew_redis.errors import CodecError

__all__ = ["convert", "type_name"]

T = TypeVar("T")

_MAX_ADAPTERS: Final = 256
_MAX_NAME: Final = 64


def type_name(kind: object) -> str:
    """Return a short name of a type, for messages."""
    name = kind.__qualname__ if isinstance(kind, type) else str(kind)
    return name[:_MAX_NAME]


def convert(value: object, into: type[T]) -> T:
    """Return `value` as `into`: a model, dataclass, TypedDict or any type pydantic has.

    Numbers in strings and the like are converted as pydantic does by default. Models
    are accepted by field name and by alias.

    Raises:
        CodecError: `value` is not an `into`, or `into` is no type to validate with.
            Names the type and the field; never the value.
    """
    try:
        adapter: TypeAdapter[T] = _adapter(into)
    except TypeError:  # metadata that cannot be hashed, hence not be cached
        adapter = _build(into)
    try:
        return adapter.validate_python(value, by_name=True, by_alias=True)
    except ValidationError as error:
        raise CodecError(_explain(error, into)) from None
    except Exception as error:  # noqa: BLE001 - a validator is the user's own code
        raise CodecError(
            f"validating as {type_name(into)} raised {type(error).__name__}"
        ) from None


def _build(into: type[T]) -> TypeAdapter[T]:
    try:
        try:
            return TypeAdapter(into)
        except PydanticSchemaGenerationError:
            # numpy's arrays and the user's plain classes: an instance check then.
            return TypeAdapter(into, config=ConfigDict(arbitrary_types_allowed=True))
    except Exception as error:  # noqa: BLE001 - pydantic has many ways to refuse a type
        raise CodecError(
            f"{type_name(into)} is not a type to validate with ({type(error).__name__})"
        ) from None


_adapter: Any = lru_cache(maxsize=_MAX_ADAPTERS)(_build)


def _explain(error: ValidationError, into: type[object]) -> str:
    first = error.errors(include_url=False, include_context=False, include_input=False)
    where = first[0]["loc"][0] if first[0]["loc"] else None
    # Only a declared name: other locations are keys of the value itself.
    field = f" at {where!r}" if where in _field_names(into) else ""
    return (
        f"the stored value is not a {type_name(into)}: {first[0]['type']}{field}, "
        f"{error.error_count()} in all"
    )


def _field_names(into: object) -> frozenset[object]:
    if isinstance(into, type) and issubclass(into, BaseModel):
        return frozenset(into.model_fields)
    declared: object = getattr(into, "__dataclass_fields__", None)
    if isinstance(declared, dict):
        return frozenset(declared)
    return frozenset(getattr(into, "__annotations__", ()))
