"""Knowledge files into shared memory: Markdown, plain text and JSON lines, changed files only.

A file becomes pieces of whole sentences; a piece names its file and heading as its source. What cannot be read is
skipped with a sentence that says how to mend it, and what memory had of that file stays.
"""

import asyncio
import hashlib
import json
import os
import re
import threading
from collections import Counter
from collections.abc import Callable, Iterator, MutableMapping, Sequence
from contextlib import suppress
from datetime import UTC, date, datetime, time, timedelta
from pathlib import Path
from typing import Annotated, Any, cast

from pydantic import BeforeValidator, ValidationError

from agentmesh.errors import StoreError
from agentmesh.memory.writer import BATCH_TEXTS, Draft, MemoryWriter
from agentmesh.mistakes import Mistake, dotted, shown, validated
from agentmesh.project.frontmatter import decode, read_yaml
from agentmesh.text import fold, sentences
from agentmesh.types import Frozen, MemoryKind, Share

__all__ = ["IngestReport", "KnowledgeFile", "Progress", "ingest", "knowledge_files", "read_knowledge"]

Progress = Callable[[int, int, str], None]
"""Told how many files are done, how many there are, and the name of the one that is next or was last."""

SUFFIXES = frozenset({".md", ".txt", ".jsonl"})
MAX_FILE_BYTES = 5 * 1024 * 1024
PIECE_WORDS = 75
"""Words of one piece, about 90 to 100 tokens; a longer sentence stays whole. Our choice."""
FILES_AT_ONCE = 64
"""Changed files written and noted together, if their pieces do not fill a batch before."""
IDS_AT_ONCE = 1000
"""Items looked up in one call of the store."""
PASSES = 3
"""Times that files are read again because others gave up an item that they shared; what is left is found next time."""
STATE_NAME = "ingest.json"
"""The state file in a folder."""
STATE_VERSION = 1
"""Version of the state file; another one is read as if there were none."""

_HEADING = re.compile(r"^ {0,3}(#{1,6})\s+(.*?)\s*#*\s*$")
_FENCE = re.compile(r"^ {0,3}(```+|~~~+)")
_COMMENT = re.compile(r"<!--.*?-->", re.DOTALL)
_MARKS = re.compile(r"[*`]+")
_ENDED = re.compile(r"[.!?…][\"'”’)\]]*$")


class IngestReport(Frozen):
    """What became of a knowledge folder."""

    files: int = 0
    """Knowledge files that are there."""
    unchanged: int = 0
    changed: int = 0
    """New or changed files that were read."""
    removed: int = 0
    """Files that vanished; their items were deleted."""
    items: int = 0
    """Pieces of the changed files."""
    skipped: tuple[str, ...] = ()
    """What could not be read: `file: what is wrong; how to mend it`."""


class KnowledgeFile(Frozen):
    """What one file holds."""

    drafts: tuple[Draft, ...] = ()
    mistakes: tuple[str, ...] = ()
    readable: bool = True
    """Whether the file as a whole could be read; else there are no drafts."""


def _day(value: object) -> object:
    """A date or a moment, also where it is written as text."""
    if value is None or isinstance(value, date):
        return value
    if isinstance(value, str):
        for read in (date.fromisoformat, datetime.fromisoformat):
            with suppress(ValueError):
                return read(value)
    raise ValueError(f"must be a date such as 2026-12-31, not {shown(value)}")


Day = Annotated[date | datetime | None, BeforeValidator(_day)]


class _FrontMatter(Frozen):
    """The keys that a Markdown file may begin with."""

    title: str = ""
    topics: tuple[str, ...] = ()
    trust: Share = 1.0
    valid_from: Day = None
    valid_until: Day = None
    """The last day, if it is a day."""
    roles: tuple[str, ...] = ()


class _Line(Frozen):
    """One line of a .jsonl file."""

    text: str
    source: str = ""
    key: str = ""
    kind: MemoryKind = MemoryKind.EVIDENCE
    trust: Share = 1.0
    roles: tuple[str, ...] = ()
    valid_from: Day = None
    valid_until: Day = None


class _Known(Frozen):
    """What the state remembers of a file."""

    sha256: str
    items: tuple[str, ...] = ()
    mistakes: tuple[str, ...] = ()


