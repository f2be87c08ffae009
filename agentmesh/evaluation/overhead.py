"""What agentmesh costs beside a raw LangGraph graph of the same shape, in the same process.

`agentmesh` is a run alone, `agentmesh_thread` one of a conversation, which also keeps its turns and replies in memory.
Scripted model and embeddings, so that only our own work and LangGraph's is measured. The real router, context router,
extractive refiner, trace and journal run. Baseline: route -> 2 branches -> refine, written by hand in LangGraph with
the same checkpointer and with nodes that do nothing.
"""

import asyncio
import gc
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path
from typing import Annotated, Any, TypedDict

import numpy as np

from agentmesh.assembly import build_mesh
from agentmesh.evaluation.form import document, row
from agentmesh.models.base import ChatReply, ChatRequest
from agentmesh.models.scripted import ScriptedEmbedder, ScriptedModel
from agentmesh.runtime.checkpoints import memory_checkpoints, open_checkpoints
from agentmesh.runtime.mesh import Mesh
from agentmesh.types import AgentCard, Usage

__all__ = ["SETS", "bench_overhead"]

SETS = ("memory", "durable", "concurrent500", "import")
RUNS = 200
"""Timed runs of one policy."""
WARM_UP = 20
BLOCK = 10
"""Runs of one policy before it is the other's turn: slow phases of the machine hit both."""
CONCURRENT = 500

QUESTION = "Why is the invoice higher this month, and the VPN tunnel drops after a minute?"
CARDS = (
    ("billing", "Explains invoices, charges and payment of a customer account.", "Why is my invoice higher?"),
    ("vpn", "Solves trouble with the VPN client, tunnels and remote access.", "The VPN tunnel drops after a minute."),
    ("travel", "Books trains, flights and hotels for business trips.", "Book me a train to Lyon on Friday."),
    ("kitchen", "Knows the canteen's menu, its opening times and allergens.", "What is for lunch on Tuesday?"),
)
KNOWLEDGE = tuple(
    f"{subject} rule {n}: {text}"
    for n in range(1, 21)
    for subject, text in (
        ("Invoice", f"the invoice is higher after {n} roaming days because roaming costs {n}.50 EUR a day."),
        ("VPN", f"the VPN tunnel drops after {n} minutes without traffic; keep-alive is set in the client."),
    )
)

Say = Callable[[str], None]


async def bench_overhead(sets: Sequence[str], *, say: Say = lambda text: None) -> dict[str, Any]:
    """Measure the named sets; the result has the form that every benchmark of ours has."""
    rows: list[dict[str, Any]] = []
    for name in sets:
        say(f"measuring {name} ...")
        if name == "memory":
            rows += await _latency("memory", durable=False)
        elif name == "durable":
            rows += await _latency("durable", durable=True)
        elif name == "concurrent500":
            rows += await _concurrent()
        else:
            rows += await asyncio.to_thread(_imports)
    return document("overhead", rows)


def _mesh(home: Path | None) -> Mesh:
    def reply(request: ChatRequest) -> ChatReply:
        return ChatReply(
            text="That is written in the first note [m1].",
            usage=Usage(calls=1, prompt_tokens=300, completion_tokens=10),
        )

    cards = [AgentCard(id=i, description=d, examples=(e,)) for i, d, e in CARDS]
    return build_mesh(
        cards,
        model=ScriptedModel(reply),
        embedder=ScriptedEmbedder(),
        refiner="extractive",
        knowledge=KNOWLEDGE,
        home=home,
    )


