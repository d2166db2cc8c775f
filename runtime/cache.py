"""The cache of generated modules.

An entry is a directory named by its key: the module and a manifest. It appears by one rename,
under a lock, and is hashed before every use; what is missing, torn, altered or not ours is made
again. Where no directory can be used the module lives in memory, with a warning.
"""

from __future__ import annotations

import functools
import hashlib
import importlib.abc
import importlib.util
import json
import linecache
import os
import re
import shutil
import sys
import tempfile
import threading
import warnings
from collections.abc import Callable, Iterator, Mapping
from importlib import resources
from importlib.resources.abc import Traversable
from pathlib import Path
from types import ModuleType

from filelock import FileLock, Timeout

import attnspec
from attnspec.runtime.artefacts import (
    is_private_directory,
    read_directory,
    sync_directory,
    write_directory,
)

_TEMPORARY = ".tmp-"
_LOCK_SECONDS = 20.0
_LOADING = threading.RLock()


def cache_dir() -> Path:
    """Where generated modules are kept: `$ATTNSPEC_CACHE`, or the user's cache directory."""
    chosen = os.environ.get("ATTNSPEC_CACHE")
    if chosen:
        return Path(chosen).absolute()
    from platformdirs import user_cache_path

    return user_cache_path("attnspec")


@functools.cache
def compiler_version() -> str:
    """A hash of everything that decides what is generated from a spec."""
    digest = hashlib.sha256(attnspec.__version__.encode())
    package = resources.files("attnspec")
    for folder in ("dsl", "codegen", "templates"):
        for name, data in _sources(package / folder, folder):
            digest.update(f"\0{name}\0{len(data)}\0".encode())
            digest.update(data)
    return digest.hexdigest()


def cache_key(text: str, options: Mapping[str, str | int | bool]) -> str:
    """The name of the module generated from a spec's `text` under `options`."""
    parts = [compiler_version(), text, dict(options)]
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()


def cached_module(key: str) -> ModuleType | None:
    """The module `key` (64 hex digits) where the cache has it, by whatever name."""
    root = cache_dir() / "modules"
    with _LOADING:
        for file, data in (_read_files(root, root / key) or {}).items():
            name = _module_name(key, file.removesuffix(".py"))
            return sys.modules.get(name) or _import(name, str(root / key / file), data)
    return None


def load_module(key: str, make_source: Callable[[], str], name: str = "kernel") -> ModuleType:
    """The module `key` (64 hex digits), from the cache or from `make_source()`.

    `name` is the file's stem, for people. Raises what `make_source` or the module raises; a
    cache that cannot be used is only a warning.
    """
    module_name = _module_name(key, name)
    with _LOADING:
        if module_name in sys.modules:
            return sys.modules[module_name]
        file = f"{name}.py"
        try:
            path, data = fetch("modules", key, file, lambda: make_source().encode())
        except CacheUnusable as error:
            warnings.warn(
                f"the cache {error} cannot be used; generated modules stay in memory",
                RuntimeWarning,
                stacklevel=3,
            )
            path, data = f"<attnspec {file} {key}>", error.data
        return _import(module_name, path, data)


def _module_name(key: str, name: str) -> str:
    if not re.fullmatch(r"[0-9a-f]{64}", key) or not re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]*", name):
        raise ValueError(f"not a cache key and a name: {key!r}, {name!r}")
    return f"attnspec_{name}_{key[:16]}"


class CacheUnusable(Exception):
    """The cache cannot be written; `data` is what should have been."""

    def __init__(self, text: str, data: bytes) -> None:
        super().__init__(text)
        self.data = data


def fetch(kind: str, key: str, file: str, make: Callable[[], bytes]) -> tuple[str, bytes]:
    """Where the `file` of an entry of some `kind` stands, and its verified bytes, `make()` if there
    is none. Raises what that does, or CacheUnusable."""
    root = cache_dir() / kind
    entry = root / key
    data = _read_entry(root, entry, file)
    if data is None:
        data = make()
        try:
            _store(root, entry, file, data)
        except (OSError, Timeout) as error:
            raise CacheUnusable(f"{root} ({error})", data) from error
    return str(entry / file), data


def holds(kind: str, key: str, file: str) -> bool:
    """Whether the cache has an entry, whole and ours."""
    root = cache_dir() / kind
    return _read_entry(root, root / key, file) is not None


def _read_entry(root: Path, entry: Path, file: str) -> bytes | None:
    return (_read_files(root, entry) or {}).get(file)


def _read_files(root: Path, entry: Path) -> dict[str, bytes] | None:
    """The one file of an entry, by name; None where anything is amiss with it."""
    try:
        if not is_private_directory(root):
            return None
    except OSError:
        return None
    files = read_directory(entry)
    return files if files is not None and len(files) == 1 else None


def _store(root: Path, entry: Path, file: str, data: bytes) -> None:
    """Make `entry` hold `data`, unless another process did so meanwhile."""
    root.parent.mkdir(parents=True, exist_ok=True)
    root.mkdir(mode=0o700, exist_ok=True)
    if not is_private_directory(root):
        raise PermissionError(f"{root} is a link, another user's, or open to others")
    with FileLock(root / ".lock", timeout=_LOCK_SECONDS):
        if _read_entry(root, entry, file) == data:
            return
        # Whoever holds the lock is the only writer: temporaries are what killed ones left.
        for stale in root.glob(f"{_TEMPORARY}*"):
            _remove(stale)
        fresh = Path(tempfile.mkdtemp(dir=root, prefix=_TEMPORARY))
        try:
            write_directory(fresh, {file: data})
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


class _Verified(importlib.abc.SourceLoader):
    """Imports the bytes that were hashed, and shows the same bytes to `inspect`.

    Reading the file again could read something else; bytecode files are neither read nor written.
    """

    def __init__(self, path: str, data: bytes) -> None:
        self.path = path
        self.data = data

    def get_filename(self, fullname: str) -> str:
        return self.path

    def get_data(self, path: str) -> bytes:
        if path != self.path:
            raise OSError(path)
        return self.data


def _import(name: str, path: str, data: bytes) -> ModuleType:
    loader = _Verified(path, data)
    spec = importlib.util.spec_from_loader(name, loader, origin=path)
    assert spec is not None
    spec.has_location = True  # so that the module has a __file__
    module = importlib.util.module_from_spec(spec)
    lines = data.decode().splitlines(keepends=True)
    # Without a time of change the lines stand for good, whatever becomes of the file.
    linecache.cache[path] = (len(data), None, lines, path)
    sys.modules[name] = module
    try:
        loader.exec_module(module)
    except BaseException:
        del sys.modules[name]
        raise
    return module


def _sources(folder: Traversable, path: str) -> Iterator[tuple[str, bytes]]:
    for item in sorted(folder.iterdir(), key=lambda item: item.name):
        if item.is_dir():
            yield from _sources(item, f"{path}/{item.name}")
        elif item.name.endswith((".py", ".lark", ".jinja")):
            yield f"{path}/{item.name}", item.read_bytes()
