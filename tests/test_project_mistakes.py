"""Every kind of mistake in a project, with the exact sentence that a person reads."""

import os
import re
from collections.abc import Mapping
from pathlib import Path

import pytest

from agentmesh.errors import ProjectError, UnknownNameError
from agentmesh.project import KnownNames, check_project, load_project

GOOD: dict[str, str | bytes] = {
    "agents/vpn.md": "---\ndescription: Knows the VPN.\nrole: solver\n---\nYou know the VPN.\n",
    "agents/billing.md": "---\ndescription: Knows invoices.\n---\n",
    "memory/roles.yaml": "solver:\n  budget_tokens: {base: 512}\nverifier: {}\n",
    "agentmesh.toml": '[models]\nsmall = "openai/gpt-5-mini"\n',
    "scenarios/desk.yaml": 'version: 1\nagents: "*"\ntasks:\n  - id: one\n    ask: Why?\n    expect: {agents: [vpn]}\n',
}


def check_model(name: str) -> None:
    """Stands for the models layer: two names and everything with a slash."""
    if name not in ("embedded", "scripted") and "/" not in name:
        raise UnknownNameError("model", name, ["embedded", "scripted"])


KNOWN = KnownNames(
    routers=["semantic", "keyword", "fixed"],
    context_routers=["role_aware", "full", "recent"],
    refiners=["auto", "extractive"],
    embedders=["wordllama", "minilm"],
    conditions=["needs_another_round", "has_conflicts"],
    check_model=check_model,
)

CARD = "---\ndescription: Knows it.\n{}\n---\n"
GRAPH = "graph:\n  stages:\n{}\n"
MANY = "&a [1,1,1,1,1,1,1,1,1,1]\nb: &b [*a,*a,*a,*a,*a,*a,*a,*a,*a,*a]\nc: &c [*b,*b,*b,*b,*b,*b,*b,*b,*b,*b]\n" + (
    "d: &d [*c,*c,*c,*c,*c,*c,*c,*c,*c,*c]\ne: &e [*d,*d,*d,*d,*d,*d,*d,*d,*d,*d]\nf: [*e,*e,*e,*e,*e,*e,*e,*e]"
)


def write(folder: Path, files: Mapping[str, str | bytes | None]) -> Path:
    """Lay files down; None leaves one out."""
    for name, content in files.items():
        if content is not None:
            path = folder / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content.encode() if isinstance(content, str) else content)
    return folder


def mistakes(folder: Path, changes: Mapping[str, str | bytes | None]) -> list[str]:
    return [str(m) for m in check_project(write(folder, {**GOOD, **changes}), known=KNOWN)]