async def _latency(name: str, *, durable: bool) -> list[dict[str, Any]]:
    """Time single runs of ours and of the raw graph in turns."""
    with tempfile.TemporaryDirectory(prefix="agentmesh-bench-") as folder:
        home = Path(folder) if durable else None
        raw, close_raw = await _raw_graph(home)
        ours: list[float] = []
        theirs: list[float] = []
        threaded: list[float] = []
        flushes: list[float] = []
        async with _mesh(home) as mesh:
            answer = await mesh.ask(QUESTION)
            called = len(answer.replies)
            if called != 2:
                raise AssertionError(f"the benchmark wants 2 agents, the router chose {called}")
            for _ in range(WARM_UP):
                await mesh.ask(QUESTION)
                await raw()
            gc.collect()
            for _ in range(RUNS // BLOCK):
                for _ in range(BLOCK):
                    ours.append(await _timed(lambda: mesh.ask(QUESTION)))
                    await mesh.settle()
                for _ in range(BLOCK):
                    theirs.append(await _timed(raw))
                for _ in range(BLOCK):
                    thread = f"conversation-{len(threaded)}"
                    threaded.append(await _timed(lambda thread=thread: mesh.ask(QUESTION, thread=thread)))
                    await mesh.settle()
                    flushes.append(mesh.last_flush_ms or 0.0)
        await close_raw()
    rows = [
        *_quantiles(name, "agentmesh", ours),
        *_quantiles(name, "agentmesh_thread", threaded),
        *_quantiles(name, "raw_langgraph", theirs),
        row(name, "agentmesh", "ratio", statistics.median(ours) / statistics.median(theirs), "ratio", len(ours),
             _ratio_interval(ours, theirs)),
        row(name, "agentmesh", "rss_mb", _rss_mb(), "MB", 1),
    ]  # fmt: skip
    if durable:
        rows.append(row(name, "agentmesh", "memory_flush_ms", statistics.median(flushes), "ms", len(flushes)))
    return rows


async def _concurrent() -> list[dict[str, Any]]:
    """Start 500 runs at once, three times: none may fail, and memory must not grow from one batch to the next."""
    with tempfile.TemporaryDirectory(prefix="agentmesh-bench-") as folder:
        raw, close_raw = await _raw_graph(Path(folder) / "raw")
        batches: list[float] = []
        raw_batches: list[float] = []
        sizes: list[float] = []
        waits: list[float] = []
        failures = 0
        async with _mesh(Path(folder) / "mesh") as mesh:
            await mesh.ask(QUESTION)

            async def one() -> None:
                waits.append(await _timed(lambda: mesh.ask(QUESTION)))

            for _ in range(3):
                started = time.perf_counter()
                results = await asyncio.gather(*(one() for _ in range(CONCURRENT)), return_exceptions=True)
                batches.append((time.perf_counter() - started) * 1000)
                failures += sum(isinstance(r, BaseException) for r in results)
                await mesh.settle()
                gc.collect()
                sizes.append(_rss_now_mb())
                started = time.perf_counter()
                await asyncio.gather(*(raw() for _ in range(CONCURRENT)))
                raw_batches.append((time.perf_counter() - started) * 1000)
        await close_raw()
    name = "concurrent500"
    return [
        *_quantiles(name, "agentmesh", waits),
        row(name, "agentmesh", "batch_ms", statistics.median(batches), "ms", len(batches)),
        row(name, "raw_langgraph", "batch_ms", statistics.median(raw_batches), "ms", len(raw_batches)),
        row(
            name,
            "agentmesh",
            "ratio",
            statistics.median(batches) / statistics.median(raw_batches),
            "ratio",
            len(batches),
        ),
        row(name, "agentmesh", "failures", failures, "runs", 3 * CONCURRENT),
        row(name, "agentmesh", "rss_mb", max(sizes), "MB", len(sizes)),
        row(name, "agentmesh", "rss_growth_mb", sizes[-1] - sizes[0], "MB", len(sizes)),
    ]


def _imports() -> list[dict[str, Any]]:
    """Time fresh processes; the bare interpreter is taken off."""
    commands = {
        "agentmesh": ["-c", "import agentmesh"],
        "agentmesh_help": ["-c", "import sys; sys.argv=['agentmesh','--help']; from agentmesh.cli import main; main()"],
        "raw_langgraph": ["-c", "import langgraph.graph"],
    }
    times: dict[str, list[float]] = {name: [] for name in ("bare", *commands)}
    for _ in range(7):
        for name, arguments in {"bare": ["-c", "pass"], **commands}.items():
            started = time.perf_counter()
            subprocess.run([sys.executable, *arguments], check=True, capture_output=True, timeout=60)  # noqa: S603
            times[name].append(time.perf_counter() - started)
    bare = statistics.median(times["bare"])
    return [
        row("import", name, "import_s", max(0.0, statistics.median(times[name]) - bare), "s", len(times[name]))
        for name in commands
    ]


# --- the raw graph ----------------------------------------------------------------------------------------------------


async def _raw_graph(home: Path | None) -> tuple[Callable[[], Awaitable[Any]], Callable[[], Awaitable[None]]]:
    """route -> 2 branches -> refine in plain LangGraph; a call that runs it once, and a call that closes it."""
    from langgraph.graph import END, START, StateGraph
    from langgraph.types import Send

    def join(old: dict[str, str], new: dict[str, str]) -> dict[str, str]:
        return {**old, **new}

    class State(TypedDict, total=False):
        task: str
        chosen: list[str]
        replies: Annotated[dict[str, str], join]
        answer: str

    class Branch(TypedDict):
        agent: str
        task: str

    async def route(state: State) -> dict[str, Any]:
        return {"chosen": ["billing", "vpn"]}

    def fan_out(state: State) -> list[Send]:
        return [Send("agent", {"agent": a, "task": state.get("task", "")}) for a in state.get("chosen", [])]

    async def agent(state: Branch) -> dict[str, Any]:
        return {"replies": {state["agent"]: "That is written in the first note."}}

    async def refine(state: State) -> dict[str, Any]:
        return {"answer": " ".join(state.get("replies", {}).values())}

    graph: Any = StateGraph(State)
    graph.add_node("route", route)
    graph.add_node("agent", agent, input_schema=Branch)
    graph.add_node("refine", refine)
    graph.add_edge(START, "route")
    graph.add_conditional_edges("route", fan_out, ["agent"])
    graph.add_edge("agent", "refine")
    graph.add_edge("refine", END)
    if home is None:
        saver: Any = memory_checkpoints()
    else:
        await asyncio.to_thread(home.mkdir, parents=True, exist_ok=True)
        saver = await open_checkpoints(home / "raw.db")
    compiled = graph.compile(checkpointer=saver)
    count = 0

    async def run() -> Any:
        nonlocal count
        count += 1
        thread = f"run-{count}"
        result = await compiled.ainvoke({"task": QUESTION}, {"configurable": {"thread_id": thread}}, durability="async")
        if home is None:
            await saver.adelete_thread(thread)
        return result

    async def close() -> None:
        if home is not None:
            await saver.conn.close()

    return run, close


# --- numbers ----------------------------------------------------------------------------------------------------------


async def _timed(call: Callable[[], Awaitable[Any]]) -> float:
    started = time.perf_counter()
    await call()
    return (time.perf_counter() - started) * 1000


def _quantiles(set_: str, policy: str, samples: Sequence[float]) -> list[dict[str, Any]]:
    values = np.array(samples)
    drawn = np.random.default_rng(0).choice(values, size=(1000, len(values)))
    rows: list[dict[str, Any]] = []
    for metric, q in (("p50_ms", 50), ("p95_ms", 95)):
        spread = np.percentile(np.percentile(drawn, q, axis=1), [2.5, 97.5])
        rows.append(row(set_, policy, metric, float(np.percentile(values, q)), "ms", len(values), spread.tolist()))
    return rows


def _ratio_interval(ours: Sequence[float], theirs: Sequence[float]) -> list[float]:
    """Bootstrap interval of the ratio of medians."""
    rng = np.random.default_rng(0)
    a, b = np.array(ours), np.array(theirs)
    ratios = np.median(rng.choice(a, (1000, len(a))), axis=1) / np.median(rng.choice(b, (1000, len(b))), axis=1)
    return np.percentile(ratios, [2.5, 97.5]).tolist()


def _rss_mb() -> float:
    """Peak size of this process."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / 1024 if sys.platform != "darwin" else peak / 1024**2


def _rss_now_mb() -> float:
    """Present size of this process; its peak where the system does not say."""
    status = Path("/proc/self/statm")
    if status.exists():
        return int(status.read_text().split()[1]) * resource.getpagesize() / 1024**2
    return _rss_mb()
