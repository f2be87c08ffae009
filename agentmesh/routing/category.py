"""Two steps: what kind of task is it, and who is best on that kind. Composition of Experts' rule.

The best agent of a single task is noisy and hard to learn; the category of a text is easy, and the best agent of a
category is a mean over many tasks. It chooses one agent; where it is not sure of the category, a general agent works or
the user is asked.

Source: Composition of Experts (SambaNova), as told in second-hand accounts: a category router, then a fixed map from
category to expert chosen on a validation set; low confidence goes to a strong general expert. Our choices: categories
by nearest centroid, every card as a category of its own, and the map by mean quality less cost.
"""

import asyncio
from collections import OrderedDict
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import cast

import numpy as np
from numpy.typing import NDArray

from agentmesh.errors import ConfigError
from agentmesh.mistakes import shown
from agentmesh.models.base import Embedder
from agentmesh.routing.centroid import centroids_of
from agentmesh.routing.experience import (
    LEAST_SIMILARITY,
    Arm,
    Asked,
    CardTexts,
    Experience,
    ExperiencedRouter,
    Known,
    Recorded,
    number_option,
)
from agentmesh.routing.knn import willing
from agentmesh.routing.outcomes import MOST_ROWS, GivenOutcomes, OutcomeRow, outcome_table
from agentmesh.routing.standing import Judgement, Settled, Standing, shares
from agentmesh.types import AgentCard, Outcome

__all__ = ["CategoryRouter", "arms_of", "best_arm"]

Floats = NDArray[np.float32]

CENTROIDS = 16
"""Most centroids of a category."""
TEMPERATURE = 0.06
"""Difference of cosines at which the odds are e to 1."""
REMEMBERED = 4
"""Sets of cards whose categories are kept."""
FEW_ROWS = 2.0
"""Imagined outcomes of quality 0 beside those of an agent in a category: one success is no proof. Our choice."""


@dataclass(frozen=True)
class _Category:
    """A kind of task and whose it is."""

    name: str
    arm: Arm
    why: str
    centroids: Floats


def best_arm(
    recorded: Recorded, rows: NDArray[np.int64], allowed: Collection[Arm], pays: float
) -> tuple[Arm, str] | None:
    """The agent and variant that did best on some rows, and why; None if none of `allowed` worked on them.

    value = sum(quality) / (n + `FEW_ROWS`) - mean cost / `pays`, with `pays` in US$ for one point of quality.
    """
    found: list[tuple[float, Arm, str]] = []
    for arm in dict.fromkeys(cast(list[int], recorded.arm[rows].tolist())):
        if recorded.arms[arm] not in allowed:
            continue
        own = rows[recorded.arm[rows] == arm]
        quality, cost = float(recorded.quality[own].mean()), float(recorded.cost_usd[own].mean())
        value = float(recorded.quality[own].sum()) / (len(own) + FEW_ROWS) - cost / pays
        found.append((value, recorded.arms[arm], f"quality {quality:.2f} at US$ {cost:.3g} over {len(own)} outcomes"))
    if not found:
        return None
    _, best, why = max(found, key=lambda f: f[0])
    return best, why


@dataclass(frozen=True)
class _Made:
    """The categories for a set of cards."""

    texts: tuple[CardTexts, ...]
    categories: tuple[_Category, ...]
    total: int
    """`Recorded.total` of the outcomes."""


