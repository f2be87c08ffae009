"""One process at a time works on a run: a lock file for each run, released by the system when its process dies."""

import os
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path

from agentmesh.errors import InputError, StoreError

try:
    import fcntl
except ImportError:  # Windows: two processes at one run are not kept apart there
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
    file = _open(path)
    try:
        if fcntl is not None:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                # whoever held it before may have taken the file away since it was opened
                held = os.fstat(file).st_nlink > 0
            except BlockingIOError:
                held = False
            if not held:
                raise InputError(f"run {run_id!r} is at work elsewhere; wait for that to end")
        try:
            yield
        finally:
            path.unlink(missing_ok=True)
    finally:
        os.close(file)


def _open(path: Path) -> int:
    try:
        try:
            return os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
        except FileNotFoundError:
            path.parent.mkdir(parents=True, exist_ok=True)
            return os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
    except OSError as error:
        text = f"{path}: cannot be made ({error.strerror}); check the folder's permissions and free space"
        raise StoreError(text) from error
