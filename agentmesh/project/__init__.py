"""The files of a mesh project: their formats, and the loader that reports every mistake at once."""

from agentmesh.mistakes import Mistake
from agentmesh.project.loader import KnownNames, Project, check_project, find_project, load_project
from agentmesh.project.schema import Expectation, Scenario, ScenarioTask, json_schemas

__all__ = [
    "Expectation",
    "KnownNames",
    "Mistake",
    "Project",
    "Scenario",
    "ScenarioTask",
    "check_project",
    "find_project",
    "json_schemas",
    "load_project",
]