async def ingest(
    folder: Path,
    writer: MemoryWriter,
    tenant: str,
    *,
    state: Path | MutableMapping[str, Any] | None = None,
    progress: Progress | None = None,
) -> IngestReport:
    """Bring a tenant's memory in line with a folder of knowledge.

    Every batch of files is flushed to the store before the state says so: a killed ingest is completed by the next
    one. Items of vanished files, and those that a changed file no longer has, are deleted.

    Args:
        folder: Holds .md, .txt and .jsonl files, in folders too; names that begin with a dot are left out.
        writer: Writes into the tenant's memory.
        tenant: Whose memory.
        state: What was loaded before: a JSON file (made if it is not there) or a mapping; None: load everything.
        progress: Called before each changed file, and once at the end if there was one.

    Raises:
        StoreError: If the memory or the state file cannot be written.
        ModelError: If the embedder failed.
    """
    names = await asyncio.to_thread(knowledge_files, folder)
    memo = await asyncio.to_thread(_State, state, tenant, folder)
    run = _Ingest(folder, writer, tenant, memo)
    if not await asyncio.to_thread(folder.is_dir):
        run.mistakes[folder.name] = (f"{folder.name}: is no folder; make it, or correct `memory.knowledge`",)
    await run.find_lost()
    vanished = sorted(memo.files.keys() - set(names))
    await run.forget(vanished)
    await run.load(names, progress)
    if run.changed and progress is not None:
        progress(len(names), len(names), "")
    broken = {name for name in names if name in run.broken}
    return IngestReport(
        files=len(names),
        unchanged=len(names) - len(run.changed | broken),
        changed=len(run.changed),
        removed=len(vanished),
        items=sum(len(memo.files[name].items) for name in run.changed),
        skipped=tuple(text for name in sorted(run.mistakes) for text in run.mistakes[name]),
    )


def read_knowledge(data: bytes, name: str, *, prefix: str = "") -> KnowledgeFile:
    """The pieces of one file and what is wrong with it. Pure.

    Args:
        data: The file's bytes.
        name: Its path in its folder, with `/`; the ending says what it is.
        prefix: Put before the name in keys, to tell folders apart.
    """
    text = decode(data, name, most_bytes=MAX_FILE_BYTES)
    if isinstance(text, Mistake):
        return KnowledgeFile(mistakes=(str(text),), readable=False)
    if name.endswith(".jsonl"):
        return _read_lines(text, name, prefix)
    about = _FrontMatter()
    if name.endswith(".md"):
        about, text = _front_matter(text, name)
        if not isinstance(about, _FrontMatter):
            return KnowledgeFile(mistakes=about, readable=False)
        sections = _sections(text, about.title)
    else:
        sections = [("", text)]
    seen: Counter[str] = Counter()
    drafts: list[Draft] = []
    for heading, body in sections:
        for piece in _pieces(sentences(body)):
            drafts.append(
                Draft(
                    text=piece,
                    key=f"{prefix}{name}#{heading}/{seen[heading]}",
                    source=f"{name} > {heading}" if heading else name,
                    trust=about.trust,
                    roles=about.roles,
                    valid_from=_moment(about.valid_from),
                    valid_until=_moment(about.valid_until, end=True),
                )
            )
            seen[heading] += 1
    return KnowledgeFile(drafts=tuple(drafts))


# --- one pass over a folder -------------------------------------------------------------------------------------------