CASES: dict[str, tuple[str, str | bytes | None, str]] = {
    # --- the front matter
    "empty file": (
        "agents/x.md", "",
        "agents/x.md:1: the file is empty; begin it with `---`, `description: ...` and `---`, a line each",
    ),
    "no front matter": (
        "agents/x.md", "You know it.\n",
        "agents/x.md:1: the front matter is missing; the first line must be `---`",
    ),
    "front matter never closed": (
        "agents/x.md", "---\ndescription: It.\n",
        "agents/x.md:1: the front matter is never closed; add a line `---` below its last key",
    ),
    "front matter is a list": (
        "agents/x.md", "---\n- a\n---\n",
        "agents/x.md:2: must hold `key: value` lines, not a list",
    ),
    "front matter is text": (
        "agents/x.md", "---\njust words\n---\n",
        "agents/x.md:2: must hold `key: value` lines, not plain text",
    ),
    "tab": (
        "agents/x.md", "---\ndescription: It.\nlimits:\n\ttimeout_s: 3\n---\n",
        "agents/x.md:4: a tab stands where YAML wants spaces; indent with spaces",
    ),
    "colon in text": (
        "agents/x.md", "---\ndescription: It: that.\n---\n",
        "agents/x.md:2: is not valid YAML: a `:` stands where none can; put the text in quotes",
    ),
    "open quote": (
        "agents/x.md", "---\ndescription: 'It.\n---\n",
        "agents/x.md:3: is not valid YAML: a quotation mark is never closed",
    ),
    "open bracket": (
        "agents/x.md", "---\ndescription: It.\ntools: [a\n---\n",
        "agents/x.md:4: is not valid YAML: a `[` is never closed, or a comma is missing",
    ),
    "reserved character": (
        "agents/x.md", "---\ndescription: @it\n---\n",
        "agents/x.md:2: text cannot begin with '@'; put it in quotes",
    ),
    "alias without anchor": (
        "agents/x.md", "---\ndescription: It.\nexamples: [*all]\n---\n",
        "agents/x.md:3: is not valid YAML: an alias (`*name`) has no anchor (`&name`); "
        "put the text in quotes if `*` is meant",
    ),
    "aliases that multiply": (
        "agents/x.md", f"---\na: {MANY}\n---\n",
        "agents/x.md:2: its aliases (`*name`) repeat too much; write the values out",
    ),
    "alias in itself": (
        "agents/x.md", "---\ndescription: It.\nexamples: &a [*a]\n---\n",
        "agents/x.md:2: its aliases (`*name`) repeat too much; write the values out",
    ),
    "deep nesting": (
        "agents/x.md", "---\ndescription: It.\nexamples: " + "[" * 100_000 + "\n---\n",
        "agents/x.md:3: is nested deeper than 50 levels; make it flatter",
    ),
    "key twice": (
        "agents/x.md", "---\ndescription: It.\nrole: solver\nrole: verifier\n---\n",
        "agents/x.md:4: role: this key stands twice, first in line 3; keep one",
    ),
    "key that is no text": (
        "agents/x.md", "---\ndescription: It.\nyes: 1\n---\n",
        "agents/x.md:3: 'yes' cannot be a key; a key is text: put it in quotes",
    ),
    "tag": (
        "agents/x.md", "---\ndescription: !!python/object:os.system ls\n---\n",
        "agents/x.md:2: description: the tag !!python/object:os.system is not allowed; take it out",
    ),
    "no such day": (
        "agents/x.md", "---\ndescription: 2026-02-31\n---\n",
        "agents/x.md:2: description: '2026-02-31' is no date; put it in quotes if text is meant",
    ),
    "not UTF-8": (
        "agents/x.md", b"---\ndescription: caf\xe9\n---\n",
        "agents/x.md:2: is not UTF-8 text (byte 0xe9); save it as UTF-8",
    ),
    "control character": (
        "agents/x.md", "---\ndescription: a\x01b\n---\n",
        "agents/x.md:2: holds a control character; take it out",
    ),
    "too large": (
        "agents/x.md", "---\ndescription: It.\n---\n" + "x" * 300_000,
        "agents/x.md: is larger than 256 KB; make it smaller or split it",
    ),
    # --- the card
    "no description": (
        "agents/x.md", "---\nrole: solver\n---\n",
        "agents/x.md:1: description: is missing; add `description: ...`",
    ),
    "description without value": (
        "agents/x.md", "---\nname: X\ndescription:\n---\n",
        "agents/x.md:3: description: has no value; give it one, or take the key out",
    ),
    "empty description": (
        "agents/x.md", "---\ndescription: ''\n---\n",
        "agents/x.md:2: description: is empty; write some text",
    ),
    "blank description": (
        "agents/x.md", "---\ndescription: ' '\n---\n",
        "agents/x.md:2: description: is empty; say in a sentence what the agent answers",
    ),
    "unknown key": (
        "agents/x.md", CARD.format("exmples: [a]"),
        "agents/x.md:3: exmples: unknown key; did you mean 'examples'?",
    ),
    "unknown key inside": (
        "agents/x.md", CARD.format("limits: {retrys: 2}"),
        "agents/x.md:3: limits.retrys: unknown key; did you mean 'retries'?",
    ),
    "id in the card": (
        "agents/x.md", CARD.format("id: y"),
        "agents/x.md:3: id: the id is the file's name; take this key out",
    ),
    "instructions in the card": (
        "agents/x.md", CARD.format("instructions: Do it."),
        "agents/x.md:3: instructions: instructions are the text below; take this key out",
    ),
    "number for text": (
        "agents/x.md", CARD.format("examples:\n  - fine\n  - 412"),
        "agents/x.md:5: examples[1]: must be text, not 412; put it in quotes",
    ),
    "truth for text": (
        "agents/x.md", CARD.format("not_for: [no]"),
        "agents/x.md:3: not_for[0]: must be text, not false; put it in quotes",
    ),
    "date for text": (
        "agents/x.md", CARD.format("name: 2026-01-31"),
        "agents/x.md:3: name: must be text, not the date 2026-01-31; put it in quotes",
    ),
    "text for a list": (
        "agents/x.md", CARD.format("examples: Why?"),
        "agents/x.md:3: examples: must be a list, not 'Why?'; write it in square brackets",
    ),
    "text for keys": (
        "agents/x.md", CARD.format("limits: none"),
        "agents/x.md:3: limits: must be a group of keys, not 'none'",
    ),
    "text for a number": (
        "agents/x.md", CARD.format("limits: {timeout_s: soon}"),
        "agents/x.md:3: limits.timeout_s: must be a number, not 'soon'",
    ),
    "truth for a number": (
        "agents/x.md", CARD.format("limits: {retries: yes}"),
        "agents/x.md:3: limits.retries: must be a number, not true",
    ),
    "fraction for a whole number": (
        "agents/x.md", CARD.format("limits: {retries: 1.5}"),
        "agents/x.md:3: limits.retries: must be a whole number, not 1.5",
    ),
    "text for truth": (
        "agents/x.md", CARD.format("shadow: maybe"),
        "agents/x.md:3: shadow: must be true or false, not 'maybe'",
    ),
    "above the range": (
        "agents/x.md", CARD.format("limits:\n  retries: 11"),
        "agents/x.md:4: limits.retries: must be between 0 and 10, not 11",
    ),
    "below the range": (
        "agents/x.md", CARD.format("limits: {timeout_s: 0}"),
        "agents/x.md:3: limits.timeout_s: must be above 0 and at most 3 600, not 0",
    ),
    "range with one end": (
        "agents/x.md", CARD.format("limits: {max_prompt_tokens: 3}"),
        "agents/x.md:3: limits.max_prompt_tokens: must be 64 or more, not 3",
    ),
    "unknown choice": (
        "agents/x.md", CARD.format("visibility: privat"),
        "agents/x.md:3: visibility: must be 'shared' or 'private', not 'privat'; did you mean 'private'?",
    ),
    "unknown choice of an enumeration": (
        "agents/x.md", CARD.format("approval: sometimes"),
        "agents/x.md:3: approval: must be 'never', 'tools' or 'always', not 'sometimes'",
    ),
    "secret for a number": (
        "agents/x.md", CARD.format("limits: {retries: sk-abcdef123456}"),
        "agents/x.md:3: limits.retries: must be a whole number, not a value that is not shown",
    ),
    "unknown role": (
        "agents/x.md", CARD.format("role: solvr"),
        "agents/x.md:3: role: no role is called 'solvr'; did you mean 'solver'?",
    ),
    "unknown model": (
        "agents/x.md", CARD.format("model: smal"),
        "agents/x.md:3: model: no model is called 'smal'; did you mean 'small'?",
    ),
    "unknown model of a variant": (
        "agents/x.md", CARD.format("variants:\n  fast:\n    model: qqq"),
        "agents/x.md:5: variants.fast.model: no model is called 'qqq'; known: embedded, scripted",
    ),
    "unknown tool server": (
        "agents/x.md", CARD.format("tools: [wireless.los]"),
        "agents/x.md:3: tools[0]: no tool server is called 'wireless'; tools/mcp.json names none",
    ),
    "schema without a type": (
        "agents/x.md", CARD.format("output_schema: {properties: {}}"),
        "agents/x.md:3: output_schema: is no JSON schema; it needs a `type`, such as `object`",
    ),
    "schema with an unknown type": (
        "agents/x.md", CARD.format("output_schema:\n  type: objekt"),
        "agents/x.md:4: output_schema.type: no JSON type is called 'objekt'; did you mean 'object'?",
    ),
    "schema file that is not there": (
        "agents/x.md", CARD.format("output_schema: schemas/x.json"),
        "agents/x.md:3: output_schema: there is no file 'schemas/x.json' in the project",
    ),
    "schema file outside": (
        "agents/x.md", CARD.format("output_schema: ../x.json"),
        "agents/x.md:3: output_schema: '../x.json' lies outside of the project; move it inside",
    ),
    "name that cannot be an id": (
        "agents/my agent.md", CARD.format(""),
        "agents/my agent.md: its name cannot be an id; use letters, digits, '_', '.' and '-', at most 64",
    ),
    "the same id in capitals": (
        "agents/VPN.md", CARD.format(""),
        "agents/vpn.md: has the same id as agents/VPN.md but for capital letters; rename one",
    ),
    # --- roles and tools
    "role that is no group": (
        "memory/roles.yaml", "solver: 3\n",
        "memory/roles.yaml:1: solver: must be a group of keys, not 3",
    ),
    "unknown key of a role": (
        "memory/roles.yaml", "solver:\n  budget: 3\n",
        "memory/roles.yaml:2: solver.budget: unknown key; did you mean 'budget_tokens'?",
    ),
    "unknown kind of memory": (
        "memory/roles.yaml", "solver:\n  kinds:\n    fakt: 1.0\n",
        "memory/roles.yaml:3: solver.kinds.fakt: must be 'plan_step', 'fact', 'evidence', 'answer', 'tool_output', "
        "'dialogue' or 'preference', not 'fakt'; did you mean 'fact'?",
    ),
    "budget of nothing": (
        "memory/roles.yaml", "solver:\n  budget_tokens:\n    base: 0\n",
        "memory/roles.yaml:3: solver.budget_tokens.base: must be 1 or more, not 0",
    ),
    "negative weight": (
        "memory/roles.yaml", "solver:\n  kinds: {fact: -1}\n",
        "memory/roles.yaml:2: solver.kinds.fact: must be 0 or more, not -1",
    ),
    "reserve as large as the budget": (
        "memory/roles.yaml", "solver:\n  budget_tokens: {base: 100}\n  reserve_tokens: {a: 60, b: 40}\n",
        "memory/roles.yaml:3: solver.reserve_tokens: reserves 100 of a budget of 100 tokens; leave room for memory",
    ),
    "servers that are no JSON": (
        "tools/mcp.json", '{"mcpServers":\n  nothing}',
        "tools/mcp.json:2: is not valid JSON: expecting value",
    ),
    "servers under another name": (
        "tools/mcp.json", '{"servers": {}}',
        'tools/mcp.json: mcpServers: must hold {"mcpServers": {"<name>": {"command": ...}}}',
    ),
    "server without a command": (
        "tools/mcp.json", '{"mcpServers": {"los": {}}}',
        "tools/mcp.json: mcpServers.los: must be a group of keys with `command` or `url`",
    ),
    # --- scenarios
    "empty scenario": (
        "scenarios/x.yaml", "# later\n",
        "scenarios/x.yaml:1: the file is empty; write `tasks:` with a list of `ask: ...`, or remove it",
    ),
    "newer format": (
        "scenarios/x.yaml", "version: 2\n",
        "scenarios/x.yaml:1: version: must be 1, not 2",
    ),
    "scenario with no agent": (
        "scenarios/x.yaml", "agents: []\n",
        'scenarios/x.yaml:1: agents: names no agent; list ids, or write "*" for all',
    ),
    "unknown agent": (
        "scenarios/x.yaml", "agents:\n  - vpn\n  - biling\n",
        "scenarios/x.yaml:3: agents[1]: no agent is called 'biling'; did you mean 'billing'?",
    ),
    "unknown router": (
        "scenarios/x.yaml", "router: keywrd\n",
        "scenarios/x.yaml:1: router: no router is called 'keywrd'; did you mean 'keyword'?",
    ),
    "task without a question": (
        "scenarios/x.yaml", "tasks:\n  - id: a\n",
        "scenarios/x.yaml:2: tasks[0].ask: is missing; add `ask: ...`",
    ),
    "task id twice": (
        "scenarios/x.yaml", "tasks:\n  - {id: a, ask: x}\n  - {id: a, ask: y}\n",
        "scenarios/x.yaml:3: tasks[1].id: tasks[0] has the id 'a' too; rename one",
    ),
    "unknown agent expected": (
        "scenarios/x.yaml", "tasks:\n  - ask: x\n    expect:\n      agents: [vnp]\n",
        "scenarios/x.yaml:4: tasks[0].expect.agents[0]: no agent is called 'vnp'; did you mean 'vpn'?",
    ),
    "expected agent takes no part": (
        "scenarios/x.yaml", "agents: [vpn]\ntasks:\n  - ask: x\n    expect: {agents: [billing]}\n",
        "scenarios/x.yaml:4: tasks[0].expect.agents[0]: the agent 'billing' is not among the scenario's `agents`; "
        "add it there",
    ),
    "unknown outcome": (
        "scenarios/x.yaml", "tasks:\n  - ask: x\n    expect: {outcome: clarfy}\n",
        "scenarios/x.yaml:3: tasks[0].expect.outcome: must be 'answered', 'clarify' or 'out_of_scope', not 'clarfy'; "
        "did you mean 'clarify'?",
    ),
    "conflict of one side": (
        "scenarios/x.yaml", "tasks:\n  - ask: x\n    expect: {conflicts: [[a]]}\n",
        "scenarios/x.yaml:3: tasks[0].expect.conflicts[0][1]: is missing; give every entry of the list",
    ),
    "unknown agent of a stage": (
        "scenarios/x.yaml", GRAPH.format("    - name: a\n      agent: vnp"),
        "scenarios/x.yaml:4: graph.stages[0].agent: no agent is called 'vnp'; did you mean 'vpn'?",
    ),
    "empty pool": (
        "scenarios/x.yaml", GRAPH.format("    - name: a\n      agents: []"),
        "scenarios/x.yaml:3: graph.stages[0]: stage 'a' has an empty pool; name at least one agent or use '*'",
    ),
    "unreachable stage": (
        "scenarios/x.yaml", GRAPH.format("    - {name: a, agent: vpn}\n    - {name: b, agent: vpn}"),
        "scenarios/x.yaml:4: graph.stages[1]: stage 'b' is unreachable; give it `after=` or an edge that leads to it",
    ),
    "after a stage that is not there": (
        "scenarios/x.yaml", GRAPH.format("    - {name: first, agent: vpn}\n    - {name: b, after: frst}"),
        "scenarios/x.yaml:4: graph.stages[1]: an edge 'frst' -> 'b' names no stage 'frst'; did you mean 'first'?",
    ),
    "loop without a bound": (
        "scenarios/x.yaml",
        GRAPH.format("    - {name: a, agent: vpn}\n  loops:\n    - {after: a, back_to: a, while: has_conflicts}"),
        "scenarios/x.yaml:5: graph.loops[0]: the loop 'a' -> 'a' has no bound; "
        "set max_rounds between 1 and 50, not 0",
    ),
    "unknown condition": (
        "scenarios/x.yaml",
        GRAPH.format(
            "    - {name: a, agent: vpn}\n  loops:\n    - {after: a, back_to: a, while: has_conflict, max_rounds: 2}"
        ),
        "scenarios/x.yaml:5: graph.loops[0].while: no condition is called 'has_conflict'; "
        "did you mean 'has_conflicts'?",
    ),
    "key of another kind of stage": (
        "scenarios/x.yaml", GRAPH.format("    - {name: a, agent: vpn, max_agents: 2}"),
        "scenarios/x.yaml:3: graph.stages[0].max_agents: means nothing in a stage of kind agent; it may have agent",
    ),
    "stage name with a space": (
        "scenarios/x.yaml", GRAPH.format("    - {name: a b, agent: vpn}"),
        "scenarios/x.yaml:3: graph.stages[0].name: 'a b' is not a valid name; "
        "use letters, digits, '_' and '-', and begin with a letter",
    ),
    "the same name of two scenarios": (
        "scenarios/x.yaml", "name: desk\n",
        "scenarios/x.yaml:1: name: scenarios/desk.yaml is called 'desk' too; rename one",
    ),
    # --- settings
    "unknown router in the settings": (
        "agentmesh.toml", '[routing]\nrouter = "semntic"\n',
        "agentmesh.toml: routing.router: no router is called 'semntic'; did you mean 'semantic'?",
    ),
    "unknown context router": (
        "agentmesh.toml", '[context]\nrouter = "ful"\n',
        "agentmesh.toml: context.router: no context router is called 'ful'; did you mean 'full'?",
    ),
    "unknown refiner model": (
        "agentmesh.toml", 'refiner_model = "defualt"\n',
        "agentmesh.toml: refiner_model: no model is called 'defualt'; did you mean 'default'?",
    ),
    "unknown model in the settings": (
        "agentmesh.toml", '[models]\nsmall = "embeded"\n',
        "agentmesh.toml: models.small.model: no model is called 'embeded'; did you mean 'embedded'?",
    ),
    "knowledge that is a file": (
        "agentmesh.toml", '[memory]\nknowledge = ["agentmesh.toml"]\n',
        "agentmesh.toml: memory.knowledge[0]: agentmesh.toml is a file; name the folder that holds it",
    ),
    "unknown setting": (
        "agentmesh.toml", "[routng]\nmax_agents = 3\n",
        "agentmesh.toml: routng: unknown key; did you mean 'routing'?",
    ),
}  # fmt: skip


