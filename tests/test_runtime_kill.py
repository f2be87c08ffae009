"""A killed process loses no finished call and mixes up no results: a real process, a real SIGKILL."""

import json
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import pytest

from agentmesh.types import Answer
from tests.kill_worker import AGENTS

ROOT = Path(__file__).parent.parent
WAIT_S = 60.0


def worker(what: str, home: Path, run_id: str, seed: int) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "tests.kill_worker", what, str(home), run_id, str(seed)]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    return subprocess.Popen(
        command, cwd=ROOT, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )


def replied(home: Path, run_id: str) -> set[str]:
    """The agents whose replies stand in the trace file, which is read as it is."""
    path = home / "traces" / f"{run_id}.jsonl"
    if not path.exists():
        return set()
    events = [json.loads(line) for line in path.read_text().splitlines() if line.endswith("}")]
    return {e["agent"] for e in events if e["type"] == "agent_replied"}


@pytest.mark.parametrize("seed", range(5))
def test_a_run_killed_in_a_fan_out_resumes_without_repeating_or_mixing(tmp_path: Path, seed: int) -> None:
    run_id = f"killed-{seed}"
    process = worker("start", tmp_path, run_id, seed)
    until = time.monotonic() + WAIT_S
    finished: set[str] = set()
    while len(finished) < 2 + seed % 4:
        assert time.monotonic() < until, "the run did not get anywhere"
        assert process.poll() is None, f"the run ended before it was killed: {process.communicate()}"
        finished = replied(tmp_path, run_id)
        time.sleep(0.002)
    process.send_signal(signal.SIGKILL)
    process.communicate(timeout=WAIT_S)
    finished = replied(tmp_path, run_id)
    assert len(finished) < len(AGENTS), "all agents had finished: the kill came too late to mean anything"

    resumed = worker("resume", tmp_path, run_id, seed)
    out, errors = resumed.communicate(timeout=WAIT_S)
    assert resumed.returncode == 0, errors
    answer = Answer.model_validate_json(out)

    starts = Counter(
        line.split()[1] for line in (tmp_path / "calls.log").read_text().splitlines() if line.startswith("start")
    )
    assert {agent: starts[agent] for agent in finished} == dict.fromkeys(finished, 1)
    assert [r.agent for r in answer.replies] == list(AGENTS)
    for reply in answer.replies:
        assert reply.text == f"The word of {reply.agent} is {reply.agent[::-1]}."
        assert reply.call_id == f"{run_id}/all.r1/{reply.agent}/1"