class _Ingest:
    """What one call of `ingest` does and finds."""

    def __init__(self, folder: Path, writer: MemoryWriter, tenant: str, memo: "_State") -> None:
        self.folder, self.writer, self.tenant, self.memo = folder, writer, tenant, memo
        self.changed: set[str] = set()
        self.broken: set[str] = set()
        self.mistakes: dict[str, tuple[str, ...]] = {}
        self._stale: set[str] = set()
        """Files to read again although they are unchanged: memory lost an item of theirs."""

    async def find_lost(self) -> None:
        """Note the files whose items are no longer in memory (a new folder, a deleted item)."""
        wanted = sorted({i for known in self.memo.files.values() for i in known.items})
        there: set[str] = set()
        for low in range(0, len(wanted), IDS_AT_ONCE):
            page = await self.writer.store.get(self.tenant, wanted[low : low + IDS_AT_ONCE])
            there.update(item.id for item in page)
        self._stale = {name for name, known in self.memo.files.items() if not there.issuperset(known.items)}

    async def forget(self, names: Sequence[str]) -> None:
        """Delete the items of files that vanished."""
        gone = {i for name in names for i in self.memo.files.pop(name).items}
        if names:
            await self._delete(gone)
            await self._save()

    async def load(self, names: Sequence[str], progress: Progress | None) -> None:
        """Read what changed, batch by batch; then again what shared an item with it that is gone now."""
        batch: list[tuple[str, str, KnowledgeFile]] = []
        for done, name in enumerate(names):
            sha256, content = await asyncio.to_thread(self._read, name)
            if content is None:
                self.mistakes[name] = self.memo.files[name].mistakes
                continue
            if progress is not None:
                progress(done, len(names), name)
            self.mistakes[name] = content.mistakes
            if not content.readable:
                self.broken.add(name)
                continue
            batch.append((name, sha256, content))
            if len(batch) >= FILES_AT_ONCE or sum(len(c.drafts) for _, _, c in batch) >= BATCH_TEXTS:
                await self._write(batch)
                batch = []
        await self._write(batch)
        for _ in range(PASSES):
            if not (again := [n for n in names if n in self._stale and n not in self.broken]):
                break
            read = [(name, *await asyncio.to_thread(self._read, name)) for name in again]
            await self._write([(name, sha, content) for name, sha, content in read if content and content.readable])
            self._stale -= {name for name, _, content in read if not (content and content.readable)}

    def _read(self, name: str) -> tuple[str, KnowledgeFile | None]:
        """The file's checksum and content; no content if memory has it already."""
        path = self.folder / name
        try:
            size = path.stat().st_size
            if size > MAX_FILE_BYTES:
                text = f"{name}: is larger than {MAX_FILE_BYTES // 2**20} MB; split it into several files"
                return "", KnowledgeFile(mistakes=(text,), readable=False)
            data = path.read_bytes()
        except OSError as error:
            text = f"{name}: cannot be read ({error.strerror}); make it readable or take it out of the folder"
            return "", KnowledgeFile(mistakes=(text,), readable=False)
        sha256, known = hashlib.sha256(data).hexdigest(), self.memo.files.get(name)
        if known is not None and known.sha256 == sha256 and name not in self._stale:
            return sha256, None
        return sha256, read_knowledge(data, name, prefix=f"{self.folder.name}/")

    async def _write(self, batch: Sequence[tuple[str, str, KnowledgeFile]]) -> None:
        """Write these files, delete what they no longer have, flush, and only then say so in the state."""
        if not batch:
            return
        drafts = [draft for _, _, content in batch for draft in content.drafts]
        ids = iter((await self.writer.write(self.tenant, drafts)).item_ids)
        before: set[str] = set()
        for name, sha256, content in batch:
            before.update(self.memo.files[name].items if name in self.memo.files else ())
            own = tuple(dict.fromkeys(next(ids) for _ in content.drafts))
            self.memo.files[name] = _Known(sha256=sha256, items=own, mistakes=content.mistakes)
            self._stale.discard(name)
            self.changed.add(name)
        kept = {i for name, _, _ in batch for i in self.memo.files[name].items}
        await self._delete(before - kept)
        await self._save()

    async def _delete(self, ids: set[str]) -> None:
        """Delete items; a file that shares one (it says the same) is read again, to have an item of its own."""
        if ids:
            await self.writer.store.delete(self.tenant, sorted(ids))
            self._stale |= {name for name, known in self.memo.files.items() if not ids.isdisjoint(known.items)}

    async def _save(self) -> None:
        await self.writer.store.flush()
        await asyncio.to_thread(self.memo.save)


_state_lock = threading.Lock()
"""Two tenants may be loaded at once, and share a state file."""


class _State:
    """What was loaded of one folder into one tenant's memory."""

    def __init__(self, where: Path | MutableMapping[str, Any] | None, tenant: str, folder: Path) -> None:
        self._where = where / STATE_NAME if isinstance(where, Path) and where.is_dir() else where
        self._tenant, self._folder = tenant, folder.name
        if isinstance(self._where, Path):
            with suppress(ValueError):  # another drive
                self._folder = Path(os.path.relpath(folder, self._where.parent)).as_posix()
        loaded = _part(_part(self._all().get("loaded")).get(tenant)).get(self._folder)
        self.files: dict[str, _Known] = {}
        for name, known in _part(loaded).items():
            with suppress(ValidationError):
                self.files[name] = _Known.model_validate(known)

    def save(self) -> None:
        """Put it where it came from, whole or not at all; what stands there of others stays."""
        if self._where is None:
            return
        with _state_lock:
            everything = self._all()
            loaded = everything.setdefault("loaded", {})
            files = {name: known.model_dump(mode="json") for name, known in sorted(self.files.items())}
            loaded.setdefault(self._tenant, {})[self._folder] = files
            if isinstance(self._where, Path):
                _write_whole(self._where, json.dumps(everything, indent=1))
            else:
                self._where.update(everything)

    def _all(self) -> dict[str, Any]:
        """Everything that the state holds; what cannot be understood counts as nothing loaded yet."""
        fresh: dict[str, Any] = {"version": STATE_VERSION, "loaded": {}}
        if self._where is None:
            return fresh
        if isinstance(self._where, Path):
            try:
                value: object = json.loads(self._where.read_bytes())
            except (OSError, ValueError):
                return fresh
        else:
            value = dict(self._where)
        everything = _part(value)
        good = everything.get("version") == STATE_VERSION and isinstance(everything.get("loaded"), dict)
        return everything if good else fresh


def _part(value: object) -> dict[str, Any]:
    return cast("dict[str, Any]", value) if isinstance(value, dict) else {}


