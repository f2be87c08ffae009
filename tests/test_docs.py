"""The pages are true: every example runs, every link leads somewhere, every name that they use is there."""

import ast
import re
from collections.abc import Callable, Sequence
from importlib import import_module
from inspect import Parameter, signature
from pathlib import Path
from typing import Any, cast

import pytest
from pydantic import BaseModel

from agentmesh.context import context_routers
from agentmesh.project.schema import EdgeFile, Expectation, LoopFile, ScenarioFile, ScenarioTask, StageFile
from agentmesh.routing import routers
from agentmesh.routing.cascade import CascadeRouter, cascade_router
from agentmesh.routing.reasoning import ReasoningRouter, reasoning_router
from agentmesh.routing.semantic import SemanticRouter
from agentmesh.run import Limits
from agentmesh.runtime.conditions import CONDITIONS
from agentmesh.settings import ModelSettings
from agentmesh.types import AgentCard, AgentLimits, RolePolicy
from tests.doc_examples import (
    Page,
    blocks_of,
    expected_output,
    mistakes_in_words,
    page_of,
    read_page,
    run_page,
    tables_of,
)

ROOT = Path(__file__).resolve().parent.parent
PAGES = {page.name: page for page in map(read_page, sorted([*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")]))}
RUN = [name for name in PAGES if name == "README.md" or re.fullmatch(r"docs/[^/]+\.md", name)]
"""The pages whose examples are run. The others are read: a decision shows what was true on its day."""


@pytest.mark.parametrize("name", RUN)
def test_every_example_of_a_page_runs_as_it_says(name: str, tmp_path: Path) -> None:
    assert "\n".join(run_page(PAGES[name], tmp_path).mistakes) == ""


@pytest.mark.parametrize("name", PAGES)
def test_links_paths_names_commands_and_settings_of_a_page_are_there(name: str) -> None:
    assert mistakes_in_words(PAGES[name], PAGES, links_only=name.startswith("docs/decisions/")) == []


def test_the_index_names_every_page() -> None:
    index = (ROOT / "docs" / "README.md").read_text(encoding="utf-8")
    pages = {path.name for path in (ROOT / "docs").glob("*.md")} - {"README.md"}
    assert {page for page in pages if f"({page})" not in index} == set()


# --- tables of keys ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("page", "heading", "model", "without"),
    [
        ("docs/cards.md", "Every key", AgentCard, {"id", "instructions"}),
        ("docs/cards.md", "Limits", AgentLimits, set[str]()),
        ("docs/memory.md", "Roles", RolePolicy, set[str]()),
        ("docs/models.md", "Every key", ModelSettings, set[str]()),
        ("docs/graphs.md", "Limits", Limits, set[str]()),
        ("docs/scenarios.md", "The file", ScenarioFile, set[str]()),
        ("docs/scenarios.md", "Tasks", ScenarioTask, set[str]()),
        ("docs/scenarios.md", "Expectations", Expectation, set[str]()),
        ("docs/scenarios.md", "Stages", StageFile, set[str]()),
        ("docs/scenarios.md", "Loops", LoopFile, set[str]()),
        ("docs/scenarios.md", "Edges", EdgeFile, set[str]()),
    ],
)
def test_a_table_of_keys_has_every_key_with_its_default(
    page: str, heading: str, model: type[BaseModel], without: set[str]
) -> None:
    shown = {row[0].strip("`"): row[1] for row in tables_of(PAGES[page], heading)}
    fields = {(f.alias or name): f for name, f in model.model_fields.items() if name not in without}
    assert list(shown) == list(fields)
    for key, info in fields.items():
        assert shown[key] == _default(info), key


@pytest.mark.parametrize(
    ("heading", "makers"),
    [
        ("semantic", (SemanticRouter,)),
        ("reasoning", (reasoning_router, ReasoningRouter)),
        ("cascade", (cascade_router, CascadeRouter)),
    ],
)
def test_the_options_of_a_router_are_those_of_its_signature(heading: str, makers: Sequence[Callable[..., Any]]) -> None:
    given: dict[str, Parameter] = {}
    for maker in makers:
        given = {**signature(maker).parameters, **given}
    own = {n: p for n, p in given.items() if n not in ("embedder", "model", "router_of", "options")}
    shown = {row[0].strip("`"): row[1] for row in tables_of(PAGES["docs/routers.md"], heading)}
    assert shown == {name: _written(parameter.default) for name, parameter in own.items()}


def test_every_router_context_router_and_condition_is_in_its_table() -> None:
    def first_column(page: str, heading: str) -> set[str]:
        return {row[0].strip("`") for row in tables_of(PAGES[page], heading)}

    assert first_column("docs/routers.md", "Routers") == set(routers.names())
    assert first_column("docs/memory.md", "Other context routers") == set(context_routers.names())
    assert first_column("docs/scenarios.md", "Conditions") == set(CONDITIONS)


def _default(info: Any) -> str:
    """A default as the tables write it."""
    return "required" if info.is_required() else _written(info.get_default(call_default_factory=True))


def _written(value: Any) -> str:
    if value in (None, "", (), {}) or isinstance(value, BaseModel | dict):
        return "-"
    if isinstance(value, bool):
        return f"`{str(value).lower()}`"
    if isinstance(value, tuple):
        return ", ".join(f"`{v}`" for v in cast("tuple[object, ...]", value))
    return f"`{value:g}`" if isinstance(value, float) else f"`{value}`"


# --- docstrings -------------------------------------------------------------------------------------------------------


def test_what_the_modules_of_the_pages_offer_has_a_docstring() -> None:
    found: list[str] = []
    for module in sorted({m for page in PAGES.values() for m in _modules_in(page)}):
        path = Path(str(import_module(module).__file__))
        for node in ast.parse(path.read_text(encoding="utf-8")).body:
            if isinstance(node, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef) and not _speaks(node):
                found.append(f"{module}.{node.name}")
    assert found == []


def _speaks(node: ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef) -> bool:
    """Whether it has a docstring, or needs none: what is private, an overload, an event (its name is what happened)."""
    event = isinstance(node, ast.ClassDef) and any(isinstance(b, ast.Name) and b.id == "_Event" for b in node.bases)
    overload = any("overload" in ast.dump(decorator) for decorator in node.decorator_list)
    return node.name.startswith("_") or event or overload or bool(ast.get_docstring(node))


def _modules_in(page: Page) -> set[str]:
    """The modules of agentmesh that the page's examples import."""
    found: set[str] = set()
    for block in page.blocks:
        if block.language == "python":
            for node in ast.walk(ast.parse(block.text)):
                if isinstance(node, ast.ImportFrom) and (node.module or "").partition(".")[0] == "agentmesh":
                    found.add(node.module or "")
    return found


# --- the checks can fail ----------------------------------------------------------------------------------------------


def fenced(info: str, text: str) -> str:
    return f"# Page\n\n```{info}\n{text}\n```\n"


@pytest.mark.parametrize(
    ("info", "text", "wrong"),
    [
        ("", "anything", "no kind of block is called ''"),
        ("ruby", "puts 1", "no kind of block is called 'ruby'"),
        ("python", "print(1 + 1)  # 3", "'3' is not printed"),
        ("python", "1 / 0", "page.md:4: ZeroDivisionError"),
        ("python", "def f(:", "is no Python"),
        ("python skip", "import nowhere", "has a reason"),
        ("python skip: not installed", "def f(:", "is no Python"),
        ("python continues", "print(1)", "continues a block that is not there"),
        ("python", "import socket\nsocket.create_connection(('192.0.2.1', 9), 1)", "examples are offline"),
        ("yaml scenario x", "tasks:\n  - aks: hello", "page.md:5"),
        ("yaml scenario", "tasks: []", "names its file in one word"),
        ("yaml roles", "solver: {budget: 5}", "unknown key"),
        ("toml agentmesh", "[routing]\nrouter = 'semantik'", "did you mean 'semantic'"),
        ("markdown card x", "---\nexamples: []\n---\nHello.", "description"),
        ("json mcp", "{}", "mcpServers"),
        ("json", "{", "is no JSON"),
        ("console", "agentmesh check", "shows no command"),
        ("console", "$ agentmesh nonsense", "ended with 2, not 0"),
        ("console", "$ agentmesh check\n99 agents", "does not print '99 agents'"),
        ("console exit 1", "$ agentmesh check", "ended with 0, not 1"),
        ("console", "$ pip install agentmesh", "mark the block `console skip: why`"),
    ],
)
def test_a_wrong_example_is_found(info: str, text: str, wrong: str, tmp_path: Path) -> None:
    found = "\n".join(run_page(page_of(fenced(info, text)), tmp_path).mistakes)
    assert wrong in found


@pytest.mark.parametrize(
    ("words", "wrong"),
    [
        ("See [there](nowhere.md).", "leads nowhere"),
        ("See [there](#else).", "has no heading 'else'"),
        ("Read `agentmesh/nowhere.py`.", "there is no file"),
        ("Use `agentmesh.routing.Nobody`.", "there is no 'agentmesh.routing.Nobody'"),
        ("Run `agentmesh runn x`.", "there is no command `agentmesh runn`"),
        ("Run `agentmesh run --fast`.", "has no option '--fast'"),
        ("Set `routing.ruoter`.", "there is no setting"),
        ("Set AGENTMESH_RUOTER=x.", "AGENTMESH_RUOTER sets nothing"),
    ],
)
def test_a_wrong_name_is_found(words: str, wrong: str) -> None:
    page = page_of(f"# Page\n\n{words}\n", "docs/page.md")
    (found,) = [m for m in mistakes_in_words(page, {page.name: page}) if wrong in m or "leads nowhere" in m]
    assert wrong in found


def test_what_is_right_passes(tmp_path: Path) -> None:
    text = fenced("python", "print('a  b c')  # a b ...") + fenced(
        "console", "$ agentmesh check\nno mistakes: 3 agents, ..."
    )
    assert run_page(page_of(text), tmp_path).mistakes == []


def test_what_a_comment_says_about_a_print_is_expected() -> None:
    source = "print(\n    1\n)  # one\nprint(2)\n# two\n# three\n\n# four\nx = 1  # five\n"
    assert expected_output(source) == [(3, "one"), (5, "two"), (6, "three")]


def test_a_fence_within_a_longer_fence_is_text() -> None:
    (block,) = blocks_of("````text\n```python\n1 / 0\n```\n````\n")
    assert block.text == "```python\n1 / 0\n```"
