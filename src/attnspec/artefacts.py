"""Generated files on disk: written whole or not at all, and trusted only after hashing.

A directory of artefacts holds a manifest with the sha256 of every other file. The manifest is
written last, so a directory without a matching one is an interrupted write.
"""

from __future__ import annotations

import hashlib
import json
import os
import stat
import tempfile
from collections.abc import Mapping
from contextlib import AbstractContextManager
from pathlib import Path

MANIFEST = "manifest.json"
FORMAT = 1
_TEMPORARY = ".tmp-"


def lock(directory: Path, seconds: float = -1) -> AbstractContextManager[object]:
    """What only one process at a time has of a directory; entering it raises TimeoutError after
    some `seconds`, if these are not negative."""
    from filelock import FileLock  # slow to import, and who only reads needs none

    return FileLock(directory / ".lock", timeout=seconds)


def write_file(path: Path, data: bytes) -> None:
    """Put `data` at `path`: a reader, or a crash, sees the old file or the new one."""
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=_TEMPORARY)
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.replace(name, path)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise


def write_directory(directory: Path, files: Mapping[str, bytes]) -> None:
    """Write `files` and then their manifest into an existing directory, and reach the disk."""
    _write(directory, files, {})


def update_directory(directory: Path, files: Mapping[str, bytes]) -> bool:
    """Write `files` beside what the directory's manifest lists already, making it if need be; gives
    False, and writes nothing, where they stand there and are listed."""
    directory.mkdir(parents=True, exist_ok=True)
    with lock(directory):
        try:
            before = dict(json.loads((directory / MANIFEST).read_bytes())["files"])
            if all(_stands(directory / _plain(n), files[n], before.get(n)) for n in files):
                return False
            listed = {n: before[n] for n in before if (directory / _plain(n)).is_file()}
        except (OSError, ValueError, KeyError, TypeError):
            listed = {}
        for stale in directory.glob(f"{_TEMPORARY}*"):  # of a writer that was killed
            stale.unlink()
        _write(directory, files, listed)
    return True


def _stands(path: Path, data: bytes, digest: object) -> bool:
    """Whether a file holds `data`, of which `digest` is listed."""
    return (
        digest == hashlib.sha256(data).hexdigest() and path.is_file() and path.read_bytes() == data
    )


def _write(directory: Path, files: Mapping[str, bytes], listed: Mapping[str, str]) -> None:
    for name, data in files.items():
        write_file(directory / _plain(name), data)
    digests = {name: hashlib.sha256(data).hexdigest() for name, data in files.items()}
    manifest = {"format": FORMAT, "files": dict(sorted({**listed, **digests}.items()))}
    write_file(directory / MANIFEST, (json.dumps(manifest, indent=1) + "\n").encode())
    sync_directory(directory)


def read_directory(directory: Path) -> dict[str, bytes] | None:
    """The files of an artefact directory, by name; None where anything is amiss with it.

    The bytes returned are the bytes that were hashed: a caller must use them, not read again.
    """
    try:
        if not is_private_directory(directory):
            return None
        manifest = json.loads(_read(directory / MANIFEST))
        if manifest["format"] != FORMAT:
            return None
        files = {name: _read(directory / _plain(name)) for name in manifest["files"]}
        good = all(
            hashlib.sha256(data).hexdigest() == manifest["files"][name]
            for name, data in files.items()
        )
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return None
    return files if good else None


def is_private_directory(path: Path) -> bool:
    """Whether `path` is a directory, no symbolic link, ours, and writable by nobody else."""
    return _private(path.lstat(), stat.S_IFDIR)


def sync_directory(directory: Path) -> None:
    """Make the names in `directory` durable."""
    handle = os.open(directory, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _plain(name: str) -> str:
    """`name`, which must stay inside its directory."""
    if name in ("", ".", "..", MANIFEST) or "/" in name or "\\" in name or "\0" in name:
        raise ValueError(f"not a plain file name: {name!r}")
    return name


def _read(path: Path) -> bytes:
    handle = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
    with os.fdopen(handle, "rb") as file:
        if not _private(os.fstat(handle), stat.S_IFREG):
            raise OSError(f"{path} is not a plain file of this user")
        return file.read()


def _private(found: os.stat_result, kind: int) -> bool:
    mine = found.st_uid == os.geteuid() and not found.st_mode & 0o022
    return mine and stat.S_IFMT(found.st_mode) == kind