class CategoryRouter(ExperiencedRouter):
    """Finds the category of a text, then the agent that the category belongs to.

    Categories: those of `categories`, those of recorded outcomes, and every card's own, named like its agent. A
    category belongs to whom `agents` says; else to whoever did best on its recorded outcomes; else, if it is a card's
    own, to that card's agent. One that belongs to nobody here is passed over.

    Args:
        embedder: Makes the vectors.
        folder: What `outcomes` is relative to; the project's.
        outcomes: A file of JSON lines with the keys of `OutcomeRow`, or rows; `category` is the label.
        max_outcomes: Rows that are kept; the oldest go first.
        categories: Texts of each category.
        agents: Whose a category is: "agent", or "agent/variant".
        general: The agent that works where the category is not sure or nothing is near; absent: the user is asked, or
            it is out of scope.
        willingness_to_pay: US$ that a right answer in place of a useless one is worth; absent: cost does not count.
        margin: Two categories of different agents whose cosines are less than this apart are not sure.
        least_similarity: Least cosine to a category.

    Raises:
        ConfigError: If an option is wrong; `ProjectError` if the file is.
    """

    name = "category"

    def __init__(
        self,
        embedder: Embedder | None = None,
        *,
        folder: Path | None = None,
        outcomes: GivenOutcomes = None,
        max_outcomes: int = MOST_ROWS,
        categories: Mapping[str, Sequence[str]] | None = None,
        agents: Mapping[str, str] | None = None,
        general: str | None = None,
        willingness_to_pay: float | None = None,
        margin: float = 0.02,
        least_similarity: float = LEAST_SIMILARITY,
    ) -> None:
        number_option(self.name, "margin", margin, 0.0, 1.0)
        self._pays = willing(self.name, willingness_to_pay)
        self._labelled = _labelled(categories)
        self._agents = _mapped(agents)
        self._general, self._margin = general, margin
        table = outcome_table(outcomes, folder=folder, most=max_outcomes)
        self._given = table.dropped + len(table.rows)
        self._experience = Experience(self.name, embedder, table, least_similarity=least_similarity)
        self._least = least_similarity
        self._vectors: dict[str, Floats] | None = None
        self._centroids: dict[str, tuple[CardTexts | None, Floats]] = {}
        self._made: OrderedDict[tuple[int, ...], _Made] = OrderedDict()

    async def learn(self, outcome: Outcome) -> bool:
        """Take in a finished run; whether it says anything.

        Its text counts for the category that is nearest to it, in who does best there; it changes no category.
        Decisions meanwhile are made by what was known before.
        """
        rows = await self._experience.learn(outcome, self._labelled_row)
        if rows:
            recorded = await self._experience.recorded()
            for key, made in tuple(self._made.items()):
                newer = await asyncio.to_thread(self._make, made.texts, recorded)
                now = self._made.get(key)
                if now is not None and now.total <= newer.total:
                    self._made[key] = newer
        return bool(rows)

    async def _judge(self, known: Known, asked: Asked) -> Judgement:
        categories = await self._categories(known)
        cosines = [float((c.centroids @ asked.vector).max()) for c in categories]
        of_agent: dict[str, int] = {}
        for i, category in enumerate(categories):
            best = of_agent.setdefault(category.arm[0], i)
            if cosines[i] > cosines[best]:
                of_agent[category.arm[0]] = i
        standings: list[Standing] = []
        for place, texts in enumerate(known.texts):
            agent = texts.card.id
            if agent not in of_agent:
                standings.append(Standing(agent, -1.0, -1.0, "no category is its own"))
                continue
            best = of_agent[agent]
            found = categories[best]
            why = f"the category {found.name!r} ({cosines[best]:.2f}), {found.why}"
            signals = {"category": cosines[best]}
            standings.append(
                Standing(agent, cosines[best], cosines[best], why, float(asked.against[place]), found.arm[1], signals)
            )
        order = sorted(range(len(categories)), key=lambda i: -cosines[i])[:5]
        odds = shares([cosines[i] for i in order], TEMPERATURE)
        evidence = {
            "categories": {categories[i].name: round(cosines[i], 4) for i in order},
            "map": {categories[i].name: "/".join(p for p in categories[i].arm if p) for i in order},
            "general": self._general,
            "outcomes": len(known.recorded),
            "outcomes_dropped": known.recorded.dropped,
        }
        return Judgement(
            tuple(standings), TEMPERATURE, self._margin,
            settled=self._in_doubt(known, cosines, order, odds), evidence=evidence,
        )  # fmt: skip

    def _in_doubt(
        self, known: Known, cosines: Sequence[float], order: Sequence[int], odds: Sequence[float]
    ) -> Settled | None:
        """The general agent, for where the category is not sure."""
        general = next((t.card for t in known.texts if t.card.id == self._general and not t.card.shadow), None)
        if general is None:
            return None
        best = cosines[order[0]] if order else -1.0
        why = f"the general agent, since the nearest category has only {best:.2f}"
        if best >= self._least:
            why = "the general agent, since no category stands out"
        return Settled(general.id, why, None, 1.0 - odds[0] if odds else 0.0)

    async def _categories(self, known: Known) -> tuple[_Category, ...]:
        """The categories that belong to somebody here; made when the cards are new."""
        key = tuple(map(id, known.texts))
        found = self._made.get(key)
        if found is None:
            if self._vectors is None:
                texts = [text for some in self._labelled.values() for text in some]
                vectors = await self._experience.embed(texts)
                cuts = np.cumsum([len(some) for some in self._labelled.values()])[:-1]
                self._vectors = dict(zip(self._labelled, np.split(vectors, cuts), strict=True)) if texts else {}
            found = await asyncio.to_thread(self._make, known.texts, known.recorded)
            self._made[key] = found
        self._made.move_to_end(key)
        while len(self._made) > REMEMBERED:
            self._made.popitem(last=False)
        return found.categories

    def _make(self, texts: tuple[CardTexts, ...], recorded: Recorded) -> _Made:
        by_name = {t.card.id: t for t in texts}
        rows_of: dict[str, list[int]] = {}
        for place, row in enumerate(recorded.rows):
            if row.category:
                rows_of.setdefault(row.category, []).append(place)
        labelled = self._vectors or {}
        cards = {t.card.id: t.card for t in texts}
        able = frozenset(arm for card in cards.values() for arm in arms_of(card))
        found: list[_Category] = []
        for name in dict.fromkeys((*by_name, *labelled, *rows_of, *self._agents)):
            rows = np.array(rows_of.get(name, []), np.int64)
            owner = _owner(name, rows, recorded, able, self._agents, self._pays)
            # Rows that were labelled here say who does well in a category, not what it is.
            given = rows[rows + recorded.dropped < self._given]
            centroids = self._centroids_of(name, by_name.get(name), recorded, given)
            if owner is not None and len(centroids):
                found.append(_Category(name, *owner, centroids))
        return _Made(texts, tuple(found), recorded.total)

    def _centroids_of(self, name: str, texts: CardTexts | None, recorded: Recorded, rows: NDArray[np.int64]) -> Floats:
        """Those of a category; worked out again if the card of its name is another."""
        kept = self._centroids.get(name)
        if kept is None or kept[0] is not texts:
            _, first = np.unique(recorded.codes[rows], return_index=True)
            vectors = [recorded.vectors[rows[np.sort(first)]]]
            vectors += [texts.wins] if texts is not None else []
            vectors += [self._vectors[name]] if self._vectors and name in self._vectors else []
            kept = (texts, centroids_of(np.concatenate(vectors), CENTROIDS))
            self._centroids[name] = kept
        return kept[1]

    def _labelled_row(self, row: OutcomeRow, vector: Floats) -> OutcomeRow:
        """A row with the nearest category that is known now."""
        known = next(reversed(self._made.values()), None)
        if known is None or not known.categories:
            return row
        nearest = max(known.categories, key=lambda c: float((c.centroids @ vector).max()))
        return row.model_copy(update={"category": nearest.name})


