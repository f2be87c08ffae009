"""The frame holds: which module may use which library, what an import costs, what every module says of itself.

That imports point down and never go round is checked by import-linter (`make check`, contracts in pyproject.toml).
"""

import ast
import os
import re
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest

import agentmesh

ROOT = Path(__file__).resolve().parent.parent
PACKAGE = ROOT / "agentmesh"

DOORS = {
    "aiosqlite": ("runtime",),
    "chromadb": ("memory.chroma",),
    "httpx": ("routing.decider",),
    "jsonschema": ("agents.schema",),
    "referencing": ("agents.schema",),
    "huggingface_hub": ("models.weights",),
    "langchain_core": ("runtime", "evaluation.overhead"),
    "langgraph": ("runtime", "evaluation.overhead"),
    "litellm": ("models.litellm",),
    "matplotlib": ("evaluation.report", "evaluation.plots", "drawing.png"),
    "mcp": ("tools.mcp", "serve.mcp"),
    "networkx": ("graphs", "drawing.ranks", "routing.pheromone", "context"),
    "opentelemetry": ("trace.otel",),
    "pytest": ("testing.fixtures",),
    "regex": ("guardrails.rules", "routing.signals"),
    "rich": ("cli", "evaluation.report"),
    "scipy": ("routing", "evaluation"),
    "sentence_transformers": ("models.minilm",),
    "sklearn": ("routing", "evaluation"),
    "sqlite3": ("database", "trace.store"),
    "textual": ("tui",),
    "tiktoken": ("tokens",),
    "torch": ("moe", "models.minilm"),
    "transformers": ("moe", "models.minilm"),
    "typer": ("cli",),
    "wordllama": ("models.wordllama",),
    "xllamacpp": ("models.local",),
}
"""The modules, below `agentmesh`, that may import a library; a package stands for everything in it."""

EVERYWHERE = {"numpy", "pydantic", "pydantic_core", "yaml"}
"""Libraries without a door: values, arrays and the file format of the content."""

SLOW = DOORS.keys() - {"aiosqlite", "rich", "sqlite3", "typer"}
"""Libraries that take long to import: loaded by the part that needs them, when it is chosen."""


def modules() -> list[Path]:
    """Every module of the package."""
    return sorted(PACKAGE.rglob("*.py"))


def dotted(path: Path) -> str:
    """The module's name below `agentmesh`; empty for the package itself."""
    return ".".join(path.relative_to(PACKAGE).with_suffix("").parts).removesuffix("__init__").removesuffix(".")


def libraries(source: str) -> set[str]:
    """First names of everything that the source imports, in functions, type-checking blocks and by name too."""
    return {name.partition(".")[0] for name in _imported(ast.parse(source))}


def _imported(tree: ast.AST) -> Iterator[str]:
    for node in ast.walk(tree):
        match node:
            case ast.Import():
                yield from (alias.name for alias in node.names)
            case ast.ImportFrom(module=str(name), level=0):
                yield name
            case ast.Call(
                func=ast.Name(id="import_module" | "__import__") | ast.Attribute(attr="import_module"),
                args=[ast.Constant(value=str(name)), *_],
            ):
                yield name
            case _:
                pass


def strangers(module: str, source: str) -> set[str]:
    """The libraries that this module imports and may not."""
    own = {
        name for name, doors in DOORS.items() if any(module == door or module.startswith(f"{door}.") for door in doors)
    }
    return libraries(source) - own - EVERYWHERE - (sys.stdlib_module_names - DOORS.keys()) - {"agentmesh"}


def loaded_by(statement: str) -> set[str]:
    """First names of all modules that a fresh interpreter has loaded after the statement."""
    script = f"import sys\n{statement}\nprint(*sorted({{name.partition('.')[0] for name in sys.modules}}))"
    done = subprocess.run(
        [sys.executable, "-c", script],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        encoding="utf-8",
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return set(done.stdout.split())


@pytest.mark.parametrize(
    ("module", "source", "found"),
    [
        ("routing.base", "import networkx as nx", {"networkx"}),
        ("routing.pheromone.space", "import networkx as nx", set[str]()),
        ("routing.pheromones", "import networkx as nx", {"networkx"}),
        ("runtime.mesh", "def late():\n    from chromadb.api import Client", {"chromadb"}),
        ("runtime.mesh", "import importlib\nimportlib.import_module('litellm.utils')", {"litellm"}),
        ("models.call", "import sqlite3, json", {"sqlite3"}),
        ("models.call", "import requests", {"requests"}),
        ("models.call", "import numpy\nfrom agentmesh.types import Task\nfrom . import base", set[str]()),
    ],
)
def test_an_import_is_seen_wherever_it_stands(module: str, source: str, found: set[str]) -> None:
    assert strangers(module, source) == found


def test_a_library_is_imported_only_behind_its_door() -> None:
    found = {dotted(path): strangers(dotted(path), path.read_text(encoding="utf-8")) for path in modules()}
    assert {module: sorted(names) for module, names in found.items() if names} == {}


def test_importing_agentmesh_loads_no_slow_library() -> None:
    assert loaded_by("import agentmesh") & (SLOW | {"rich", "typer"}) == set()


def test_the_command_line_loads_no_slow_library_before_it_knows_what_to_do() -> None:
    assert loaded_by("import agentmesh.cli") & SLOW == set()


def test_the_front_door_has_at_most_twenty_names_and_each_opens() -> None:
    assert len(agentmesh.__all__) <= 20
    assert [name for name in agentmesh.__all__ if not hasattr(agentmesh, name)] == []


def test_every_module_says_what_it_is() -> None:
    texts = {dotted(path): path.read_text(encoding="utf-8") for path in modules()}
    assert [name for name, text in texts.items() if text.strip() and not ast.get_docstring(ast.parse(text))] == []


def test_the_content_folders_hold_no_package() -> None:
    folders = [ROOT / name for name in ("agents", "memory", "scenarios", "tools")]
    assert [str(found) for folder in folders for found in folder.rglob("__init__.py")] == []


def test_every_direct_dependency_is_pinned() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    extras = project["optional-dependencies"]
    wanted = {_name(line) for line in [*project["dependencies"], *extras["local"], *extras["dev"]]}
    lines = (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
    pins = dict(line.split("==") for line in lines if line and not line.startswith("#"))
    assert wanted - {_name(name) for name in pins} == set()


def _name(requirement: str) -> str:
    """The package's name in the one spelling that the registries compare."""
    return re.sub(r"[-_.]+", "-", re.split(r"[\s\[<>=!~;]", requirement, maxsplit=1)[0]).lower()
