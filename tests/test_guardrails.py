"""Running guardrails: what becomes of a text, what the trace says, and what a guardrail that misbehaves can do."""

import asyncio
import threading
from collections.abc import Coroutine, Iterator
from functools import partial
from typing import Any, cast

import pytest

from agentmesh.errors import ConfigError, MeshError, UnknownNameError
from agentmesh.guardrails import (
    PASSED,
    Action,
    BoundedGuardrail,
    Checked,
    FunctionGuardrail,
    Guardrail,
    Verdict,
    Where,
    check_guardrail,
    guard_answer,
    guard_drafts,
    guardrails,
    open_guardrails,
    run_guardrails,
)
from agentmesh.memory.writer import Draft
from agentmesh.run import RunContext, loose_context
from agentmesh.settings import GuardrailSettings
from agentmesh.trace.events import Event, GuardrailTripped
from agentmesh.types import (
    AgentReply,
    Answer,
    AnswerStatus,
    CitedSentence,
    Conflict,
    Contributor,
    MemoryKind,
    ReplyStatus,
    Side,
)

ALL = frozenset(Where)
SECRET_TEXT = "the launch code is ultramarine-7741-walrus"


class Recorder:
    """Keeps events."""

    def __init__(self) -> None:
        self.events: list[Event] = []

    def emit(self, event: Event) -> None:
        self.events.append(event)


@pytest.fixture
def recorder() -> Recorder:
    return Recorder()


@pytest.fixture
def ctx(recorder: Recorder) -> RunContext:
    return loose_context(sink=recorder)


@pytest.fixture
def gate() -> Iterator[threading.Event]:
    """Holds a thread until the test is over."""
    event = threading.Event()
    yield event
    event.set()


class Says:
    """A guardrail with one verdict; remembers what it read."""

    def __init__(self, name: str, said: object, where: frozenset[Where] = ALL) -> None:
        self.name, self.where, self.said = name, where, said
        self.read: list[str] = []

    async def check(self, text: str, ctx: RunContext) -> Verdict:
        self.read.append(text)
        if isinstance(self.said, BaseException):
            raise self.said
        return cast("Verdict", self.said)


class Replaces:
    """Redacts one word."""

    where = ALL

    def __init__(self, old: str, new: str) -> None:
        self.name, self.old, self.new = f"no_{old}", old, new

    async def check(self, text: str, ctx: RunContext) -> Verdict:
        if self.old not in text:
            return PASSED
        return Verdict(
            action=Action.REDACT,
            reason="a word was taken out",
            text=text.replace(self.old, self.new),
            found=text.count(self.old),
        )


def verdict(action: str, reason: str = "it has one") -> Verdict:
    return Verdict(action=Action(action), reason=reason)


def tripped(recorder: Recorder) -> list[tuple[str, str, str, str, int]]:
    return [
        (e.guardrail, e.where, e.action, e.reason, e.found) for e in recorder.events if isinstance(e, GuardrailTripped)
    ]


# --- what becomes of a text -------------------------------------------------------------------------------------------


async def test_without_guardrails_every_text_passes(ctx: RunContext, recorder: Recorder) -> None:
    assert await run_guardrails([], "input", "", ctx) == Checked(text="")
    assert await run_guardrails([Says("a", PASSED)], "input", "ünï\ud800\x00", ctx) == Checked(text="ünï\ud800\x00")
    assert recorder.events == []


@pytest.mark.parametrize(
    ("actions", "strongest"),
    [
        (["pass", "flag"], "flag"),
        (["flag", "redact", "pass"], "redact"),
        (["ask", "redact", "flag"], "ask"),
        (["flag", "block", "ask"], "block"),
        (["block", "pass"], "block"),
    ],
)
async def test_the_strongest_action_holds(ctx: RunContext, actions: list[str], strongest: str) -> None:
    guards = [Replaces("x", "-") if action == "redact" else Says(action, verdict(action)) for action in actions]
    checked = await run_guardrails(guards, "output", "axb", ctx)
    assert checked.action == strongest
    assert checked.text == ("" if strongest == "block" else "a-b" if "redact" in actions else "axb")
    assert [f.action for f in checked.findings] == [a for a in actions if a != "pass"]


