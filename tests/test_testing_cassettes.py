"""Cassettes: what was recorded is replayed, what was not is said loudly, and a file is never half written."""

import asyncio
import json
from collections.abc import AsyncGenerator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from agentmesh import AgentCard, build_mesh
from agentmesh.errors import MeshError, ModelError, ModelQuotaError, ModelTimeoutError, ToolError
from agentmesh.models.base import ChatChunk, ChatMessage, ChatReply, ChatRequest, ToolCall, ToolSpec
from agentmesh.models.scripted import ScriptedEmbedder, ScriptedModel
from agentmesh.run import loose_context
from agentmesh.testing import (
    Cassette,
    CassetteError,
    CassetteMissError,
    CassetteModel,
    CassetteToolset,
    ChatModelContract,
    ScriptedToolset,
    ToolsetContract,
)
from agentmesh.types import Answer, Usage

CTX = loose_context()
KEY = "sk-" + "a1b2c3d4" * 4
TEXT = "When is a refund paid?"


def asked(text: str = TEXT, **fields: Any) -> ChatRequest:
    messages = (ChatMessage(role="system", text="Be brief."), ChatMessage(role="user", text=text))
    return ChatRequest(messages=messages, **fields)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "tapes" / "one.jsonl"


async def record(
    path: Path, *requests: ChatRequest, replies: Any = ("Within 14 days.",), mode: Any = "record"
) -> ScriptedModel:
    """Record these requests; the model that answered them."""
    inner = ScriptedModel(replies, name="small")
    model = CassetteModel(inner, Cassette(path, mode))
    for request in requests:
        with suppress(ModelError):
            await model.complete(request)
    return inner


def replay(path: Path) -> CassetteModel:
    return CassetteModel(None, Cassette(path))


def state(path: Path) -> tuple[bytes, int, list[str]]:
    """What is in the file, when it was written, and what stands in its folder."""
    return path.read_bytes(), path.stat().st_mtime_ns, [p.name for p in path.parent.iterdir()]


def exists(path: Path) -> bool:
    return path.exists()


def text_of(path: Path) -> str:
    return path.read_text(encoding="utf-8")


