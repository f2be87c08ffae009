"""Guardrails in a project's settings: what a file may say, and what is said of a wrong one."""

from pathlib import Path
from typing import Any, get_args

import pytest

from agentmesh.assembly import check_folder
from agentmesh.errors import ProjectError
from agentmesh.guardrails import Action, Where
from agentmesh.settings import GuardrailPlace, GuardrailSettings, MeshSettings, load_settings

CARD = "---\ndescription: Knows invoices.\n---\n"


def mistakes(folder: Path, toml: str) -> list[str]:
    (folder / "agents").mkdir()
    (folder / "agents" / "billing.md").write_text(CARD, encoding="utf-8")
    (folder / "agentmesh.toml").write_text(toml, encoding="utf-8")
    return [str(m) for m in check_folder(folder, environ={})]


def test_a_file_lists_guardrails_in_order(tmp_path: Path) -> None:
    (tmp_path / "agentmesh.toml").write_text(
        '[[guardrails]]\nrule = "secrets"\n'
        '[[guardrails]]\nrule = "pattern"\nname = "prices"\nwhere = "output"\naction = "redact"\non_error = "flag"\n'
        "timeout_s = 1\noptions = {pattern = '\\d+ EUR'}\n",
        encoding="utf-8",
    )
    secrets, prices = load_settings(tmp_path, environ={}).guardrails
    assert secrets == GuardrailSettings(rule="secrets")
    assert (prices.where, prices.action, prices.on_error, prices.timeout_s) == (("output",), "redact", "flag", 1.0)
    assert prices.options == {"pattern": r"\d+ EUR"}
    assert MeshSettings().guardrails == ()


def test_the_environment_lists_guardrails_as_json(tmp_path: Path) -> None:
    environ = {"AGENTMESH_GUARDRAILS": '[{"rule": "length", "where": ["input"], "options": {"max_chars": 9}}]'}
    (guardrail,) = load_settings(tmp_path, environ=environ).guardrails
    assert guardrail == GuardrailSettings(rule="length", where=("input",), options={"max_chars": 9})


def test_settings_know_the_places_and_actions_of_guardrails() -> None:
    action: Any = GuardrailSettings.model_fields["action"].annotation
    names = {name for choice in get_args(action) for name in get_args(choice)}
    assert set(get_args(GuardrailPlace)) == {w.value for w in Where}
    assert names == {a.value for a in Action} - {"pass"}


@pytest.mark.parametrize(
    ("entry", "mistake"),
    [
        ('rule = "secrts"', "guardrails[0].rule: no guardrail is called 'secrts'; did you mean 'secrets'?"),
        ('name = "x"', "guardrails[0].rule: is missing; add `rule: ...`"),
        ('rule = "secrets"\nwere = "input"', "guardrails[0].were: unknown key; did you mean 'where'?"),
        ('rule = "secrets"\nwhere = "inptu"', "guardrails[0].where[0]: must be 'input', 'output' or 'memory', "
         "not 'inptu'; did you mean 'input'?"),
        ('rule = "secrets"\nwhere = []',
         "guardrails[0].where: names no place; give input, output or memory, or take the key out"),
        ('rule = "secrets"\naction = "redcat"', "guardrails[0].action: must be 'block', 'redact', 'flag' or 'ask', "
         "not 'redcat'; did you mean 'redact'?"),
        ('rule = "secrets"\nwhere = ["output", "memory"]\naction = "ask"',
         "guardrails[0].action: nobody can be asked in the middle of a memory write; use 'block', or take 'memory' "
         "out of `where`"),
        ('rule = "secrets"\non_error = "pass"', "guardrails[0].on_error: must be 'block' or 'flag', not 'pass'"),
        ('rule = "secrets"\ntimeout_s = 0', "guardrails[0].timeout_s: must be above 0 and at most 60, not 0"),
        ('rule = "pattern"\noptions = {pattern = "(a"}',
         "guardrails[0]: the pattern '(a' does not compile: missing ) at position 2; correct the option 'pattern', "
         "in TOML best between single quotes"),
        ('rule = "pattern"\noptions = {patern = "a"}',
         "guardrails[0]: the rule 'pattern' has no option 'patern'; did you mean 'pattern'?"),
        ('rule = "personal"\noptions = {kinds = ["ibn"]}',
         "guardrails[0]: option 'kinds': no kind of personal data is called 'ibn'; did you mean 'iban'?"),
        ('rule = "length"\naction = "redact"\noptions = {max_chars = 9}',
         "guardrails[0]: 'length' cannot redact; set `action` to one of `flag`, `ask`, `block`"),
    ],
)  # fmt: skip
def test_a_wrong_guardrail_is_said_by_the_check(tmp_path: Path, entry: str, mistake: str) -> None:
    assert mistakes(tmp_path, f"[[guardrails]]\n{entry}\n") == [f"agentmesh.toml: {mistake}"]


def test_every_wrong_guardrail_is_said_at_once(tmp_path: Path) -> None:
    toml = '[[guardrails]]\nrule = "a"\n[[guardrails]]\nrule = "secrets"\n[[guardrails]]\nrule = "words"\n'
    assert [text.partition(": ")[2].partition(":")[0] for text in mistakes(tmp_path, toml)] == [
        "guardrails[0].rule",
        "guardrails[2]",
    ]


def test_a_project_with_right_guardrails_has_no_mistake(tmp_path: Path) -> None:
    assert mistakes(tmp_path, '[[guardrails]]\nrule = "personal"\n[[guardrails]]\nrule = "checks:mine"\n') == []


def test_a_wrong_rule_stops_loading_too(tmp_path: Path) -> None:
    (tmp_path / "agentmesh.toml").write_text('[[guardrails]]\nrule = "secrets"\ntimeout_s = 61\n', encoding="utf-8")
    with pytest.raises(ProjectError, match="at most 60"):
        load_settings(tmp_path, environ={})
