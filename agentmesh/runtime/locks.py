"""One process at a time resumes a run: a lock file for each run, released by the system when its process dies."""

import os
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path

from agentmesh.errors import InputError, StoreError

try:
    import fcntl
except ImportError:  # Windows: resuming one run twice at once is not kept apart there
    fcntl = None

__all__ = ["resuming_alone"]


@contextmanager
def resuming_alone(folder: Path, run_id: str) -> Generator[None]:
    """Hold the lock of this run in `folder`, which is made if it is not there.

    Raises:
        InputError: If another process, or another mesh of this one, holds it.
        StoreError: If the file cannot be made.
    """
    path = folder / f"{run_id}.lock"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        file = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
    except OSError as error:
        text = f"{path}: cannot be made ({error.strerror}); check the folder's permissions and free space"
        raise StoreError(text) from error
    try:
        if fcntl is not None:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError as error:
                raise InputError(f"run {run_id!r} is being resumed elsewhere; wait for that to end") from error
        yield
        path.unlink(missing_ok=True)
    finally:
        os.close(file)
