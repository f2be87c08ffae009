"""Checks on what comes in, what goes out and what is remembered: the rules by name, and how settings become some."""

import inspect
from collections import Counter
from collections.abc import Callable, Collection, Sequence
from functools import partial
from typing import Any, cast

from agentmesh.errors import ConfigError
from agentmesh.guardrails.base import PASSED, Action, Checked, Finding, Guardrail, Verdict, Where
from agentmesh.guardrails.functions import FunctionGuardrail
from agentmesh.guardrails.run import BoundedGuardrail, guard_answer, guard_drafts, run_guardrails
from agentmesh.mistakes import suggest
from agentmesh.registry import Registry, resolve_name
from agentmesh.settings import GuardrailSettings

__all__ = [
    "PASSED",
    "Action",
    "BoundedGuardrail",
    "Checked",
    "Finding",
    "FunctionGuardrail",
    "Guardrail",
    "Verdict",
    "Where",
    "check_guardrail",
    "guard_answer",
    "guard_drafts",
    "guardrails",
    "open_guardrails",
    "run_guardrails",
]

guardrails = Registry(
    "guardrail",
    Guardrail,
    {
        "injection": "agentmesh.guardrails.injection:InjectionRule",
        "length": "agentmesh.guardrails.rules:LengthRule",
        "pattern": "agentmesh.guardrails.rules:PatternRule",
        "personal": "agentmesh.guardrails.personal:PersonalRule",
        "secrets": "agentmesh.guardrails.rules:SecretsRule",
        "words": "agentmesh.guardrails.rules:WordsRule",
    },
)
"""The rules that settings may name; each takes `where`, `action` and its own options."""


def check_guardrail(settings: GuardrailSettings) -> None:
    """Raise unless a guardrail can be made of these settings; code of the project ("module:attribute") is not loaded.

    Raises:
        UnknownNameError: If there is no such rule.
        ConfigError: If an option is wrong; the sentence names it.
    """
    guardrails.check(settings.rule)
    if settings.rule in guardrails.builtin:
        _opened(settings)


def open_guardrails(
    settings: Sequence[GuardrailSettings],
    extra: Sequence[Guardrail | Callable[..., Any]] = (),
    *,
    secrets: Collection[str] = (),
) -> tuple[Guardrail, ...]:
    """The guardrails of these settings, then the extra ones, each bounded in time and each with a name of its own.

    Args:
        settings: What a project file says.
        extra: Guardrails, or functions as `FunctionGuardrail` takes them.
        secrets: Values that the rule `secrets` knows besides well-known shapes.

    Raises:
        UnknownNameError: If there is no such rule.
        ConfigError: If an option is wrong, a module cannot be imported, or something is no guardrail.
    """
    made = [_opened(s, secrets) for s in settings] + [_given(part) for part in extra]
    seen: Counter[str] = Counter()
    named: list[Guardrail] = []
    for guard in made:
        seen[guard.name] += 1
        again = seen[guard.name]
        named.append(guard if again == 1 else _renamed(guard, f"{guard.name}-{again}"))
    return tuple(named)


def _opened(settings: GuardrailSettings, secrets: Collection[str] = ()) -> BoundedGuardrail:
    options: dict[str, Any] = {"where": settings.where, "action": settings.action}
    said = {key: value for key, value in options.items() if value is not None}
    if settings.rule in guardrails.builtin:
        if settings.rule == "secrets" and "values" in settings.options:
            raise ConfigError("the option 'values' may not stand in a file, for it holds secrets; take it out")
        _check_options(settings, resolve_name(guardrails.builtin[settings.rule]))
        guard = guardrails.create(settings.rule, offered={"values": secrets}, **settings.options, **said)
    else:
        guardrails.check(settings.rule)
        guard = _of_project(settings, said)
    named = settings.name or (None if settings.rule in guardrails.builtin else settings.rule.partition(":")[2])
    return BoundedGuardrail(
        guard, name=named, where=settings.where, on_error=settings.on_error, timeout_s=settings.timeout_s
    )


def _of_project(settings: GuardrailSettings, said: dict[str, Any]) -> Guardrail:
    """What "module:attribute" is: a function that checks, a class to build, or a guardrail."""
    found = resolve_name(settings.rule)
    if isinstance(found, type):
        return guardrails.create(settings.rule, **settings.options, **said)
    if isinstance(found, Guardrail):
        if settings.options or "action" in said:
            what = "options" if settings.options else "action"
            raise ConfigError(f"{settings.rule!r} is made already and takes no `{what}`; name its class instead")
        return found
    if not callable(found):
        raise ConfigError(f"{settings.rule!r} is {type(found).__name__}; name a function, a class or a guardrail")
    function = partial(cast("Callable[..., Any]", found), **settings.options) if settings.options else found
    return FunctionGuardrail(function, **said)


def _check_options(settings: GuardrailSettings, rule: Callable[..., Any]) -> None:
    """Raise unless the rule takes these options and needs no others."""
    parameters = inspect.signature(rule).parameters
    own = [name for name in parameters if name not in ("name", "where", "action", "values")]
    for option in settings.options:
        if option in ("name", "where", "action"):
            raise ConfigError(f"{option!r} is no option; write it beside `rule`")
        if option not in own:
            raise ConfigError(f"the rule {settings.rule!r} has no option {option!r}{suggest(option, own)}")
    for name in own:
        if parameters[name].default is inspect.Parameter.empty and name not in settings.options:
            raise ConfigError(f"the rule {settings.rule!r} needs the option {name!r}; add it under `options`")


def _given(part: Guardrail | Callable[..., Any]) -> Guardrail:
    if isinstance(part, type):
        raise ConfigError(f"{part.__name__} is a class; give an object of it: `{part.__name__}()`")
    if isinstance(part, BoundedGuardrail):
        return part
    if isinstance(part, Guardrail):
        return BoundedGuardrail(part)
    if callable(part):
        return BoundedGuardrail(FunctionGuardrail(part))
    raise ConfigError(f"{type(part).__name__} is no guardrail; give a function, or an object with name, where, check")


def _renamed(guard: Guardrail, name: str) -> Guardrail:
    if isinstance(guard, BoundedGuardrail):
        on_error = "flag" if guard.on_error is Action.FLAG else "block"
        return BoundedGuardrail(
            guard.guardrail, name=name, where=guard.where, on_error=on_error, timeout_s=guard.timeout_s
        )
    return BoundedGuardrail(guard, name=name)
