"""What every chat model, embedder and toolset promises."""

import asyncio
import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, cast
from unittest import SkipTest

import numpy as np

from agentmesh.errors import ModelError, ModelTimeoutError, ToolError
from agentmesh.models.base import ChatChunk, ChatMessage, ChatModel, ChatReply, ChatRequest, Embedder, ToolSpec
from agentmesh.run import loose_context
from agentmesh.testing.contracts.base import Contract, Made, expect, promise
from agentmesh.tools.base import Toolset

__all__ = ["ChatModelContract", "EmbedderContract", "ToolsetContract"]

SCHEMA: dict[str, Any] = {
    "type": "object",
    "properties": {"colour": {"enum": ["red", "blue"]}},
    "required": ["colour"],
    "additionalProperties": False,
}


class ChatModelContract(Contract[ChatModel]):
    """Checks a chat model. Give `make`: a model that answers any question, the same one in the same way."""

    noun = "ChatModel"
    protocol = ChatModel
    request: ClassVar[ChatRequest] = ChatRequest(
        messages=(ChatMessage(role="system", text="Be brief."), ChatMessage(role="user", text="Name a colour.")),
        max_output_tokens=12,
    )
    """What it is asked."""
    json_request: ClassVar[ChatRequest | None] = ChatRequest(
        messages=(ChatMessage(role="user", text="A colour as JSON"),), json_schema=SCHEMA
    )
    """What it is asked for JSON: red or blue as `colour`. None: it writes none, and that is not checked."""
    repeats: ClassVar[bool] = True
    """Whether the same question has the same answer."""

    def make(self) -> Made[ChatModel]:
        """The model under test."""
        return super().make()

    def make_slow(self) -> Made[ChatModel] | None:
        """The same model, made so that no answer comes within half a millisecond; None: that is not checked."""
        return None

    @promise("its info names it and says how long its prompts may be")
    async def test_info_says_what_it_is(self, model: ChatModel) -> None:
        expect(bool(model.info.name), "it has no name")
        expect(model.info.context_tokens > 0, f"its window has {model.info.context_tokens} tokens")
        expect(model.info == model.info, "its info differs from one look to the next")

    @promise("a reply has text and what it took, within the tokens that were allowed")
    async def test_reply_has_text_and_usage(self, model: ChatModel) -> None:
        _reply_of(await model.complete(self.request), self.request)

    @promise("exactly the last chunk of a stream has the reply, and the pieces before it are its text")
    async def test_stream_ends_with_the_reply(self, model: ChatModel) -> None:
        reply = await _streamed(model, self.request)
        _reply_of(reply, self.request)
        if self.repeats:
            whole = await model.complete(self.request)
            expect(
                (reply.text, reply.finish_reason) == (whole.text, whole.finish_reason),
                f"the stream says {reply.text!r} and the completion {whole.text!r}",
            )

    @promise("a reply to a schema is JSON of it")
    async def test_reply_to_a_schema_is_json(self, model: ChatModel) -> None:
        if self.json_request is None:
            raise SkipTest("this model writes no JSON")
        reply = await model.complete(self.json_request)
        try:
            value = json.loads(reply.text)
        except ValueError:
            value = None
        expect(isinstance(value, dict), f"{reply.text!r} is no JSON object")
        if self.json_request.json_schema == SCHEMA:
            expect(value in ({"colour": "red"}, {"colour": "blue"}), f"{reply.text!r} does not fit the schema")

    @promise("calls at the same time get a reply each")
    async def test_calls_at_the_same_time(self, model: ChatModel) -> None:
        for reply in await asyncio.gather(*(model.complete(self.request) for _ in range(3))):
            _reply_of(reply, self.request)

    @promise("no answer in time is a ModelTimeoutError, which may be tried again")
    async def test_no_answer_in_time_is_a_model_timeout(self, model: ChatModel) -> None:
        slow = self.make_slow()
        if slow is None:
            raise SkipTest("the suite has no `make_slow`")
        async with self.opened(slow) as late:
            hurried = self.request.model_copy(update={"timeout_s": 0.0005})
            for what in ("complete", "stream"):
                try:
                    await (late.complete(hurried) if what == "complete" else _streamed(late, hurried))
                except ModelTimeoutError:
                    continue
                except ModelError as error:
                    expect(False, f"{what} raised {type(error).__name__}: {error}")
                expect(False, f"{what} answered although half a millisecond was allowed")

    @promise("a call that is given up leaves the model usable")
    async def test_call_that_is_given_up_does_no_harm(self, model: ChatModel) -> None:
        given_up = asyncio.ensure_future(model.complete(self.request))
        await asyncio.sleep(0)
        given_up.cancel()
        await asyncio.gather(given_up, return_exceptions=True)
        _reply_of(await model.complete(self.request), self.request)

    @promise("closing twice is fine, before and after use")
    async def test_closing_twice_is_fine(self, model: ChatModel) -> None:
        await model.complete(self.request)
        await model.aclose()
        await model.aclose()


