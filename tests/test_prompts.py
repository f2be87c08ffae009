"""Prompts are files with marks; a missing or an unused value is a mistake, and values are never read as templates."""

import pytest

from agentmesh.errors import ConfigError, UnknownNameError
from agentmesh.prompts import MARK, render, template_names
from agentmesh.prompts import _template as template  # pyright: ignore[reportPrivateUsage]


def test_every_template_that_ships_has_text() -> None:
    assert {"expert", "expert-ask", "refiner"} <= set(template_names())
    assert all(template(name).strip() for name in template_names())


def test_values_take_the_place_of_their_marks() -> None:
    text = render("expert-small-ask", memory="the notes", part="why?")
    assert "the notes" in text
    assert "why?" in text
    assert not MARK.search(text)


def test_a_missing_value_is_a_mistake() -> None:
    with pytest.raises(ConfigError, match="prompt 'expert-small-ask' needs a value for memory"):
        render("expert-small-ask", part="why?")


def test_an_unused_value_is_a_mistake() -> None:
    with pytest.raises(ConfigError, match="prompt 'expert-small-ask' has no mark for tone"):
        render("expert-small-ask", part="why?", memory="", tone="kind")


def test_a_mark_inside_a_value_stays_as_it_is() -> None:
    assert "{{part}}" in render("expert-small-ask", memory="{{part}}", part="why?")


def test_an_unknown_template_says_the_nearest() -> None:
    with pytest.raises(UnknownNameError, match="did you mean 'expert'"):
        render("exprt")
