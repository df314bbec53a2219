"""Reads dataclasses from JSON files and checks each value against the type of its field."""

from __future__ import annotations

import json
from dataclasses import MISSING, fields, is_dataclass
from pathlib import Path
from types import NoneType, UnionType
from typing import Any, TypeVar, Union, get_args, get_origin, get_type_hints

T = TypeVar("T")
_PLAIN = {str: "a string", int: "a whole number", float: "a number", bool: "true or false"}


def read_json(cls: type[T], path: Path, what: str) -> T:
    """Reads the dataclass that ``json.dumps(asdict(...))`` has written to a file.

    Raises:
        OSError: the file cannot be read.
        ValueError: the file is not `what`. The message says so and names the first wrong value.
    """
    content = path.read_bytes()
    try:
        result: T = _parsed(cls, json.loads(content), "it")
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path} is not {what}: {error}") from error
    return result


def _parsed(hint: Any, value: Any, where: str) -> Any:
    """Returns the value as an object of the type. `where` names the value in errors."""
    origin, arguments = get_origin(hint) or hint, get_args(hint)
    if origin in (Union, UnionType):
        if value is None and NoneType in arguments:
            return None
        (hint,) = (argument for argument in arguments if argument is not NoneType)
        return _parsed(hint, value, where)
    if origin is list:
        _check(isinstance(value, list), where, "a list", value)
        return [_parsed(arguments[0], item, f"{where}[{i}]") for i, item in enumerate(value)]
    if origin is dict:
        _check(isinstance(value, dict), where, "an object", value)
        return {
            key: _parsed(arguments[1], item, f"{where}[{key!r}]") for key, item in value.items()
        }
    if is_dataclass(origin):
        return _object(origin, value, where)
    types = (int, float) if hint is float else (hint,)
    _check(type(value) in types, where, _PLAIN[hint], value)
    return value


def _object(cls: Any, value: Any, where: str) -> Any:
    _check(isinstance(value, dict), where, "an object", value)
    hints, known = get_type_hints(cls), {field.name: field for field in fields(cls)}
    if unknown := sorted(value.keys() - known.keys()):
        raise ValueError(f"{where} has {', '.join(unknown)}, which is unknown")
    for name, field in known.items():
        optional = field.default is not MISSING or field.default_factory is not MISSING
        if name not in value and not optional:
            raise ValueError(f"{where} has no {name}")
    parts = {name: _parsed(hints[name], part, f"{where}.{name}") for name, part in value.items()}
    try:
        return cls(**parts)
    except ValueError as error:
        raise ValueError(f"{where}: {error}") from error


def _check(is_right: bool, where: str, wanted: str, value: Any) -> None:
    if not is_right:
        found = repr(value)
        shown = found if len(found) <= 60 else f"{found[:60]}..."
        raise ValueError(f"{where} must be {wanted}, got {shown}")
