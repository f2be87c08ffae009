"""Replies as JSON of a schema: found in what a model wrote, and checked. No schema is ever fetched from anywhere."""

import json
from importlib import import_module
from typing import Any

from agentmesh.errors import ConfigError

__all__ = ["mismatch", "text_of"]

SPOKEN = ("answer", "text", "reply", "summary", "message")
"""Fields that hold what a structured reply says to the user, the first that is there."""


def mismatch(value: Any, schema: dict[str, Any], *, where: str = "output_schema") -> str | None:
    """What is wrong with a value in one sentence, or None if it fits the schema.

    Raises:
        ConfigError: If the schema itself is wrong.
    """
    jsonschema: Any = import_module("jsonschema")
    referencing: Any = import_module("referencing")
    nowhere = referencing.Registry()
    validator_class = jsonschema.validators.validator_for(schema, default=jsonschema.Draft202012Validator)
    try:
        validator_class.check_schema(schema)
        errors = sorted(
            validator_class(schema, registry=nowhere).iter_errors(value), key=lambda e: len(e.absolute_path)
        )
    except jsonschema.SchemaError as error:
        raise ConfigError(f"{where} is not a valid JSON schema: {error.message}; correct it") from error
    except referencing.exceptions.Unresolvable as error:
        raise ConfigError(f"{where} refers to a schema that it does not hold ({error}); write it inline") from error
    if not errors:
        return None
    place = ".".join(str(part) for part in errors[0].absolute_path) or "the value"
    return f"{place}: {errors[0].message}"


def text_of(value: Any) -> str:
    """What a structured reply says in words: its answer field, or the whole of it as JSON."""
    if isinstance(value, str):
        return value
    if isinstance(value, dict):
        fields: dict[str, Any] = {str(k): v for k, v in value.items()}  # pyright: ignore[reportUnknownVariableType, reportUnknownArgumentType]
        for name in SPOKEN:
            if isinstance(fields.get(name), str):
                return fields[name]
    return json.dumps(value, ensure_ascii=False)