def _reply_of(reply: object, request: ChatRequest) -> None:
    """What holds for every reply."""
    if not isinstance(reply, ChatReply):
        expect(False, f"it gave {type(reply).__name__}, no ChatReply")
        return
    usage = reply.usage
    expect(bool(reply.text.strip() or reply.tool_calls), "the reply is empty")
    expect(usage.calls == 1, f"one call counts as {usage.calls}")
    expect(usage.prompt_tokens > 0, "the prompt counts no tokens")
    most = request.max_output_tokens
    expect(0 < usage.completion_tokens <= most, f"it wrote {usage.completion_tokens} tokens of at most {most}")
    expect(bool(reply.model), "the reply does not say which model answered")


async def _streamed(model: ChatModel, request: ChatRequest) -> ChatReply:
    chunks: list[ChatChunk] = [chunk async for chunk in model.stream(request)]
    whole = [n for n, chunk in enumerate(chunks) if chunk.reply is not None]
    expect(whole == [len(chunks) - 1], f"of {len(chunks)} chunks those at {whole} have a reply")
    reply = chunks[-1].reply
    assert reply is not None
    text = "".join(chunk.text for chunk in chunks)
    expect(text == reply.text, f"the pieces make {text!r}, the reply says {reply.text!r}")
    return reply


class EmbedderContract(Contract[Embedder]):
    """Checks an embedder. Give `make`."""

    noun = "Embedder"
    protocol = Embedder

    def make(self) -> Made[Embedder]:
        """The embedder under test."""
        return super().make()

    @promise("vectors are float32 of unit length, one row for each text; a text without words gives zeros")
    async def test_vectors_have_unit_length(self, embedder: Embedder) -> None:
        vectors = await embedder.embed(["the invoice is late", "", "a VPN port", " \n"])
        expect(vectors.shape == (4, embedder.dimensions), f"4 texts gave the shape {vectors.shape}")
        expect(vectors.dtype == np.float32, f"the numbers are {vectors.dtype}")
        lengths = np.linalg.norm(vectors, axis=1)
        expect(bool(np.allclose(lengths, [1, 0, 1, 0], atol=1e-4)), f"the lengths are {lengths.round(4).tolist()}")

    @promise("it says which vectors these are")
    async def test_it_names_its_vectors(self, embedder: Embedder) -> None:
        expect(bool(embedder.name), "it has no name")
        expect(embedder.dimensions > 0, f"it has {embedder.dimensions} dimensions")

    @promise("no texts give no vectors")
    async def test_no_texts_give_no_vectors(self, embedder: Embedder) -> None:
        shape = (await embedder.embed([])).shape
        expect(shape == (0, embedder.dimensions), f"the shape is {shape}")

    @promise("the same text has the same vector, whatever stands beside it and whoever asks")
    async def test_vector_depends_on_the_text_alone(self, embedder: Embedder) -> None:
        alone = (await embedder.embed(["the invoice is late"]))[0]
        crowd = ["x " * n + "port" for n in range(1, 70)]
        many = await asyncio.gather(*(embedder.embed([*crowd, "the invoice is late"]) for _ in range(2)))
        apart = max(float(np.abs(vectors[-1] - alone).max()) for vectors in many)
        expect(apart < 1e-4, f"a number differs by {apart:.2g}")

    @promise("a very long text, and one that is no valid Unicode, is embedded all the same")
    async def test_odd_texts_are_embedded(self, embedder: Embedder) -> None:
        for what, text in (("very long", "the invoice is late " * 50_000), ("not valid", "late \ud800 invoice")):
            length = float(np.linalg.norm(await embedder.embed([text])))
            expect(abs(length - 1.0) < 1e-4, f"the vector of a text that is {what} has the length {length:g}")