def test_a_project_without_mistakes_has_none(tmp_path: Path) -> None:
    assert mistakes(tmp_path, {}) == []


@pytest.mark.parametrize(("file", "content", "sentence"), CASES.values(), ids=CASES.keys())
def test_a_mistake_is_one_sentence_that_says_where_and_what(
    tmp_path: Path, file: str, content: str | bytes | None, sentence: str
) -> None:
    assert mistakes(tmp_path, {file: content}) == [sentence]


def test_all_mistakes_are_told_at_once(tmp_path: Path) -> None:
    broken = {
        "agentmesh.toml": "[limits]\nmax_rounds = 90\n",
        "memory/roles.yaml": "solver: 1\n",
        "agents/vpn.md": CARD.format("role: nobody\nlimits: {retries: -1}\nexmples: []"),
        "scenarios/desk.yaml": "agents: [nobody]\n",
    }
    with pytest.raises(ProjectError) as caught:
        load_project(write(tmp_path, {**GOOD, **broken}), known=KNOWN)
    assert list(caught.value.mistakes) == [
        "agentmesh.toml: limits.max_rounds: must be between 1 and 50, not 90",
        "memory/roles.yaml:1: solver: must be a group of keys, not 1",
        "agents/vpn.md:4: limits.retries: must be between 0 and 10, not -1",
        "agents/vpn.md:5: exmples: unknown key; did you mean 'examples'?",
        "agents/vpn.md:3: role: no role is called 'nobody'; known: solver",
        "scenarios/desk.yaml:1: agents[0]: no agent is called 'nobody'; known: billing, vpn",
    ]