async def test_redactions_chain_and_each_reads_what_the_one_before_left(ctx: RunContext) -> None:
    last = Says("last", PASSED)
    checked = await run_guardrails([Replaces("one", "two"), Replaces("two", "three"), last], "memory", "one two", ctx)
    assert checked.text == "three three"
    assert last.read == ["three three"]
    assert [f.found for f in checked.findings] == [1, 2]


async def test_all_are_asked_even_after_one_has_blocked(ctx: RunContext) -> None:
    after = Says("after", verdict("flag", "later"))
    checked = await run_guardrails([Says("first", verdict("block", "sooner")), after], "input", "text", ctx)
    assert after.read == ["text"]
    assert [f.reason for f in checked.findings] == ["sooner", "later"]
    assert checked.reason == "sooner"


async def test_only_those_that_look_there_are_asked(ctx: RunContext) -> None:
    elsewhere = Says("elsewhere", verdict("block"), frozenset({Where.OUTPUT}))
    assert (await run_guardrails([elsewhere], "input", "text", ctx)).action is Action.PASS
    assert elsewhere.read == []


async def test_nobody_is_asked_in_the_middle_of_a_write(ctx: RunContext) -> None:
    checked = await run_guardrails([Says("a", verdict("ask", "odd"))], "memory", "text", ctx)
    assert checked.action is Action.BLOCK
    assert "nobody can be asked" in checked.reason


async def test_an_event_says_who_found_what_where(ctx: RunContext, recorder: Recorder) -> None:
    step = ctx.at(step="route.r1")
    await run_guardrails(
        [Says("a", Verdict(action=Action.FLAG, reason="odd", found=3))], "output", "t", step, agent="x"
    )
    (event,) = recorder.events
    assert isinstance(event, GuardrailTripped)
    assert event.agent == "x"
    assert event.step == "route.r1"
    assert tripped(recorder) == [("a", "output", "flag", "odd", 3)]


# --- guardrails that misbehave ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("said", "why"),
    [
        (ValueError(SECRET_TEXT), "it raised ValueError"),
        (MeshError("the list is missing; write words.txt"), "the list is missing; write words.txt"),
        (MeshError(f"cannot judge {SECRET_TEXT!r}"), "gave a reason that quotes the text and is not repeated here"),
        (asyncio.CancelledError(), "it was cancelled"),
        (TimeoutError(), "it raised TimeoutError"),
        (None, "it returned NoneType; return a Verdict"),
        ("block", "it returned str; return a Verdict"),
        (Verdict(action=Action.REDACT), "it says `redact` and gives no text; give the text as it may go on"),
    ],
)
async def test_a_guardrail_that_fails_blocks_and_says_so(
    ctx: RunContext, recorder: Recorder, said: object, why: str
) -> None:
    checked = await run_guardrails([Says("mine", said)], "input", SECRET_TEXT, ctx)
    assert (checked.action, checked.text) == (Action.BLOCK, "")
    assert tripped(recorder) == [("mine", "input", "block", f"'mine' could not check the text: {why}", 0)]


async def test_a_guardrail_that_fails_only_flags_where_that_is_said(ctx: RunContext) -> None:
    guard = BoundedGuardrail(Says("mine", ValueError()), on_error="flag")
    checked = await run_guardrails([guard], "input", "text", ctx)
    assert (checked.action, checked.text) == (Action.FLAG, "text")


async def test_a_check_that_is_not_async_is_named(ctx: RunContext) -> None:
    class Sync:
        name, where = "sync", ALL

        def check(self, text: str, ctx: RunContext) -> Verdict:
            return PASSED

    checked = await run_guardrails([cast("Guardrail", Sync())], "input", "text", ctx)
    assert checked.reason == "'sync' could not check the text: its `check` returned Verdict; make it an async function"


async def test_a_guardrail_that_hangs_is_left_behind_even_if_it_will_not_be_cancelled(ctx: RunContext) -> None:
    over = asyncio.Event()

    class Hangs:
        name, where = "hangs", ALL

        async def check(self, text: str, ctx: RunContext) -> Verdict:
            while not over.is_set():
                try:
                    await over.wait()
                except asyncio.CancelledError:
                    continue
            return PASSED

    guard = BoundedGuardrail(Hangs(), timeout_s=0.01)
    async with asyncio.timeout(5):
        checked = await run_guardrails([guard], "output", "text", ctx)
    over.set()
    assert checked.action is Action.BLOCK
    assert checked.reason == "'hangs' could not check the text: it was not done after 0.01 s; raise its `timeout_s`"


