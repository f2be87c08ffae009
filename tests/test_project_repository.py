"""The repository is itself a project, and a correct one."""

from pathlib import Path

from agentmesh.project import KnownNames, check_project, load_project

REPOSITORY = Path(__file__).resolve().parents[1]


def test_the_repository_is_a_project_without_mistakes() -> None:
    known = KnownNames(
        routers=["semantic", "keyword", "random", "fixed"],
        context_routers=["role_aware", "full", "recent", "none"],
        refiners=["auto", "extractive", "model"],
        embedders=["wordllama", "minilm"],
    )
    assert [str(m) for m in check_project(REPOSITORY, known=known)] == []


def test_the_helpdesk_has_its_agents_roles_tasks_and_knowledge() -> None:
    project = load_project(REPOSITORY)
    assert len(project.scenarios["helpdesk"].agents) == 12
    assert all(card.role in project.roles and card.examples and card.instructions for card in project.cards)
    tasks = project.scenarios["helpdesk"].tasks
    assert len(tasks) >= 30
    outcomes = {task.expect.outcome for task in tasks if task.expect}
    assert outcomes == {"answered", "clarify", "out_of_scope"}
    assert [folder.relative_to(REPOSITORY).as_posix() for folder in project.knowledge] == ["memory/knowledge"]