def test_a_broken_file_is_not_a_second_mistake_elsewhere(tmp_path: Path) -> None:
    found = mistakes(tmp_path, {"agents/vpn.md": "---\n", "memory/roles.yaml": "- x\n", "agentmesh.toml": "["})
    assert [m.split(":")[0] for m in found] == ["agentmesh.toml", "memory/roles.yaml", "agents/vpn.md"]


def test_no_sentence_shows_a_secret(tmp_path: Path) -> None:
    secret = "sk-proj-abcdefgh12345678"
    found = mistakes(
        tmp_path,
        {
            "agentmesh.toml": f'refiner = "{secret}"\n[models.default]\nmodel = "openai/x"\napi_key = "hunter2"\n',
            "agents/x.md": CARD.format(f"limits: {secret}\nexamples: {secret}\nmodel: {secret}\nrole: {secret}"),
            "scenarios/x.yaml": f"router: {secret}\nagents: [{secret}]\n",
        },
    )
    assert len(found) >= 6
    assert not [m for m in found if secret in m or "hunter2" in m]


def test_no_sentence_shows_the_jargon_of_the_library(tmp_path: Path) -> None:
    wrong = ["3", "[1]", "{a: 1}", "text", "2026-01-01", "true", "null", "1.5"]
    keys = "name role model tools examples not_for variants limits approval visibility allows shadow output_schema tool"
    files = {f"agents/{k}{n}.md": CARD.format(f"{k}: {v}") for k in keys.split() for n, v in enumerate(wrong)}
    found = mistakes(tmp_path, files)
    assert len(found) > 60
    assert not [m for m in found if re.search(r"pydantic|https?:|Input should|_type|\bstr\b|\bdict\b|tuple|None", m)]