def rows(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


# --- record and replay ------------------------------------------------------------------------------------------------


async def test_a_recorded_call_is_replayed_without_the_model(path: Path) -> None:
    whole = ChatReply(
        text="", tool_calls=(ToolCall(id="c1", name="add", arguments={"a": 1}),), finish_reason="tool_calls",
        usage=Usage(calls=1, prompt_tokens=7, completion_tokens=2, cost_usd=0.25, cost_known=False), model="small-2",
    )  # fmt: skip
    inner = await record(path, asked(), replies=[whole])
    model = replay(path)
    assert await model.complete(asked()) == whole
    assert model.info == inner.info
    assert len(inner.requests) == 1


async def test_the_timeout_is_not_part_of_the_question_but_everything_else_is(path: Path) -> None:
    await record(path, asked())
    assert (await replay(path).complete(asked(timeout_s=1.5))).text == "Within 14 days."
    other = (
        asked("And now?"), asked(temperature=0.7), asked(seed=1), asked(max_output_tokens=10), asked(stop=("\n",)),
        asked(json_schema={"type": "object"}), asked(tools=(ToolSpec(name="add"),)),
    )  # fmt: skip
    for request in other:
        with pytest.raises(CassetteMissError):
            await replay(path).complete(request)


async def test_equal_questions_are_replayed_in_their_order_and_no_more_often(path: Path) -> None:
    await record(path, asked(), asked(), asked("Why?"), replies=["first", "second", "because"])
    model = replay(path)
    said = [(await model.complete(request)).text for request in (asked("Why?"), asked(), asked())]
    assert said == ["because", "first", "second"]
    with pytest.raises(CassetteMissError, match=r"holds 2 recordings of this call.*this is time 3"):
        await model.complete(asked())


@pytest.mark.parametrize("error", [ModelTimeoutError("it took too long; raise it"), ModelQuotaError("no credit")])
async def test_a_failure_is_replayed_as_the_same_class_with_the_same_words(path: Path, error: ModelError) -> None:
    await record(path, asked(), replies=[error])
    with pytest.raises(type(error), match=str(error)) as caught:
        await replay(path).complete(asked())
    assert type(caught.value) is type(error)


async def test_a_failure_of_a_class_that_is_not_ours_is_replayed_as_the_nearest_of_ours(path: Path) -> None:
    class OwnError(ModelTimeoutError):
        pass

    await record(path, asked(), replies=[OwnError("late")])
    with pytest.raises(ModelTimeoutError, match="late"):
        await replay(path).complete(asked())


async def test_what_is_no_model_error_passes_through_and_is_not_recorded(path: Path) -> None:
    cassette = Cassette(path, "record")
    with pytest.raises(RuntimeError):
        await CassetteModel(ScriptedModel([RuntimeError("a bug")]), cassette).complete(asked())
    assert not exists(path)


async def test_a_stream_is_recorded_and_replayed_like_a_completion(path: Path) -> None:
    async def pieces(model: CassetteModel) -> tuple[list[str], ChatReply | None]:
        chunks = [chunk async for chunk in model.stream(asked())]
        assert [chunk.reply is None for chunk in chunks] == [True] * (len(chunks) - 1) + [False]
        return [chunk.text for chunk in chunks[:-1]], chunks[-1].reply

    live = await pieces(CassetteModel(ScriptedModel(["Within 14 days."], name="small"), Cassette(path, "record")))
    assert live[0] == ["Within", " 14", " days."]
    assert await pieces(replay(path)) == live
    assert (await replay(path).complete(asked())) == live[1]


async def test_a_stream_that_is_left_stops_the_model_and_records_nothing(path: Path) -> None:
    left: list[bool] = []

    class Endless(ScriptedModel):
        async def stream(self, request: ChatRequest) -> AsyncGenerator[ChatChunk, None]:
            try:
                while True:
                    await asyncio.sleep(0)
                    yield ChatChunk(text="x")
            finally:
                left.append(True)

    stream = CassetteModel(Endless(lambda _: "x"), Cassette(path, "record")).stream(asked())
    async for _ in stream:
        break
    await stream.aclose()  # pyright: ignore[reportAttributeAccessIssue, reportUnknownMemberType]
    assert left == [True]
    assert not exists(path)


def added(arguments: dict[str, int]) -> int:
    return arguments["a"] + arguments["b"]


async def test_tools_are_recorded_beside_models_in_one_file(path: Path) -> None:
    tools = ScriptedToolset({"add": added, "fail": ToolError("the tool is gone; start it")})
    model = CassetteModel(ScriptedModel(["3"]), path, "record")
    recording = CassetteToolset(tools, path, "record")
    assert recording.cassette is model.cassette
    await model.complete(asked())
    listed = await recording.list_tools()
    assert await recording.call("add", {"a": 1, "b": 2}, CTX) == {"result": 3}
    with pytest.raises(ToolError, match="the tool is gone"):
        await recording.call("fail", {}, CTX)
    with Cassette(path) as cassette:
        replaying = CassetteToolset(None, cassette)
        assert await replaying.list_tools() == await replaying.list_tools() == listed
        assert await replaying.call("add", {"b": 2, "a": 1}, CTX) == {"result": 3}
        with pytest.raises(ToolError, match="the tool is gone"):
            await replaying.call("fail", {}, CTX)
        assert (await CassetteModel(None, cassette).complete(asked())).text == "3"
    assert [row.get("call") for row in rows(path)] == [None, "info", "tools", "model", "tool", "tool"]
    assert len(tools.calls) == 2


async def test_several_models_and_toolsets_are_told_apart_by_name(path: Path) -> None:
    cassette = Cassette(path, "record")
    for name in ("large", "small"):
        await CassetteModel(ScriptedModel([f"said {name}"], name=name), cassette).complete(asked())
        await CassetteToolset(ScriptedToolset({"who": name}), cassette, name=name).call("who", {}, CTX)
    again = Cassette(path)
    with pytest.raises(CassetteError, match="holds the models large, small; say which one with `name`"):
        CassetteModel(None, again)
    with pytest.raises(CassetteError, match="holds no model 'tiny'; it holds large, small"):
        CassetteModel(None, again, name="tiny")
    assert (await CassetteModel(None, again, name="large").complete(asked())).text == "said large"
    assert await CassetteToolset(None, again, name="small").call("who", {}, CTX) == {"result": "small"}


async def test_calls_at_the_same_time_give_the_same_file_whatever_their_order(path: Path, tmp_path: Path) -> None:
    async def recorded(to: Path, texts: Sequence[str]) -> str:
        model = CassetteModel(
            ScriptedModel(lambda r: r.messages[-1].text.upper(), name="small"), Cassette(to, "record")
        )
        await asyncio.gather(*(model.complete(asked(text)) for text in texts))
        return text_of(to)

    texts = [f"question {n}" for n in range(12)]
    assert await recorded(path, texts) == await recorded(tmp_path / "two.jsonl", texts[::-1])
    model = replay(path)
    said = await asyncio.gather(*(model.complete(asked(text)) for text in texts))
    assert [reply.text for reply in said] == [text.upper() for text in texts]


def test_a_cassette_is_used_from_several_event_loops(path: Path) -> None:
    model = CassetteModel(ScriptedModel(lambda r: r.messages[-1].text, name="small"), Cassette(path, "record"))
    for text in ("one", "two"):
        asyncio.run(model.complete(asked(text)))
    assert asyncio.run(replay(path).complete(asked("two"))).text == "two"


# --- modes ------------------------------------------------------------------------------------------------------------


async def test_replaying_writes_nothing_not_even_after_a_miss(path: Path) -> None:
    await record(path, asked())
    before = state(path)
    inner = ScriptedModel(["Within 14 days.", "else"], name="small")
    model = CassetteModel(inner, Cassette(path))
    await model.complete(asked())
    with pytest.raises(CassetteMissError):
        await model.complete(asked("something else"))
    assert state(path) == before
    assert before[2] == ["one.jsonl"]
    assert inner.requests == []


async def test_auto_replays_what_is_there_and_adds_the_rest(path: Path) -> None:
    await record(path, asked())
    inner = await record(path, asked(), asked("new"), asked(), replies=["newer", "again"], mode="auto")
    assert [r.messages[-1].text for r in inner.requests] == ["new", TEXT]
    model = replay(path)
    said = [(await model.complete(request)).text for request in (asked(), asked(), asked("new"))]
    assert said == ["Within 14 days.", "again", "newer"]


async def test_record_replaces_what_was_there(path: Path) -> None:
    await record(path, asked(), asked("old"), replies=["a", "b"])
    await record(path, asked(), replies=["c"])
    assert [row["reply"]["text"] for row in rows(path)[2:]] == ["c"]


def test_a_mode_that_does_not_exist_is_refused(path: Path) -> None:
    with pytest.raises(CassetteError, match="no mode 'rewind'; use 'replay', 'record' or 'auto'"):
        Cassette(path, "rewind")  # pyright: ignore[reportArgumentType]


def test_one_file_has_one_mode_at_a_time(path: Path) -> None:
    first = CassetteModel(ScriptedModel(), path, "record")
    with pytest.raises(CassetteError, match="in use with mode='record'"):
        CassetteToolset(ScriptedToolset({}), path, "auto")
    assert first.cassette.mode == "record"


# --- misses -----------------------------------------------------------------------------------------------------------


async def test_a_miss_shows_the_nearest_recording_and_what_differs(path: Path) -> None:
    await record(path, asked(), asked("What is the gateway of the VPN?"), replies=["a", "b"])
    with pytest.raises(CassetteMissError) as caught:
        await replay(path).complete(asked("When is a refund payed?", temperature=0.5))
    text = str(caught.value)
    assert text.splitlines()[0] == (
        f"{path} holds no recording of this call of the model 'small', 'When is a refund payed?'; the nearest of its 2 "
        "differs (- recorded, + asked now):"
    )
    assert text.splitlines()[1:7] == [
        "  messages[1].text:",
        '    - "When is a refund paid?"',
        '    + "When is a refund payed?"',
        "  temperature:",
        "    - 0.0",
        "    + 0.5",
    ]
    assert text.splitlines()[7] == (
        "record it with mode='record', or mode='auto' to keep the rest (pytest: --cassette=record)"
    )


async def test_a_difference_deep_in_a_long_prompt_is_shown_where_it_is(path: Path) -> None:
    long = "The refund desk answers. " * 400
    await record(path, asked(long + "Paid in 14 days."))
    with pytest.raises(CassetteMissError) as caught:
        await replay(path).complete(asked(long + "Paid in 30 days."))
    minus, plus = str(caught.value).splitlines()[2:4]
    assert minus.startswith('    - "... ')
    assert minus.endswith('Paid in 14 days."')
    assert plus.endswith('Paid in 30 days."')
    assert len(str(caught.value)) < 1200


async def test_a_tool_call_that_is_not_there_says_its_arguments(path: Path) -> None:
    cassette = Cassette(path, "record")
    await CassetteToolset(ScriptedToolset({"add": 3}), cassette).call("add", {"a": 1, "b": 2}, CTX)
    with pytest.raises(CassetteMissError, match=r"the toolset 'tools', add\(a=1, b=3\)") as caught:
        await CassetteToolset(None, Cassette(path)).call("add", {"a": 1, "b": 3}, CTX)
    assert "  arguments.b:\n    - 2\n    + 3\n" in str(caught.value)
    with pytest.raises(CassetteMissError, match="the list of tools, nor of any other of its kind; record it"):
        await CassetteToolset(None, Cassette(path)).list_tools()


async def test_a_miss_is_no_model_error_so_that_nothing_tries_it_again(path: Path) -> None:
    await record(path, asked())
    with pytest.raises(CassetteMissError) as caught:
        await replay(path).complete(asked("x"))
    assert isinstance(caught.value, MeshError)
    assert not isinstance(caught.value, ModelError)
    assert not caught.value.retryable


async def ask_mesh(model: Any, question: str) -> Answer:
    card = AgentCard(id="refunds", description="Says when money comes back.", examples=(TEXT,))
    mesh = build_mesh([card], model=model, router="fixed", refiner="extractive", embedder=ScriptedEmbedder(),
                      knowledge=["An approved refund is paid out within 14 days."])  # fmt: skip
    async with mesh:
        return await mesh.ask(question)


async def test_a_miss_in_a_mesh_is_loud_although_the_agent_made_a_failed_reply_of_it(path: Path) -> None:
    live = await ask_mesh(CassetteModel(ScriptedModel(["In 14 days [m1]."]), Cassette(path, "record")), TEXT)
    with Cassette(path) as cassette:
        replayed = await ask_mesh(CassetteModel(None, cassette), TEXT)
    assert (replayed.text, replayed.usage) == (live.text, live.usage)
    with pytest.raises(CassetteMissError, match="holds no recording"):  # noqa: PT012, SIM117 - the inner one raises
        with Cassette(path) as cassette:
            answer = await ask_mesh(CassetteModel(None, cassette), "When is a refund payed, please?")
            assert answer.status == "failed"
            assert len(cassette.misses) == 1


async def test_a_test_that_fails_for_a_miss_says_the_miss_beside_its_own_words(path: Path) -> None:
    await record(path, asked())
    with pytest.raises(AssertionError) as caught:  # noqa: PT012, SIM117 - the inner one raises
        with Cassette(path) as cassette:
            with pytest.raises(CassetteMissError):
                await CassetteModel(None, cassette).complete(asked("x"))
            raise AssertionError("no answer")
    assert "holds no recording" in "".join(caught.value.__notes__)


async def test_check_lists_every_miss_once(path: Path) -> None:
    await record(path, asked())
    model = replay(path)
    for text in ("one", "two"):
        with pytest.raises(CassetteMissError):
            await model.complete(asked(text))
    with pytest.raises(CassetteMissError, match="2 calls went past") as caught:
        model.cassette.check()
    assert "'one'" in str(caught.value)
    assert "'two'" in str(caught.value)
    model.cassette.check()


async def test_what_is_recorded_and_not_asked_for_is_said_when_wanted(path: Path) -> None:
    await record(path, asked(), asked(), asked("else"), replies=["a", "b", "c"])
    model = replay(path)
    await model.complete(asked())
    assert sorted(model.cassette.unused) == [f"the model 'small': '{TEXT}'", "the model 'small': 'else'"]
    model.cassette.check()
    with pytest.raises(CassetteError, match="holds 2 recordings that nobody asked for"):
        model.cassette.check(unused=True)


# --- secrets ----------------------------------------------------------------------------------------------------------


async def test_secrets_are_not_written_and_what_held_them_is_replayed(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SHOP_PASSWORD", "hunter2-hunter2")
    question = asked(f"Is {KEY} or hunter2-hunter2 or my-own-word a key?")
    cassette = Cassette(path, "record", secrets=["my-own-word"])
    model = CassetteModel(ScriptedModel([f"It is {KEY}.", ModelQuotaError(f"{KEY} has no credit")]), cassette)
    assert KEY in (await model.complete(question)).text
    with pytest.raises(ModelQuotaError):
        await model.complete(question)
    tools = CassetteToolset(ScriptedToolset({"login": {"token": KEY}}), cassette)
    await tools.call("login", {"password": "hunter2-hunter2"}, CTX)
    written = text_of(path)
    for secret in (KEY, "hunter2", "my-own-word"):
        assert secret not in written
    again = Cassette(path, secrets=["my-own-word"])
    assert (await CassetteModel(None, again).complete(question)).text == "It is [redacted]."
    assert "hunter2" not in repr(again)
    with pytest.raises(CassetteMissError) as caught:
        await CassetteModel(None, again).complete(asked(f"Is {KEY} mine?"))
    assert KEY not in str(caught.value)


# --- the file ---------------------------------------------------------------------------------------------------------


async def test_the_file_is_one_readable_line_a_call(path: Path) -> None:
    await record(path, asked("Когда? 😀"), replies=["Через 14 дней."])
    header, info, call = text_of(path).splitlines()
    assert header == '{"cassette": 1}'
    assert json.loads(info)["reply"]["name"] == "small"
    assert call == (
        '{"call": "model", "of": "small", "request": {"messages": [{"role": "system", "text": "Be brief."}, '
        '{"role": "user", "text": "Когда? 😀"}], "max_output_tokens": 400, "temperature": 0.0, "seed": 0}, "reply": '
        '{"text": "Через 14 дней.", "usage": {"calls": 1, "prompt_tokens": 4, "completion_tokens": 3}, '
        '"model": "small"}}'
    )


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"", "is empty; record it anew"),
        (b" \n\n", "is empty"),
        (b"not json\n", ":1 is damaged (it is no JSON: Expecting value)"),
        (b'{"cassette": 2}\n', "is a cassette of version 2 and this agentmesh reads version 1"),
        (b'{"tape": 1}\n', ":1 is damaged (it lacks 'cassette')"),
        (b'{"cassette": 1}\n{"call": "model", "of": "m", "requ', ":2 is damaged (it is no JSON"),
        (b'{"cassette": 1}\n{"call": "model", "of": "m", "request": {}}\n', ":2 is damaged (it lacks 'reply')"),
        (b'{"cassette": 1}\n\n{"call": "song", "of": "m", "request": {}, "reply": {}}', ":3 is damaged (no call is of"),
        (
            b'{"cassette": 1}\n{"call": "model", "of": "m", "request": {}, "reply": {"words": "x"}}',
            "(reply.text: Field required",
        ),
        (b'{"cassette": 1}\n{"call": "tool", "of": "m", "request": {}, "reply": 3}', "the reply has another form"),
        (b'{"cassette": 1}\n[1]\n', ":2 is damaged (no object)"),
        (b'{"cassette": 1}\n\xff\xfe', "it is not UTF-8"),
    ],
)  # fmt: skip
def test_a_file_that_cannot_be_replayed_says_why_in_one_sentence(path: Path, content: bytes, said: str) -> None:
    path.parent.mkdir()
    path.write_bytes(content)
    for mode in ("replay", "auto"):
        with pytest.raises(CassetteError) as caught:
            Cassette(path, mode)
        assert said in str(caught.value)
        assert "record it anew with mode='record'" in str(caught.value)
        assert "\n" not in str(caught.value)
    Cassette(path, "record")