async def test_cancelling_the_run_cancels_the_check(ctx: RunContext) -> None:
    begun, ended = asyncio.Event(), asyncio.Event()

    class Waits:
        name, where = "waits", ALL

        async def check(self, text: str, ctx: RunContext) -> Verdict:
            begun.set()
            try:
                return await asyncio.Future[Verdict]()
            finally:
                ended.set()

    task = asyncio.create_task(run_guardrails([Waits()], "input", "text", ctx))
    await begun.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    async with asyncio.timeout(5):
        await ended.wait()


async def test_a_run_without_time_left_is_still_checked(ctx: RunContext) -> None:
    late = ctx.at(deadline=ctx.clock.monotonic() - 1)
    assert late.seconds_left() == 0
    assert (await run_guardrails([Replaces("x", "-")], "output", "x", late)).text == "-"


# --- reasons never hold the text --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "reason",
    [
        f"found: {SECRET_TEXT}",
        "it said THE LAUNCH\nCODE is somewhere",
        "names ultramarine-7741-walrus",
        "(ultramarine-7741-walrus).",
    ],
)
async def test_a_reason_that_quotes_the_text_is_not_repeated(ctx: RunContext, recorder: Recorder, reason: str) -> None:
    checked = await run_guardrails([Says("a", verdict("flag", reason))], "output", SECRET_TEXT, ctx)
    assert checked.reason == "gave a reason that quotes the text and is not repeated here"
    assert "walrus" not in str(recorder.events)
    assert "LAUNCH" not in str(recorder.events)


async def test_a_reason_in_words_stands_as_it_is_and_a_long_one_is_cut(ctx: RunContext) -> None:
    said = [Says("a", verdict("flag", "talks of a\n launch")), Says("b", verdict("flag", "w " * 300))]
    short, long = (await run_guardrails([*said, Says("c", verdict("flag", ""))], "input", SECRET_TEXT, ctx)).findings[
        :2
    ]
    assert short.reason == "talks of a launch"
    assert len(long.reason) == 200
    assert long.reason.endswith("…")


async def test_a_finding_without_a_reason_says_that(ctx: RunContext) -> None:
    assert (await run_guardrails([Says("c", verdict("flag", ""))], "input", "t", ctx)).reason == "gave no reason"


# --- functions --------------------------------------------------------------------------------------------------------


def ends_well(text: str) -> bool:
    return text.endswith(".")


def no_prices(text: str) -> str | None:
    return "names a price" if "€" in text else None


async def no_prices_async(text: str, ctx: RunContext) -> str | None:
    await asyncio.sleep(0)
    return f"names a price in run {ctx.run_id}" if "€" in text else None


def gives_a_coroutine(text: str) -> Coroutine[Any, Any, str | None]:
    return no_prices_async(text, loose_context())


def must_hold(text: str, mark: str) -> str | None:
    return None if mark in text else "lacks its mark"


def takes_three(a: str, b: str, c: str) -> bool:
    return True


def takes_prices_out(text: str) -> Verdict:
    return Verdict(action=Action.REDACT, reason="names a price", text=text.replace("€", "[price]"))


@pytest.mark.parametrize(
    ("function", "text", "wanted"),
    [
        (ends_well, "Yes.", PASSED),
        (ends_well, "Yes", Verdict(action=Action.BLOCK, reason="'ends_well' did not let it pass")),
        (ends_well, "", Verdict(action=Action.BLOCK, reason="'ends_well' did not let it pass")),
        (no_prices, "5 EUR", PASSED),
        (no_prices, "5 €", Verdict(action=Action.BLOCK, reason="names a price")),
        (no_prices_async, "5 €", Verdict(action=Action.BLOCK, reason="names a price in run loose")),
        (takes_prices_out, "5 €", Verdict(action=Action.REDACT, reason="names a price", text="5 [price]")),
        (gives_a_coroutine, "5", PASSED),
        (partial(must_hold, mark="!"), "a!", PASSED),
        (partial(must_hold, mark="!"), "a", Verdict(action=Action.BLOCK, reason="lacks its mark")),
    ],
)
async def test_a_function_says_what_becomes_of_a_text(
    ctx: RunContext, function: Any, text: str, wanted: Verdict
) -> None:
    assert await FunctionGuardrail(function).check(text, ctx) == wanted


