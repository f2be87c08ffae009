"""Short name or "module:attribute" -> an object that satisfies a protocol. Nothing is imported until chosen."""

import re
from collections.abc import Mapping
from importlib import import_module
from inspect import Parameter, signature
from typing import Any, Generic, TypeVar

from agentmesh.errors import ConfigError, UnknownNameError, nearest

__all__ = ["Registry", "resolve_name"]

T = TypeVar("T")


class Registry(Generic[T]):
    """The parts a project file may choose between."""

    def __init__(self, kind: str, protocol: type[T], builtin: Mapping[str, str]) -> None:
        self.kind, self.protocol, self.builtin = kind, protocol, dict(builtin)

    def names(self) -> list[str]:
        """The short names, sorted."""
        return sorted(self.builtin)

    def check(self, name: str, *, where: str = "") -> None:
        """Raise `UnknownNameError` unless `name` is a short name or has the form "module:attribute"."""
        if name not in self.builtin and ":" not in name:
            raise UnknownNameError(self.kind, name, self.names(), where=where)

    def create(self, name: str, /, *, offered: Mapping[str, Any] | None = None, **options: Any) -> T:
        """Build the part with this short name or "module:attribute", or raise `ConfigError`.

        Args:
            name: Which one.
            offered: What a mesh has to give: passed on as far as the part's signature names it and `options` do not.
            options: Its own arguments.
        """
        self.check(name)
        path = self.builtin.get(name, name)
        factory = resolve_name(path)
        options = {**_wanted(factory, offered or {}), **options}
        try:
            part = factory(**options)
        except TypeError as error:
            raise ConfigError(
                f"the {self.kind} {name!r} does not take these options: {_in_words(error, factory, offered or {})}"
            ) from error
        if not isinstance(part, self.protocol):
            raise ConfigError(f"{path!r} is not a {self.kind}: it lacks methods of {self.protocol.__name__}")
        return part


def _in_words(error: TypeError, factory: Any, offered: Mapping[str, Any]) -> str:
    """What is wrong with options: the one that is not known, with those that are; else Python's own words."""
    found = _UNEXPECTED.search(str(error))
    if found is None:
        return str(error)
    try:
        known = sorted(name for name in signature(factory).parameters if name not in offered and name != "options")
    except (TypeError, ValueError):
        known = []
    close = nearest(found[1], known)
    hint = f"; did you mean {close[0]!r}?" if close else f"; it has {', '.join(known)}" if known else ""
    return f"{found[1]!r} is none{hint}"


_UNEXPECTED = re.compile(r"unexpected keyword argument '(\w+)'")


def _wanted(factory: Any, offered: Mapping[str, Any]) -> dict[str, Any]:
    """Those of `offered` that a factory has a parameter for."""
    try:
        named = signature(factory).parameters
    except (TypeError, ValueError):  # not a callable, which calling it will say; or one without a signature
        return {}
    by_name = (Parameter.POSITIONAL_OR_KEYWORD, Parameter.KEYWORD_ONLY)
    return {name: offered[name] for name in offered if name in named and named[name].kind in by_name}


def resolve_name(path: str) -> Any:
    """Import "module:attribute", or raise `ConfigError` that says which half is wrong."""
    module_name, _, attribute = path.partition(":")
    try:
        module = import_module(module_name)
    except Exception as error:  # importing runs somebody's code
        reason = str(error) if isinstance(error, ImportError) else f"{type(error).__name__}: {error}"
        raise ConfigError(f"{path!r}: cannot import {module_name!r} ({reason})") from error
    try:
        return getattr(module, attribute)
    except AttributeError as error:
        raise ConfigError(f"{path!r}: the module {module_name!r} has no {attribute!r}") from error
