"""What is kept on disk between processes.

An entry of some kind is a directory named by its key: a file and a manifest. It appears by one
rename, under a lock, and is hashed before every use; what is missing, torn, altered or not ours is
made again.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path

from attnspec.artefacts import (
    is_private_directory,
    lock,
    read_directory,
    sync_directory,
    write_directory,
)

_TEMPORARY = ".tmp-"
_LOCK_SECONDS = 20.0


def cache_dir() -> Path:
    """Where everything is kept: `$ATTNSPEC_CACHE`, or the user's cache directory."""
    chosen = os.environ.get("ATTNSPEC_CACHE")
    if chosen:
        return Path(chosen).absolute()
    from platformdirs import user_cache_path

    return user_cache_path("attnspec")


class CacheUnusable(Exception):
    """The cache cannot be written; `data` is what should have been."""

    def __init__(self, text: str, data: bytes) -> None:
        super().__init__(text)
        self.data = data


def fetch(kind: str, key: str, file: str, make: Callable[[], bytes]) -> tuple[str, bytes]:
    """Where the `file` of an entry of some `kind` stands, and its verified bytes, `make()` if there
    is none. Raises what that does, or CacheUnusable."""
    found = find(kind, key)
    path = cache_dir() / kind / key / file
    if found is not None and found[0] == path:
        return str(path), found[1]
    data = make()
    try:
        _store(path, data)
    except OSError as error:
        raise CacheUnusable(f"{cache_dir() / kind} ({error})", data) from error
    return str(path), data


def find(kind: str, key: str) -> tuple[Path, bytes] | None:
    """Where the file of an entry stands, whatever its name, and its verified bytes; None where
    there is no entry, or anything is amiss with it."""
    root = cache_dir() / kind
    return _read(root, root / key)


def keep(kind: str, key: str, file: str, make: Callable[[], bytes]) -> bytes:
    """The bytes of `fetch`, whether or not they can be kept."""
    try:
        return fetch(kind, key, file, make)[1]
    except CacheUnusable as error:
        return error.data


def key_of(*parts: str) -> str:
    """The key of what `parts` decide."""
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()


def _read(root: Path, entry: Path) -> tuple[Path, bytes] | None:
    try:
        if not is_private_directory(root):
            return None
    except OSError:
        return None
    files = read_directory(entry)
    if files is None or len(files) != 1:
        return None
    ((name, data),) = files.items()
    return entry / name, data


def _store(path: Path, data: bytes) -> None:
    """Make the entry of `path` hold `data`, unless another process did so meanwhile."""
    entry = path.parent
    root = entry.parent
    root.parent.mkdir(parents=True, exist_ok=True)
    root.mkdir(mode=0o700, exist_ok=True)
    if not is_private_directory(root):
        raise PermissionError(f"{root} is a link, another user's, or open to others")
    with lock(root, _LOCK_SECONDS):
        if _read(root, entry) == (path, data):
            return
        # Whoever holds the lock is the only writer: temporaries are what killed ones left.
        for stale in root.glob(f"{_TEMPORARY}*"):
            _remove(stale)
        fresh = Path(tempfile.mkdtemp(dir=root, prefix=_TEMPORARY))
        try:
            write_directory(fresh, {path.name: data})
            _remove(entry)
            fresh.rename(entry)
        except BaseException:
            _remove(fresh)
            raise
        sync_directory(root)


def _remove(path: Path) -> None:
    """Remove whatever stands at `path`; a link itself, never what it points to."""
    if path.is_symlink() or path.is_file():
        path.unlink()
    elif path.exists():
        shutil.rmtree(path)