def test_a_missing_file_says_how_to_record_it(path: Path) -> None:
    with pytest.raises(CassetteError, match=r"one\.jsonl does not exist; record it with mode='record'"):
        Cassette(path)
    with pytest.raises(CassetteError, match="holds no model; give one"):
        CassetteModel(None, Cassette(path, "auto"))
    with pytest.raises(CassetteError, match="cannot be read"):
        Cassette(path.parent.parent)


async def test_a_file_that_cannot_be_written_is_said_now_and_at_the_end(tmp_path: Path) -> None:
    (tmp_path / "in_the_way").write_text("")
    cassette = Cassette(tmp_path / "in_the_way" / "one.jsonl", "record")
    with pytest.raises(CassetteError, match="cannot be written"):
        await CassetteModel(ScriptedModel(["x"]), cassette).complete(asked())
    with pytest.raises(CassetteError, match="cannot be written"):
        cassette.check()


async def test_a_file_is_whole_or_untouched_when_writing_fails(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    await record(path, asked())
    before = state(path)

    def full(self: Path, target: Path) -> Path:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "replace", full)
    with pytest.raises(CassetteError, match="No space left"):
        await CassetteModel(ScriptedModel(["x"]), Cassette(path, "record")).complete(asked("other"))
    assert state(path) == before