async def test_a_function_flags_or_asks_where_that_is_said(ctx: RunContext) -> None:
    assert (await FunctionGuardrail(no_prices, action="flag").check("€", ctx)).action is Action.FLAG
    assert (await FunctionGuardrail(no_prices, action="ask").check("€", ctx)).action is Action.ASK


@pytest.mark.parametrize(
    ("returned", "what"), [(1, "int"), ("", "an empty text"), (" \n", "an empty text"), ([], "list"), (b"x", "bytes")]
)
async def test_a_function_that_returns_nonsense_blocks(ctx: RunContext, returned: object, what: str) -> None:
    def judge(text: str) -> Any:
        return returned

    checked = await run_guardrails(open_guardrails([], [judge]), "input", "text", ctx)
    assert checked.action is Action.BLOCK
    assert checked.reason == (
        f"'judge' could not check the text: it returned {what}; return True, False, None, a reason or a Verdict"
    )


@pytest.mark.parametrize("error", [ValueError(SECRET_TEXT), StopIteration(SECRET_TEXT), SystemExit(SECRET_TEXT)])
async def test_a_function_that_raises_blocks_and_its_words_stay_out(
    ctx: RunContext, recorder: Recorder, error: BaseException
) -> None:
    def judge(text: str) -> bool:
        raise error

    assert (await run_guardrails(open_guardrails([], [judge]), "output", SECRET_TEXT, ctx)).action is Action.BLOCK
    assert "walrus" not in str(recorder.events)


async def test_a_function_that_hangs_does_not_hold_the_loop(ctx: RunContext, gate: threading.Event) -> None:
    def hangs(text: str) -> bool:
        return gate.wait()

    guard = BoundedGuardrail(FunctionGuardrail(hangs), timeout_s=0.01)
    async with asyncio.timeout(5):
        checked = await run_guardrails([guard], "input", "text", ctx)
    assert checked.action is Action.BLOCK
    assert "it was not done after 0.01 s" in checked.reason


async def test_a_function_that_always_hangs_does_not_pile_up_threads(
    ctx: RunContext, gate: threading.Event, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("agentmesh.guardrails.functions.MOST_THREADS", 2)

    def hangs(text: str) -> bool:
        return gate.wait()

    guard = BoundedGuardrail(FunctionGuardrail(hangs), timeout_s=0.01)
    reasons = [(await run_guardrails([guard], "input", "text", ctx)).reason for _ in range(3)]
    assert "not done after" in reasons[1]
    assert "2 earlier calls of it have not come back" in reasons[2]


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: FunctionGuardrail(no_prices, action="redact"), "cannot redact by itself; let it return Verdict"),
        (lambda: FunctionGuardrail(no_prices, action="blok"), "did you mean 'block'?"),
        (lambda: FunctionGuardrail(no_prices, where="outptu"), "did you mean 'output'?"),
        (lambda: FunctionGuardrail(no_prices, where=[]), "must look somewhere"),
        (lambda: FunctionGuardrail(no_prices, where="memory", action="ask"), "nobody can be asked"),
        (lambda: FunctionGuardrail(lambda: True), "cannot be called with a text alone"),
        (lambda: FunctionGuardrail(takes_three), "take the text, or the text and ctx"),
        (lambda: open_guardrails([], [Replaces]), "Replaces is a class; give an object of it: `Replaces()`"),
        (lambda: open_guardrails([], [cast("Any", 7)]), "int is no guardrail"),
    ],
)
def test_a_guardrail_that_cannot_work_is_refused_when_it_is_made(make: Any, message: str) -> None:
    with pytest.raises(ConfigError, match=message.replace("(", r"\(").replace(")", r"\)").replace("?", r"\?")):
        make()


# --- drafts and answers -----------------------------------------------------------------------------------------------


