"""A process that is killed: starts or resumes a fan-out of eight agents. Used by test_runtime_kill.

Arguments: start|resume, home folder, run id, seed. Every agent notes its start and its end in a log of its own making.
"""

import asyncio
import os
import random
import sys
from pathlib import Path

from agentmesh import AgentCard, AgentGraph, Mesh, build_mesh
from agentmesh.agents.function import FunctionAgent
from agentmesh.models.scripted import ScriptedEmbedder
from agentmesh.routing.baselines import FixedRouter
from agentmesh.types import AgentCall, ContextPack

AGENTS = tuple(f"agent-{n}" for n in range(8))


def note(home: Path, line: str) -> None:
    fd = os.open(home / "calls.log", os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
    os.write(fd, f"{line}\n".encode())
    os.close(fd)


def mesh_in(home: Path, seed: int) -> Mesh:
    rng = random.Random(seed)
    waits = {agent: rng.uniform(0.0, 0.4) for agent in AGENTS}

    def agent(name: str) -> FunctionAgent:
        async def answer(call: AgentCall, pack: ContextPack) -> str:
            await asyncio.sleep(rng.uniform(0.0, 0.05))
            note(home, f"start {name}")
            await asyncio.sleep(waits[name])
            note(home, f"end {name}")
            return f"The word of {name} is {name[::-1]}."

        return FunctionAgent(AgentCard(id=name, description=f"Knows the word of {name}."), answer)

    graph = AgentGraph("fan").dispatch("all", max_agents=8).refine("merge", after="all")
    return build_mesh(
        [agent(name) for name in AGENTS],
        router=FixedRouter(agents=AGENTS),
        embedder=ScriptedEmbedder(),
        graphs={"fan": graph},
        home=home,
    )


async def main() -> None:
    what, home, run_id, seed = sys.argv[1], Path(sys.argv[2]), sys.argv[3], int(sys.argv[4])
    async with mesh_in(home, seed) as mesh:
        if what == "start":
            answer = await mesh.ask("What are the words?", graph="fan", run_id=run_id)
        else:
            answer = await mesh.resume(run_id)
    print(answer.model_dump_json())


if __name__ == "__main__":
    asyncio.run(main())
