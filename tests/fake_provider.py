"""An OpenAI-compatible HTTP server on the loopback, for tests: answers from a script, remembers what it was asked."""

import json
import threading
from collections.abc import Mapping
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType
from typing import Any, Self

HANG_S = 20.0
"""Longest wait of a hanging answer; `close` ends it at once."""


@dataclass
class Turn:
    """One answer of the server."""

    text: str = "Hello there."
    status: int = 200
    error: Mapping[str, Any] | None = None
    tool_calls: list[tuple[str, str]] = field(default_factory=list[tuple[str, str]])
    """Name and arguments as JSON text."""
    finish: str = "stop"
    body: bytes | None = None
    """Sent as it stands instead of a completion."""
    choices: bool = True
    usage: bool = True
    hang: bool = False
    hang_after: int | None = None
    """Streams this many chunks, then hangs."""
    headers: Mapping[str, str] = field(default_factory=dict[str, str])


class FakeProvider:
    """Use as a context manager; the last turn of the script repeats."""

    def __init__(self, *turns: Turn) -> None:
        self.turns, self.requests, self.keys = list(turns or (Turn(),)), list[dict[str, Any]](), list[str]()
        self.released = threading.Event()
        self._lock = threading.Lock()
        self._server = _QuietServer(("127.0.0.1", 0), _handler(self))
        self._server.daemon_threads = True
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._server.server_address[1]}/v1"

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.released.set()
        self._server.shutdown()
        self._server.server_close()

    def next_turn(self, request: dict[str, Any], key: str) -> Turn:
        """Note the request; gives the answer to it."""
        with self._lock:
            self.requests.append(request)
            self.keys.append(key)
            return self.turns[min(len(self.requests), len(self.turns)) - 1]


class _QuietServer(ThreadingHTTPServer):
    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that was cancelled resets its connection: that is no news here."""


def _handler(provider: FakeProvider) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, format: str, *args: Any) -> None:
            pass

        def do_POST(self) -> None:
            request = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            turn = provider.next_turn(request, self.headers.get("Authorization", ""))
            try:
                self._answer(request, turn)
            except (BrokenPipeError, ConnectionResetError):
                self.close_connection = True

        def _answer(self, request: dict[str, Any], turn: Turn) -> None:
            if turn.hang:
                provider.released.wait(HANG_S)
                self.close_connection = True
            elif turn.error is not None:
                self._send(turn.status, json.dumps({"error": turn.error}).encode(), turn.headers)
            elif turn.body is not None:
                self._send(turn.status, turn.body, turn.headers)
            elif self.path.endswith("/embeddings"):
                self._send(200, json.dumps(_embeddings(request)).encode(), turn.headers)
            elif request.get("stream"):
                self._stream(request, turn)
            else:
                self._send(200, json.dumps(_completion(request, turn)).encode(), turn.headers)

        def _send(self, status: int, body: bytes, headers: Mapping[str, str]) -> None:
            self.send_response(status)
            for name, value in {"Content-Type": "application/json", **headers}.items():
                self.send_header(name, value)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def _stream(self, request: dict[str, Any], turn: Turn) -> None:
            self.send_response(200)
            self.send_header("Content-Type", "text/event-stream")
            self.send_header("Connection", "close")
            self.end_headers()
            self.close_connection = True
            for sent, chunk in enumerate(_chunks(request, turn)):
                if sent == turn.hang_after:
                    provider.released.wait(HANG_S)
                    return
                self.wfile.write(b"data: " + json.dumps(chunk).encode() + b"\n\n")
                self.wfile.flush()
            self.wfile.write(b"data: [DONE]\n\n")

    return Handler


def _usage(request: dict[str, Any], turn: Turn) -> dict[str, int]:
    prompt = sum(len((m.get("content") or "").split()) for m in request["messages"])
    written = len(turn.text.split())
    return {"prompt_tokens": prompt, "completion_tokens": written, "total_tokens": prompt + written}


def _frame(request: dict[str, Any], kind: str) -> dict[str, Any]:
    return {"id": "chatcmpl-1", "object": kind, "created": 1, "model": request["model"]}


def _calls(turn: Turn) -> list[dict[str, Any]]:
    return [
        {"index": i, "id": f"call_{i}", "type": "function", "function": {"name": name, "arguments": arguments}}
        for i, (name, arguments) in enumerate(turn.tool_calls)
    ]


def _completion(request: dict[str, Any], turn: Turn) -> dict[str, Any]:
    message: dict[str, Any] = {"role": "assistant", "content": None if turn.tool_calls else turn.text}
    if turn.tool_calls:
        message["tool_calls"] = _calls(turn)
    finish = "tool_calls" if turn.tool_calls else turn.finish
    return {
        **_frame(request, "chat.completion"),
        "choices": [{"index": 0, "message": message, "finish_reason": finish}] if turn.choices else [],
        **({"usage": _usage(request, turn)} if turn.usage else {}),
    }


def _chunks(request: dict[str, Any], turn: Turn) -> list[dict[str, Any]]:
    frame = _frame(request, "chat.completion.chunk")
    deltas: list[dict[str, Any]] = [{"role": "assistant", "content": ""}]
    if turn.tool_calls:
        for call in _calls(turn):
            half = len(call["function"]["arguments"]) // 2
            first, rest = call["function"]["arguments"][:half], call["function"]["arguments"][half:]
            deltas.append({"tool_calls": [{**call, "function": {**call["function"], "arguments": first}}]})
            deltas.append({"tool_calls": [{"index": call["index"], "function": {"arguments": rest}}]})
    else:
        words = turn.text.split(" ")
        deltas += [{"content": w + (" " if i < len(words) - 1 else "")} for i, w in enumerate(words)]
    chunks = [{**frame, "choices": [{"index": 0, "delta": d, "finish_reason": None}]} for d in deltas]
    finish = "tool_calls" if turn.tool_calls else turn.finish
    chunks.append({**frame, "choices": [{"index": 0, "delta": {}, "finish_reason": finish}]})
    if turn.usage:
        chunks.append({**frame, "choices": [], "usage": _usage(request, turn)})
    return chunks


def _embeddings(request: dict[str, Any]) -> dict[str, Any]:
    """Vectors of length 4 that depend on the text and are not of unit length; in reverse order, which is allowed."""
    rows = [
        {"object": "embedding", "index": i, "embedding": [float(len(t)), float(t.count("a")), 3.0, 1.0]}
        for i, t in enumerate(request["input"])
    ]
    return {
        "object": "list",
        "data": rows[::-1],
        "model": request["model"],
        "usage": {"prompt_tokens": 1, "total_tokens": 1},
    }