async def test_blocked_drafts_are_left_out_and_redacted_ones_are_changed(ctx: RunContext, recorder: Recorder) -> None:
    drafts = [
        Draft(text="plain", key="a"),
        Draft(text="a secret", key="b", author="billing", kind=MemoryKind.ANSWER),
        Draft(text="never", key="c"),
    ]

    def never(text: str) -> bool:
        return text != "never"

    guards = [Replaces("secret", "-"), FunctionGuardrail(never, where="memory")]
    kept = await guard_drafts(guards, drafts, ctx)
    assert kept == [drafts[0], drafts[1].model_copy(update={"text": "a -"})]
    assert [e.agent for e in recorder.events if isinstance(e, GuardrailTripped)] == ["billing", ""]
    assert await guard_drafts([FunctionGuardrail(never)], drafts, ctx) == drafts


ANSWER = Answer(
    run_id="r",
    status=AnswerStatus.ANSWERED,
    text="Say xyzzy to enter.",
    sentences=(CitedSentence(text="Say xyzzy to enter.", items=("xyzzy",), source="door.md"),),
    conflicts=(Conflict(kind="statement", about="xyzzy", sides=(Side(agent="xyzzy", text="xyzzy", value="xyzzy"),)),),
    contributors=(Contributor(agent="xyzzy", status=ReplyStatus.ANSWERED, note="said xyzzy"),),
    replies=(
        AgentReply(
            call_id="c", agent="xyzzy", status=ReplyStatus.ANSWERED, text="xyzzy", structured={"code": ["xyzzy", 7]}
        ),
    ),
)


async def test_a_redacted_answer_is_redacted_in_all_its_parts_but_not_in_names(
    ctx: RunContext, recorder: Recorder
) -> None:
    answer, checked = await guard_answer([Replaces("xyzzy", "-")], ANSWER, ctx)
    assert checked.action is Action.REDACT
    assert answer.text == "Say - to enter."
    assert answer.sentences == (CitedSentence(text="Say - to enter.", items=("xyzzy",), source="door.md"),)
    assert answer.conflicts[0].about == "-"
    assert answer.conflicts[0].sides == (Side(agent="xyzzy", text="-", value="-"),)
    assert (answer.contributors[0].agent, answer.contributors[0].note) == ("xyzzy", "said -")
    assert (answer.replies[0].text, answer.replies[0].structured) == ("-", {"code": ["-", 7]})
    assert answer.status is AnswerStatus.ANSWERED
    assert len(recorder.events) == 1


async def test_a_blocked_answer_shows_nothing_of_it(ctx: RunContext) -> None:
    answer, checked = await guard_answer([Says("mine", verdict("block", "odd"))], ANSWER, ctx)
    assert checked.action is Action.BLOCK
    assert answer.status is AnswerStatus.BLOCKED
    assert answer.text == "The answer is not shown (mine: odd)."
    assert "xyzzy" not in answer.model_dump_json(exclude={"contributors": {0: {"agent"}}})


async def test_an_answer_that_passes_is_the_same(ctx: RunContext) -> None:
    guards = [Replaces("absent", "-"), Says("a", verdict("flag"))]
    answer, checked = await guard_answer(guards, ANSWER, ctx)
    assert answer is ANSWER
    assert checked.action is Action.FLAG


# --- from settings ----------------------------------------------------------------------------------------------------


class Shouts:
    """A class that settings name."""

    name = "shouts"

    def __init__(self, *, mark: str = "!", where: tuple[str, ...] = ("input",)) -> None:
        self.mark, self.where = mark, frozenset(Where(w) for w in where)

    async def check(self, text: str, ctx: RunContext) -> Verdict:
        return verdict("flag", "is loud") if self.mark in text else PASSED


ready_made = Shouts(mark="?")
not_a_guardrail = 7


def settings(rule: str, **said: Any) -> GuardrailSettings:
    return GuardrailSettings.model_validate({"rule": rule, **said})


@pytest.mark.parametrize("rule", guardrails.names())
async def test_every_rule_can_be_opened_and_lets_plain_text_pass(ctx: RunContext, rule: str) -> None:
    needed: dict[str, dict[str, Any]] = {
        "pattern": {"pattern": "zz+"}, "words": {"words": ["zebra"]}, "length": {"max_chars": 50},
    }  # fmt: skip
    (guard,) = open_guardrails([settings(rule, options=needed.get(rule, {}))])
    assert isinstance(guard, Guardrail)
    assert guard.name == rule
    for where in guard.where:
        for text in ("", "How long do refunds take?", "退款需要多久？"):
            assert await run_guardrails([guard], where, text, ctx) == Checked(text=text)


