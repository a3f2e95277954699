"""Chooses the model of a YAML block by its ``type``: one of the exchange's own, or one of an installed package."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, TypeVar

from pydantic import BaseModel, ConfigDict, ValidationError
from pydantic_core import InitErrorDetails, PydanticCustomError

from jobs import extensions
from jobs.errors import ExchangeError


class Block(BaseModel):
    """A block whose ``type`` decides which other fields it has."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    type: str


Chosen = TypeVar("Chosen", bound=Block)


def by_type(*models: type[Chosen]) -> dict[str, type[Chosen]]:
    """Models by the type that each declares as its default."""
    return {model.model_fields["type"].default: model for model in models}


def choose(value: Any, own: Mapping[str, type[Chosen]], group: str, kind: type[Chosen]) -> Chosen:
    """Validate a block by the model of its type.

    Args:
        value: the parsed YAML, or a block built in Python, which is returned unchanged.
        own: the exchange's models by type.
        group: the entry point group in which installed packages announce their models.
        kind: what all models derive from.

    Raises:
        ValidationError: the type is absent or unknown, its package is broken, or a field is wrong; the location is
            that within the block.
    """
    if isinstance(value, kind):
        return value
    if not isinstance(value, Mapping):
        raise _mistake(kind, "block", "expected keys and values, among them type", (), value)
    name = value.get("type")
    if name is None:
        raise _mistake(kind, "missing", "the field is required and absent", ("type",), value)
    return _model(name, own, group, kind).model_validate(value)


def _model(name: Any, own: Mapping[str, type[Chosen]], group: str, kind: type[Chosen]) -> type[Chosen]:
    if isinstance(name, str) and name in own:
        return own[name]
    try:
        if isinstance(name, str) and name in extensions.names(group):
            model: Any = extensions.attribute(group, name, "MODEL")
            if not (isinstance(model, type) and issubclass(model, kind)):
                raise ExchangeError(f"MODEL is no subclass of {kind.__name__}", where=f"{group}: {name}")
            if model.model_fields["type"].default != name:
                raise ExchangeError(f"MODEL does not have the type '{name}' as its default", where=f"{group}: {name}")
            return model
    except ExchangeError as error:
        raise _mistake(kind, "broken_package", str(error), ("type",), name) from error
    expected = ", ".join(sorted({*own, *extensions.names(group)}))
    message = f"unknown {kind.__name__.lower()} type; expected one of: {expected}"
    raise _mistake(kind, "unknown_type", message, ("type",), name)


def _mistake(kind: type[Block], code: str, message: str, location: tuple[str, ...], value: Any) -> ValidationError:
    # The template of a custom error has its own braces; braces in a message are text.
    error = PydanticCustomError(code, "{message}", {"message": message})
    return ValidationError.from_exception_data(kind.__name__, [InitErrorDetails(type=error, loc=location, input=value)])
