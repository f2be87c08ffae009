"""What routers are compared with in `bench routing`: chance, centroids, TF-IDF, trained classifiers, the last turn."""

import asyncio
from collections.abc import Sequence
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray

from agentmesh.errors import ConfigError
from agentmesh.evaluation.datasets import Sample
from agentmesh.evaluation.routing_exam import Answers, Exam, Measure, Pick
from agentmesh.models.base import Embedder
from agentmesh.routing import routers
from agentmesh.run import loose_context
from agentmesh.types import AgentCard

__all__ = ["BASELINES", "TfidfIndex", "carry_over", "misfit", "nearest_centroids", "tfidf", "tfidf_lr", "tfidf_lr_all"]

INVERSE_PENALTY = 10.0
"""`C` of the logistic regression. Our choice; not tuned."""
LEAST_CHANCE = 0.5
"""Probability from which a classifier names an agent, where rows may need several."""

Floats = NDArray[np.floating[Any]]


def misfit(policy: str, exam: Exam) -> str:
    """Why this policy has nothing to say about this exam; empty if it has."""
    if policy in ("tfidf_lr", "tfidf_lr_all"):
        if exam.measure is Measure.NONE:
            return "a classifier has the same agents in every row"
        if not exam.train and policy == "tfidf_lr":
            return "there is nothing to learn from"
    if policy == "carry_over" and not any(sample.history for sample in exam.test):
        return "no row has a turn before it"
    if policy == "reasoning" and exam.measure not in (Measure.FIRST, Measure.SET):
        return "its numbers are about one list of agents and rows that have a right one"
    if policy == "random" and exam.measure is Measure.NONE:
        return "chance knows nothing of nobody"
    return ""


async def by_chance(exam: Exam, embedder: Embedder) -> list[Pick]:
    """One of the candidates by seed 0."""
    router = routers.create("random", seed=0)
    ctx = loose_context()
    picks: list[Pick] = []
    for sample in exam.test:
        decision = await router.route(exam.request(sample), ctx)
        ranked = (*decision.agents, *(c.agent for c in decision.candidates if not c.chosen))
        picks.append(Pick(decision.agents, ranked))
    return picks


async def nearest_centroids(exam: Exam, embedder: Embedder) -> list[Pick]:
    """The agent whose mean example is nearest in the embedder's space; its description where it has no examples."""
    cards = _all_cards(exam)
    texts = [list(card.examples) or [card.description] for card in cards]
    vectors = await embedder.embed([text for own in texts for text in own])
    starts = np.cumsum([0, *(len(own) for own in texts[:-1])])
    means = np.add.reduceat(vectors, starts, axis=0)
    means /= np.maximum(np.linalg.norm(means, axis=1, keepdims=True), 1e-12)
    near = await embedder.embed([sample.text for sample in exam.test]) @ means.T
    return _nearest(exam, cards, near)


async def tfidf(exam: Exam, embedder: Embedder) -> list[Pick]:
    """The agent whose description and instructions are nearest by TF-IDF of words and letters; no example is read."""
    return await asyncio.to_thread(_nearest_text, exam)


def _nearest_text(exam: Exam) -> list[Pick]:
    cards = _all_cards(exam)
    near = TfidfIndex([_said(card) for card in cards]).near([sample.text for sample in exam.test])
    return _nearest(exam, cards, near)


async def carry_over(exam: Exam, embedder: Embedder) -> list[Pick]:
    """The agents of the last turn of the assistant; where there is none, the nearest centroid."""
    picks: list[Pick] = []
    for sample, fresh in zip(exam.test, await nearest_centroids(exam, embedder), strict=True):
        last = next((turn.agents for turn in reversed(sample.history) if turn.role == "assistant"), ())
        rest = tuple(agent for agent in fresh.ranked if agent not in last)
        picks.append(Pick(last, (*last, *rest)) if last else fresh)
    return picks


async def tfidf_lr(exam: Exam, embedder: Embedder) -> list[Pick]:
    """Logistic regression over TF-IDF of words and pairs of words; one against the rest where rows need several."""
    return await asyncio.to_thread(_learn_and_ask, exam, exam.train, everything=False)


async def tfidf_lr_all(exam: Exam, embedder: Embedder) -> list[Pick]:
    """`tfidf_lr` with everything that there is to read, not only the row's text.

    Beside the text, the assistant's last turn and the agents that worked on it are features of their own; and the
    description and instructions of every card are a further train row of it. Our reading of the name.
    """
    described = tuple(Sample(_said(card), (card.id,)) for card in exam.cards)
    return await asyncio.to_thread(_learn_and_ask, exam, (*exam.train, *described), everything=True)