def _write_whole(path: Path, text: str) -> None:
    part = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with part.open("w", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        part.replace(path)
    except OSError as error:
        raise StoreError(f"{path} cannot be written ({error.strerror}); make room or choose another `home`") from error


def knowledge_files(folder: Path) -> Sequence[str]:
    """The knowledge files of a folder, by their path in it, sorted."""
    found = (path for path in folder.rglob("*") if path.suffix in SUFFIXES and path.is_file())
    names = (path.relative_to(folder) for path in found)
    return sorted(name.as_posix() for name in names if not any(part.startswith(".") for part in name.parts))


# --- what stands in a file --------------------------------------------------------------------------------------------


def _front_matter(text: str, name: str) -> tuple[_FrontMatter | tuple[str, ...], str]:
    """The front matter, or its mistakes, and the text below it."""
    lines = text.split("\n")
    if lines[0].rstrip() != "---":
        return _FrontMatter(), text
    end = next((n for n, line in enumerate(lines) if n and line.rstrip() == "---"), None)
    if end is None:
        return (f"{name}:1: the front matter is never closed; add a line `---` below its last key",), ""
    read = read_yaml(
        "\n".join(["", *lines[1:end], ""]).encode(), name
    )  # the empty line: as in the file, line 2 is next
    if read.mistakes:
        return tuple(str(mistake) for mistake in read.mistakes), ""
    about, wrong = validated(_FrontMatter, read.values)
    if about is None:
        return tuple(str(Mistake(name, read.line(steps), dotted(steps), text)) for steps, text in wrong), ""
    return about, "\n".join(lines[end + 1 :])


def _sections(text: str, title: str) -> list[tuple[str, str]]:
    """The text below each heading, and the headings that it stands under; that of level 1 only if it is alone."""
    path: dict[int, str] = {}
    found: list[tuple[str, list[str]]] = [(title, [])]
    fence = ""
    for line in _COMMENT.sub("", text).split("\n"):
        if mark := _FENCE.match(line):
            fence = "" if fence and mark.group(1).startswith(fence) else fence or mark.group(1)
            line = ""
        heading = None if fence else _HEADING.match(line)
        if heading is None:
            found[-1][1].append(line)
            continue
        level, name = len(heading.group(1)), _MARKS.sub("", heading.group(2))
        path = {above: title for above, title in path.items() if above < level} | {level: name}
        below = [path[level] for level in sorted(path) if level > 1 and path[level]]
        found.append((" > ".join(below) or path.get(1, "") or title, []))
    return [(name, "\n".join(body)) for name, body in found]


def _pieces(parts: Sequence[str]) -> Iterator[str]:
    """Whole sentences, together at most `PIECE_WORDS` words; a longer sentence alone."""
    piece, size = "", 0
    for sentence in parts:
        length = len(sentence.split())
        if piece and size + length > PIECE_WORDS:
            yield piece
            piece, size = "", 0
        # a heading-like line or list entry without an end mark stays apart from what follows
        joint = "" if not piece else " " if _ENDED.search(piece) else "\n\n"
        piece, size = piece + joint + sentence, size + length
    if piece:
        yield piece


def _read_lines(text: str, name: str, prefix: str) -> KnowledgeFile:
    drafts: list[Draft] = []
    mistakes: list[str] = []
    for number, line in enumerate(text.split("\n"), start=1):
        if not line.strip():
            continue
        try:
            values: object = json.loads(line)
        except (ValueError, RecursionError) as error:
            mistakes.append(f"{name}:{number}: is not JSON ({str(error)[:80]}); write one object a line")
            continue
        if not isinstance(values, dict):
            mistakes.append(f'{name}:{number}: must be an object such as {{"text": "..."}}')
            continue
        entry, wrong = validated(_Line, cast("dict[str, Any]", values))
        if entry is None:
            mistakes.extend(str(Mistake(name, number, dotted(steps), text)) for steps, text in wrong)
            continue
        drafts.append(
            Draft(
                text=entry.text,
                kind=entry.kind,
                key=entry.key or f"{prefix}{name}#/{len(drafts)}",
                source=entry.source or f"{name}:{number}",
                trust=entry.trust,
                roles=entry.roles,
                valid_from=_moment(entry.valid_from),
                valid_until=_moment(entry.valid_until, end=True),
            )
        )
    return KnowledgeFile(drafts=tuple(d for d in drafts if fold(d.text)), mistakes=tuple(mistakes))


def _moment(day: date | datetime | None, *, end: bool = False) -> float | None:
    """Seconds since 1970; a day begins at midnight UTC, and as an end it counts to its last second."""
    if day is None:
        return None
    if isinstance(day, datetime):
        return (day if day.tzinfo else day.replace(tzinfo=UTC)).timestamp()
    return datetime.combine(day + timedelta(days=1 if end else 0), time(), UTC).timestamp()
