"""Reads a YAML file as a validated model, and reports any mistake in it with file, line and field."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, TypeVar, get_args

import yaml
from pydantic import BaseModel, ConfigDict, ValidationError
from pydantic.fields import FieldInfo

from jobs.errors import DeclarationError

# The C loader parses some ten times faster; PyYAML wheels carry it, source builds may not.
_Loader: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
# Far more than a declaration needs. The C loader crashes at some ten thousand levels; aliases within aliases multiply.
_DEEPEST = 50
_MOST_VALUES = 200_000
_MOST_BRACKETS = 1000
_MAY_NEST = re.compile(r"^(?: {50}| *(?:[-?] +){20})", re.MULTILINE)
_MAY_NAME = (" &", "[&", "{&", ",&", "\n&")


class Declared(BaseModel):
    """Base of everything read from YAML: immutable, and an unknown key is a mistake."""

    model_config = ConfigDict(frozen=True, extra="forbid")


Model = TypeVar("Model", bound=BaseModel)


def read_yaml(file: Path) -> dict[str, Any]:
    """Parse one YAML mapping.

    Raises:
        DeclarationError: the file is absent, not UTF-8, not YAML or not a mapping.
    """
    try:
        text = file.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise DeclarationError("the file does not exist", file=file, next_step="write it") from None
    except UnicodeDecodeError as error:
        raise DeclarationError(f"not UTF-8 at byte {error.start}", file=file, expected="a UTF-8 text file") from None
    try:
        if not _is_plain(text):
            _require_bounded(text, file)
        parsed = _loaded(text)
    except yaml.YAMLError as error:
        raise _yaml_mistake(error, file) from None
    if not isinstance(parsed, dict):
        raise DeclarationError(
            "not a mapping of keys to values", file=file, line=1, expected="lines like 'title: …'"
        )
    return parsed


def _loaded(text: str) -> Any:
    return yaml.load(text, Loader=_Loader)  # noqa: S506 - both loaders are the safe ones


def _is_plain(text: str) -> bool:
    """Whether a glance shows that a text has no aliases and no deep nesting; to parse it takes twenty times as long."""
    if text.count("[") + text.count("{") > _MOST_BRACKETS or text.startswith("&"):
        return False
    return not any(mark in text for mark in _MAY_NAME) and not _MAY_NEST.search(text)


def _require_bounded(text: str, file: Path) -> None:
    """Refuse what would crash the loader or keep it busy: values nested too deeply, or too many by their aliases."""
    values: dict[str, int] = {}
    within: list[tuple[str | None, int]] = [(None, 0)]
    event: Any
    for event in yaml.parse(text, Loader=_Loader):
        count, anchor = 0, getattr(event, "anchor", None)
        if isinstance(event, yaml.MappingStartEvent | yaml.SequenceStartEvent):
            within.append((anchor, 1))
        elif isinstance(event, yaml.MappingEndEvent | yaml.SequenceEndEvent):
            anchor, count = within.pop()
        elif isinstance(event, yaml.AliasEvent):
            is_within_itself = any(anchor == name for name, _ in within)
            count, anchor = _MOST_VALUES + 1 if is_within_itself else values.get(str(anchor), 1), None
        elif isinstance(event, yaml.ScalarEvent):
            count = 1
        if count and anchor:
            values[anchor] = count
        within[-1] = (within[-1][0], within[-1][1] + count)
        if len(within) > _DEEPEST or within[-1][1] > _MOST_VALUES:
            raise DeclarationError(
                "values are nested too deeply" if len(within) > _DEEPEST else "the aliases (*name) stand for too much",
                file=file, line=event.start_mark.line + 1,
                expected=f"at most {_DEEPEST} levels and {_MOST_VALUES:,} values", next_step="write it more plainly",
            )  # fmt: skip


def read_model(file: Path, model: type[Model]) -> Model:
    """Parse and validate one YAML file.

    Raises:
        DeclarationError: naming the line and field of every mistake.
    """
    parsed = read_yaml(file)
    try:
        return model.model_validate(parsed)
    except ValidationError as error:
        raise _validation_mistake(error, file, model) from None


def yaml_text(document: dict[str, Any]) -> str:
    """A document as YAML that `read_yaml` reads back as equal, keys in their order."""
    text: str = yaml.safe_dump(document, sort_keys=False, allow_unicode=True, width=120)
    if _loaded(text) != document:
        # Characters that end a line in Unicode, such as U+0085, are written as they are and read as blanks.
        return str(yaml.safe_dump(document, sort_keys=False, allow_unicode=False, width=120))
    return text


def mistake(file: Path, what: str, location: tuple[str | int, ...], **more: str) -> DeclarationError:
    """An error that points at a place in a YAML file.

    Args:
        file: the file as written.
        what: what is wrong there, in one sentence without a full stop.
        location: keys and indexes that lead there.
        more: `expected` and `next_step` of the error.
    """
    return DeclarationError(what, file=file, line=line_of(file, location), field=_dotted(location), **more)


def line_of(file: Path, location: tuple[str | int, ...]) -> int | None:
    """Line (1-based) of the value at a path of keys and indexes, or of its nearest existing parent.

    The file is parsed again, but only where there is a mistake to place. ruamel.yaml keeps the line of every value, and
    takes 6 s for 600 declarations (1.2 MB) where PyYAML's C loader takes 0.4 s: every start would pay for it.
    """
    node = yaml.compose(file.read_text(encoding="utf-8"), Loader=_Loader)
    line = None
    for step in location:
        child = _child(node, step)
        if child is None:
            if isinstance(step, str) and not isinstance(node, yaml.MappingNode):
                continue
            break
        line, node = child
    return line


def _child(node: Any, step: str | int) -> tuple[int, Any] | None:
    if isinstance(node, yaml.MappingNode):
        for key, value in node.value:
            if key.value == str(step):
                return key.start_mark.line + 1, value
    if isinstance(node, yaml.SequenceNode) and isinstance(step, int) and step < len(node.value):
        item = node.value[step]
        return item.start_mark.line + 1, item
    return None


def _yaml_mistake(error: yaml.YAMLError, file: Path) -> DeclarationError:
    mark = getattr(error, "problem_mark", None)
    problem = getattr(error, "problem", None) or "not YAML"
    return DeclarationError(
        str(problem),
        file=file,
        line=mark.line + 1 if mark else None,
        expected="valid YAML",
        next_step="check indentation, colons and quotes on that line and the one above",
    )


def _validation_mistake(error: ValidationError, file: Path, model: type[BaseModel]) -> DeclarationError:
    # A misspelt field is also an absent one: the spelling is what the reader has to see.
    mistakes = sorted(error.errors(include_url=False), key=lambda mistake: mistake["type"] != "extra_forbidden")
    first = mistakes[0]
    location = tuple(first["loc"])
    what = _sentence(first, model)
    if len(mistakes) > 1:
        rest = "; ".join(f"{_dotted(tuple(m['loc']))}: {_sentence(m, model)}" for m in mistakes[1:6])
        what = f"{what} (and {len(mistakes) - 1} more: {rest})"
    return DeclarationError(
        what,
        file=file,
        line=line_of(file, location) or 1,
        field=_dotted(location),
        expected=_expected(first, model),
        next_step="correct the field",
    )


def _sentence(mistake: Any, model: type[BaseModel]) -> str:
    if mistake["type"] == "missing":
        return "a required field is missing"
    if mistake["type"] == "extra_forbidden":
        name = str(mistake["loc"][-1])
        near = difflib.get_close_matches(name, _field_names(model), n=1)
        return f"no such field '{name}'" + (f", did you mean '{near[0]}'?" if near else "")
    message = str(mistake["msg"]).removeprefix("Value error, ")
    return f"{message} (found {mistake['input']!r:.80})"


def _expected(mistake: Any, model: type[BaseModel]) -> str | None:
    """What would have been right, where the sentence does not say it."""
    if mistake["type"] == "missing":
        return f"a value for '{mistake['loc'][-1]}'"
    if mistake["type"] != "extra_forbidden":
        return None
    models = [model]
    for step in mistake["loc"][:-1]:
        inner = [m for owner in models if step in owner.model_fields for m in _models_in(owner.model_fields[step])]
        models = inner or models
    # Of a union only the reader knows which member was meant.
    return f"one of: {', '.join(models[0].model_fields)}" if len(models) == 1 else None


def _field_names(model: type[BaseModel]) -> list[str]:
    names: list[str] = []
    for name, field in model.model_fields.items():
        names.append(name)
        for inner in _models_in(field):
            names.extend(_field_names(inner))
    return names


def _models_in(field: FieldInfo) -> Iterator[type[BaseModel]]:
    """Models that a field holds, alone or in an optional, a union or a tuple."""
    annotations: list[Any] = [field.annotation]
    while annotations:
        annotation = annotations.pop()
        if isinstance(annotation, type) and issubclass(annotation, BaseModel):
            yield annotation
        annotations.extend(get_args(annotation))


def _dotted(location: tuple[str | int, ...]) -> str:
    return ".".join(str(step) for step in location)