@dataclass(frozen=True)
class _Tools:
    """What a toolset offers."""

    specs: Sequence[ToolSpec]

    @property
    def names(self) -> list[str]:
        return [spec.name for spec in self.specs]


class ToolsetContract(Contract[Toolset]):
    """Checks a toolset. Give `make`, and a call that works."""

    noun = "Toolset"
    protocol = Toolset
    tool: ClassVar[str | None] = None
    """A tool that may be called any number of times; None: no tool is called."""
    arguments: ClassVar[dict[str, Any]] = {}
    """What it is called with."""
    refused: ClassVar[dict[str, Any] | None] = None
    """Arguments that the tool cannot take; None: that is not checked."""

    def make(self) -> Made[Toolset]:
        """The toolset under test."""
        return super().make()

    @promise("it lists its tools as a model sees them: a name each, once, and a JSON schema of the arguments")
    async def test_tools_are_listed(self, toolset: Toolset) -> None:
        tools = _Tools(await toolset.list_tools())
        listed = cast("Sequence[object]", tools.specs)
        expect(all(isinstance(spec, ToolSpec) for spec in listed), "something in the list is no ToolSpec")
        expect(all(tools.names) and len(set(tools.names)) == len(tools.names), f"the names are {tools.names}")
        for spec in tools.specs:
            json.dumps(spec.parameters)
            kind = spec.parameters.get("type", "object")
            expect(kind == "object", f"the arguments of {spec.name!r} are declared as {kind!r}, not as an object")
        expect(_Tools(await toolset.list_tools()) == tools, "the list differs from one look to the next")
        expect(self.tool is None or self.tool in tools.names, f"{self.tool!r} is not in the list {tools.names}")

    @promise("a result is a dictionary of JSON values")
    async def test_result_is_json(self, toolset: Toolset) -> None:
        result = cast("object", await toolset.call(self._tool(), dict(self.arguments), loose_context()))
        expect(isinstance(result, dict), f"the result is {type(result).__name__}")
        try:
            again = json.loads(json.dumps(result))
        except (TypeError, ValueError) as error:
            expect(False, f"the result is not JSON: {error}")
            return
        expect(again == result, "the result does not survive JSON")

    @promise("a tool that is not known is a ToolError that names it")
    async def test_unknown_tool_is_a_tool_error(self, toolset: Toolset) -> None:
        try:
            await toolset.call("no_such_tool", {}, loose_context())
        except ToolError as error:
            expect("no_such_tool" in str(error), f"the message does not name the tool: {error}")
            return
        expect(False, "it called a tool that is not in its list")

    @promise("arguments that a tool cannot take are a ToolError, nothing else")
    async def test_bad_arguments_are_a_tool_error(self, toolset: Toolset) -> None:
        if self.refused is None:
            raise SkipTest("the suite has no `refused` arguments")
        try:
            await toolset.call(self._tool(), dict(self.refused), loose_context())
        except ToolError:
            return
        expect(False, f"it took {self.refused}")

    @promise("calls at the same time get a result each")
    async def test_calls_at_the_same_time(self, toolset: Toolset) -> None:
        name = self._tool()
        given = await asyncio.gather(*(toolset.call(name, dict(self.arguments), loose_context()) for _ in range(5)))
        results = cast("Sequence[object]", given)
        expect(all(isinstance(result, dict) for result in results), "a result is no dictionary")

    def _tool(self) -> str:
        if self.tool is None:
            raise SkipTest("the suite names no `tool` that may be called")
        return self.tool