def test_an_unreadable_file_is_a_mistake_and_the_others_are_still_read(tmp_path: Path) -> None:
    folder = write(tmp_path, GOOD)
    (folder / "agents/gone.md").symlink_to("nowhere.md")
    write(tmp_path, {"agents/x.md": CARD.format("role: solvr")})
    assert [str(m) for m in check_project(folder, known=KNOWN)] == [
        "agents/gone.md: cannot be read: no such file or directory",
        "agents/x.md:3: role: no role is called 'solvr'; did you mean 'solver'?",
    ]


def test_what_only_looks_like_a_file_is_said_and_never_waited_for(tmp_path: Path) -> None:
    folder = write(tmp_path, GOOD)
    os.mkfifo(folder / "agents" / "pipe.md")
    (folder / "agents" / "old.md").mkdir()
    (folder / "agents" / "drafts").mkdir()
    (folder / "agents" / "loud.MD").write_text("---\ndescription: x\n---\n")
    (folder / "scenarios" / "more.yaml").mkdir()
    assert sorted(str(m) for m in check_project(folder, known=KNOWN)) == [
        "agents/loud.MD: is not read, for its name ends in .MD; write .md",
        "agents/old.md/: is a folder, and nothing in it is read; rename it, or move its files up",
        "agents/pipe.md: is no plain file; put one in its place, or take it out",
        "scenarios/more.yaml/: is a folder, and nothing in it is read; rename it, or move its files up",
    ]