async def test_a_result_that_is_no_json_is_refused_rather_than_changed(path: Path) -> None:
    tools = CassetteToolset(ScriptedToolset({"now": {"at": object()}}), Cassette(path, "record"))
    with pytest.raises(CassetteError, match="object is no JSON value and cannot be recorded"):
        await tools.call("now", {}, CTX)


# --- they are a model and a toolset -----------------------------------------------------------------------------------


class TestCassetteModel(ChatModelContract):
    @pytest.fixture(autouse=True)
    def recorded(self, path: Path) -> None:
        self.path = path

    def make(self) -> CassetteModel:
        inner = ScriptedModel(lambda r: '{"colour": "red"}' if r.json_schema else "Blue is it.", name="m")
        return CassetteModel(inner, Cassette(self.path, "record"))

    def make_slow(self) -> CassetteModel:
        return CassetteModel(ScriptedModel(["late", "late"], delay_s=5), Cassette(self.path, "record"))


class TestCassetteToolset(ToolsetContract):
    tool = "add"
    arguments = {"a": 1}  # noqa: RUF012

    @pytest.fixture(autouse=True)
    def recorded(self, path: Path) -> None:
        self.path = path

    def make(self) -> CassetteToolset:
        return CassetteToolset(ScriptedToolset({"add": 3}), Cassette(self.path, "record"))


def test_a_byte_order_mark_of_an_editor_does_no_harm(path: Path) -> None:
    asyncio.run(record(path, asked()))
    path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes())
    assert asyncio.run(replay(path).complete(asked())).text == "Within 14 days."


def test_a_line_that_is_nested_too_deeply_is_damage(path: Path) -> None:
    asyncio.run(record(path, asked()))
    with path.open("a") as file:
        file.write("[" * 100_000 + "\n")
    with pytest.raises(CassetteError, match=r"one\.jsonl:4 is damaged \(it is nested too deeply\); record it anew"):
        replay(path)


def test_something_else_in_the_place_of_a_model_or_tools_is_said_at_once(path: Path) -> None:
    nothing: Any = 3
    with pytest.raises(CassetteError, match="int is no model; give an object with `info`"):
        CassetteModel(nothing, path, "record")
    with pytest.raises(CassetteError, match="int is no toolset; give an object with `list_tools`"):
        CassetteToolset(nothing, path, "record")