def _owner(
    name: str,
    rows: NDArray[np.int64],
    recorded: Recorded,
    able: frozenset[Arm],
    given: Mapping[str, Arm],
    pays: float,
) -> tuple[Arm, str] | None:
    """Whose a category is, and why; None: nobody's here."""
    if (arm := given.get(name)) is not None:
        return (arm, "given to it by the settings") if arm in able else None
    best = best_arm(recorded, rows, able, pays)
    if best is not None:
        return best
    return ((name, None), "its own") if (name, None) in able else None


def arms_of(card: AgentCard) -> tuple[Arm, ...]:
    """What may be chosen of a card: the agent as it is, and its variants."""
    return ((card.id, None), *((card.id, variant) for variant in card.variants))


def _labelled(given: Mapping[str, object] | None) -> dict[str, list[str]]:
    """The option `categories`, checked."""
    found: dict[str, list[str]] = {}
    for name, listed in (given or {}).items():
        texts = list(cast(Sequence[object], listed)) if isinstance(listed, list | tuple) else []
        if not texts:
            said = f"the option categories.{name} of the router 'category' is {shown(cast(object, listed))}"
            raise ConfigError(f"{said}; list some texts")
        found[name] = [str(text) for text in texts]
    return found


def _mapped(given: Mapping[str, object] | None) -> dict[str, Arm]:
    """The option `agents`, checked: "agent/variant" in two."""
    found: dict[str, Arm] = {}
    for name, said in (given or {}).items():
        if not isinstance(said, str) or not said:
            raise ConfigError(
                f"the option agents.{name} of the router 'category' is {shown(said)}; give an agent, or agent/variant"
            )
        agent, _, variant = said.partition("/")
        found[name] = (agent, variant or None)
    return found