def _learn_and_ask(exam: Exam, train: Sequence[Sample], *, everything: bool) -> list[Pick]:
    try:
        import sklearn.linear_model as models
    except ImportError as error:
        raise ConfigError("the policy tfidf_lr needs scikit-learn: pip install 'agentmesh[bench]'") from error
    ids = [card.id for card in exam.cards]
    places = {id_: place for place, id_ in enumerate(ids)}
    learned = [s for s in train if exam.several or s.agents]
    table, asked = _features(learned, exam.test, everything=everything)
    right = np.zeros((len(learned), len(ids)), np.int64)
    for row, sample in enumerate(learned):
        right[row, [places[agent] for agent in sample.agents]] = 1
    chance = np.zeros((len(exam.test), len(ids)))
    # One model for each agent against the rest serves rows with one agent and rows with several alike.
    for place in range(len(ids)):
        if 0 < right[:, place].sum() < len(learned):
            # The dual problem has the same answer as the primal and takes a tenth of the time on sparse rows.
            model: Any = cast(Any, models).LogisticRegression(
                C=INVERSE_PENALTY, solver="liblinear", dual=True, tol=0.01, random_state=0
            )
            chance[:, place] = model.fit(table, right[:, place]).predict_proba(asked)[:, 1]
        else:
            chance[:, place] = float(right[:, place].mean())
    if not exam.several:
        chance /= np.maximum(chance.sum(axis=1, keepdims=True), 1e-12)
    order = np.argsort(-chance, axis=1, kind="stable")
    picks: list[Pick] = []
    for row, ranking in enumerate(cast(list[list[int]], order.tolist())):
        ranked = tuple(ids[place] for place in ranking)
        kept = min(int((chance[row] >= LEAST_CHANCE).sum()), exam.max_agents) if exam.several else 1
        best = float(chance[row].max())
        picks.append(Pick(ranked[:kept], ranked, chance=best, none=-best))
    return picks


def _features(learned: Sequence[Sample], asked: Sequence[Sample], *, everything: bool) -> tuple[Any, Any]:
    """The sparse rows of what is learned from and of what is asked."""
    import scipy.sparse as sparse
    import sklearn.feature_extraction.text as features

    words: Any = cast(Any, features).TfidfVectorizer(ngram_range=(1, 2), sublinear_tf=True)
    left, right = [words.fit_transform([s.text for s in learned])], [words.transform([s.text for s in asked])]
    if everything and any(sample.history for sample in learned):
        before: Any = cast(Any, features).TfidfVectorizer(ngram_range=(1, 2), sublinear_tf=True)
        left.append(before.fit_transform([_last(s)[0] for s in learned]))
        right.append(before.transform([_last(s)[0] for s in asked]))
        agents: Any = cast(Any, features).CountVectorizer(analyzer=list)
        left.append(agents.fit_transform([_last(s)[1] for s in learned]))
        right.append(agents.transform([_last(s)[1] for s in asked]))
    return cast(Any, sparse).hstack(left, format="csr"), cast(Any, sparse).hstack(right, format="csr")


def _last(sample: Sample) -> tuple[str, tuple[str, ...]]:
    """The assistant's last turn: what it said and who worked on it."""
    turn = next((turn for turn in reversed(sample.history) if turn.role == "assistant"), None)
    return (turn.text, turn.agents) if turn else ("", ())


class TfidfIndex:
    """Texts by TF-IDF over words and pairs of words, and over three to five letters of a word, each counting half.

    Raises:
        ConfigError: If scikit-learn is not installed.
    """

    def __init__(self, texts: Sequence[str]) -> None:
        try:
            import sklearn.feature_extraction.text as features
        except ImportError as error:
            raise ConfigError("the policy tfidf needs scikit-learn: pip install 'agentmesh[bench]'") from error
        made: Any = cast(Any, features).TfidfVectorizer
        self._forms: tuple[Any, ...] = (
            made(ngram_range=(1, 2), sublinear_tf=True),
            made(analyzer="char_wb", ngram_range=(3, 5), sublinear_tf=True),
        )
        self._tables: tuple[Any, ...] = tuple(form.fit_transform(texts).T.tocsr() for form in self._forms)

    def near(self, asked: Sequence[str]) -> Floats:
        """The cosine of every asked text to every text of the index, 0 to 1, shape (asked, texts)."""
        words, letters = (form.transform(asked) @ table for form, table in zip(self._forms, self._tables, strict=True))
        return np.asarray((words + letters).toarray(), np.float64) / 2.0


def _said(card: AgentCard) -> str:
    """What a card says without examples."""
    return f"{card.description}\n{card.instructions}".strip()


def _all_cards(exam: Exam) -> tuple[AgentCard, ...]:
    """Every card of the exam once, those of single rows too."""
    own = (card for sample in exam.test for card in sample.cards)
    return tuple({id(card): card for card in (*exam.cards, *own)}.values())


def _nearest(exam: Exam, cards: Sequence[AgentCard], near: Floats) -> list[Pick]:
    """Each row's candidates by nearness.

    Args:
        exam: Whose rows are asked.
        cards: The columns.
        near: Higher is nearer, shape (rows, columns).
    """
    places = {id(card): place for place, card in enumerate(cards)}
    picks: list[Pick] = []
    for row, sample in zip(near, exam.test, strict=True):
        own = exam.cards_for(sample)
        values = row[[places[id(card)] for card in own]]
        ranked = tuple(own[place].id for place in cast(list[int], np.argsort(-values, kind="stable").tolist()))
        picks.append(Pick(ranked[:1], ranked, none=-float(values.max())))
    return picks


BASELINES: dict[str, Answers] = {
    "random": by_chance,
    "nearest_centroid": nearest_centroids,
    "tfidf": tfidf,
    "carry_over": carry_over,
    "tfidf_lr": tfidf_lr,
    "tfidf_lr_all": tfidf_lr_all,
}
