"""Prompts as text files: `templates/<name>.md` with `{{variable}}` marks. A missing or unused variable is a mistake."""

import re
from functools import cache
from importlib.resources import files

from agentmesh.errors import ConfigError, UnknownNameError

__all__ = ["render", "template_names"]

MARK = re.compile(r"\{\{\s*([a-z_]+)\s*\}\}")


def template_names() -> list[str]:
    """The prompts that ship with the package, sorted."""
    return sorted(f.name.removesuffix(".md") for f in _folder().iterdir() if f.name.endswith(".md"))


def render(name: str, **values: str) -> str:
    """Fill the template in.

    Values are inserted as they are and never read as templates themselves, so text from users and memory stays data.

    Raises:
        ConfigError: If the template has a mark without a value, or a value without a mark.
    """
    text = _template(name)
    marks = set(MARK.findall(text))
    if missing := sorted(marks - set(values)):
        raise ConfigError(f"prompt {name!r} needs a value for {', '.join(missing)}")
    if unused := sorted(set(values) - marks):
        raise ConfigError(f"prompt {name!r} has no mark for {', '.join(unused)}")
    return MARK.sub(lambda mark: values[mark.group(1)], text)


@cache
def _template(name: str) -> str:
    path = _folder() / f"{name}.md"
    if not path.is_file():
        raise UnknownNameError("prompt", name, template_names())
    return path.read_text(encoding="utf-8").strip()


def _folder():
    return files("agentmesh") / "templates"