def test_no_scenario_has_the_name_of_the_graph_that_questions_take(tmp_path: Path) -> None:
    for file, text in (("default.yaml", "tasks: [{ask: Why?}]\n"), ("x.yaml", "name: default\ntasks: [{ask: Why?}]\n")):
        (mistake,) = mistakes(tmp_path / file, {f"scenarios/{file}": text})
        assert "'default' is the graph that questions take; choose another name" in mistake


def test_a_folder_that_is_no_project_is_told_what_to_create(tmp_path: Path) -> None:
    first = "create agents/<id>.md that begins with the lines `---`, `description: what it answers` and `---`"
    assert [str(m) for m in check_project(tmp_path)] == [
        f"agents/: this is no mesh project, for there is no such folder; {first}"
    ]
    write(tmp_path, {"agentmesh.toml": ""})
    assert [str(m) for m in check_project(tmp_path)] == [f"agents/: there is no such folder; {first}"]
    write(tmp_path, {"agents/vpn.markdown": "x", "agents/README.md": "x", "agents/.hidden.md": "x"})
    assert [str(m) for m in check_project(tmp_path)] == [
        f"agents/: no agent is here (files that do not end in .md do not count); {first}"
    ]


def test_a_folder_that_is_not_there_is_one_mistake() -> None:
    assert [str(m) for m in check_project(Path("nowhere/at-all"))] == [
        "nowhere/at-all: there is no such folder; name the folder that holds agents/"
    ]


def test_a_wrong_variable_is_named_instead_of_the_file(tmp_path: Path) -> None:
    folder = write(tmp_path, GOOD)
    found = check_project(folder, known=KNOWN, environ={"AGENTMESH_ROUTING__ROUTER": "keywrd"})
    assert [str(m) for m in found] == [
        "AGENTMESH_ROUTING__ROUTER: no router is called 'keywrd'; did you mean 'keyword'?"
    ]


def test_names_are_not_checked_where_nobody_says_what_exists(tmp_path: Path) -> None:
    changes = {"agentmesh.toml": 'refiner = "mine"\n[routing]\nrouter = "other"\n', "scenarios/x.yaml": "router: odd\n"}
    assert check_project(write(tmp_path, {**GOOD, **changes})) == []


def test_a_part_by_module_and_attribute_is_no_unknown_name(tmp_path: Path) -> None:
    changes = {"agentmesh.toml": '[routing]\nrouter = "mine.routing:Own"\n[memory]\nembedder = "litellm:openai/e"\n'}
    assert mistakes(tmp_path, changes) == []