@pytest.mark.parametrize(
    ("rule", "said", "text", "reason"),
    [
        (f"{__name__}:no_prices", {}, "5 €", "names a price"),
        (f"{__name__}:Shouts", {"options": {"mark": "#"}}, "a#", "is loud"),
        (f"{__name__}:ready_made", {}, "what?", "is loud"),
    ],
)
async def test_code_of_a_project_can_be_named(
    ctx: RunContext, rule: str, said: dict[str, Any], text: str, reason: str
) -> None:
    (guard,) = open_guardrails([settings(rule, **said)])
    assert guard.name == rule.partition(":")[2]
    assert (await run_guardrails([guard], "input", text, ctx)).reason == reason


async def test_settings_go_over_what_a_guardrail_says_itself(ctx: RunContext) -> None:
    said = settings(f"{__name__}:ready_made", where="output", name="quiet", on_error="flag", timeout_s=2)
    (guard,) = open_guardrails([said])
    assert isinstance(guard, BoundedGuardrail)
    assert (guard.name, guard.where, guard.on_error, guard.timeout_s) == ("quiet", {"output"}, Action.FLAG, 2.0)


def test_names_are_told_apart() -> None:
    opened = open_guardrails([settings("secrets"), settings("secrets")], [no_prices, no_prices])
    assert [g.name for g in opened] == ["secrets", "secrets-2", "no_prices", "no_prices-2"]


@pytest.mark.parametrize(
    ("rule", "said", "message"),
    [
        ("secrts", {}, "no guardrail is called 'secrts'; did you mean 'secrets'?"),
        ("pattern", {}, "the rule 'pattern' needs the option 'pattern'; add it under `options`"),
        ("pattern", {"options": {"patern": "a"}}, "the rule 'pattern' has no option 'patern'; did you mean 'pattern'?"),
        ("pattern", {"options": {"pattern": "a", "where": "input"}}, "'where' is no option; write it beside `rule`"),
        ("words", {"options": {"words": 3}},
         "the option 'words' must be a text or a list of texts, none of them empty"),
        ("length", {}, "the rule 'length' has nothing to check; set the option 'max_chars' or 'min_chars'"),
        ("length", {"options": {"max_chars": 5}, "action": "redact"},
         "'length' cannot redact; set `action` to one of `flag`, `ask`, `block`"),
        ("injection", {"options": {"at_least": 7}}, "the option 'at_least' must be a whole number, from 1 to 6"),
        ("personal", {"options": {"kinds": ["ibn"]}},
         "option 'kinds': no kind of personal data is called 'ibn'; did you mean 'iban'?"),
        ("secrets", {"options": {"values": ["x"]}},
         "the option 'values' may not stand in a file, for it holds secrets; take it out"),
    ],
)  # fmt: skip
def test_wrong_settings_are_told_without_opening(rule: str, said: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        check_guardrail(settings(rule, **said))
    assert str(caught.value) == message
    assert isinstance(caught.value, UnknownNameError) == ("is called" in message)


@pytest.mark.parametrize(
    ("rule", "said", "message"),
    [
        ("no_such_module:x", {}, "cannot import 'no_such_module'"),
        (f"{__name__}:nothing", {}, "has no 'nothing'"),
        (f"{__name__}:not_a_guardrail", {}, "is int; name a function, a class or a guardrail"),
        (f"{__name__}:ready_made", {"action": "block"}, "is made already and takes no `action`"),
        (f"{__name__}:Shouts", {"action": "block"}, "does not take these options"),
        (f"{__name__}:no_prices", {"options": {"currency": "EUR"}}, "does not take these options: currency"),
    ],
)
def test_code_that_cannot_be_opened_is_named(rule: str, said: dict[str, Any], message: str) -> None:
    check_guardrail(settings(rule, **said))
    with pytest.raises(ConfigError, match=message):
        open_guardrails([settings(rule, **said)])


async def test_known_secrets_are_given_to_the_rule_and_show_nowhere(ctx: RunContext) -> None:
    (guard,) = open_guardrails([settings("secrets")], secrets=["hunter2-hunter2"])
    assert (await run_guardrails([guard], "output", "it is hunter2-hunter2", ctx)).text == "it is [redacted]"
    assert "hunter2" not in repr(guard)
