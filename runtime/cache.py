"""Generated modules, imported from the cache or made.

Where no directory can be used a module lives in memory, with a warning.
"""

from __future__ import annotations

import contextlib
import functools
import gc
import hashlib
import importlib.abc
import importlib.util
import inspect
import json
import linecache
import marshal
import re
import sys
import threading
import warnings
from collections.abc import Callable, Iterator, Mapping
from importlib import resources
from importlib.resources.abc import Traversable
from types import CodeType, ModuleType

import attnspec
from attnspec.store import CacheUnusable, fetch, find, keep, key_of

_LOADING = threading.RLock()


@functools.cache
def compiler_version() -> str:
    """A hash of everything that decides what is generated from a spec, and what that calls."""
    digest = hashlib.sha256(attnspec.__version__.encode())
    package = resources.files("attnspec")
    for folder in ("dsl", "codegen", "runtime", "templates"):
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
    with _LOADING:
        found = find("modules", key)
        if found is None:
            return None
        path, data = found
        name = _module_name(key, path.stem)
        return sys.modules.get(name) or _import(name, str(path), data)


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


@contextlib.contextmanager
def uncollected() -> Iterator[None]:
    """Without looking for garbage, of which little is made where a spec is compiled: with all that
    PyTorch holds that takes a quarter of the time."""
    collects = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if collects:
            gc.enable()


def _module_name(key: str, name: str) -> str:
    if not re.fullmatch(r"[0-9a-f]{64}", key) or not re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]*", name):
        raise ValueError(f"not a cache key and a name: {key!r}, {name!r}")
    return f"attnspec_{name}_{key[:16]}"


class _Verified(importlib.abc.SourceLoader):
    """Imports the bytes that were hashed, and shows the same bytes to `inspect`.

    Reading the file again could read something else. Bytecode, which takes Python longer than all
    else to make of a long module, stands in the cache as the module does, hashed.
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

    def source_to_code(  # type: ignore[override]  # of a class, but called of its objects
        self, data: bytes, path: str
    ) -> CodeType:
        python = f"{importlib.util.MAGIC_NUMBER!r} {sys.flags.optimize}"
        key = key_of(python, path, hashlib.sha256(data).hexdigest())
        made = keep("bytecode", key, "module", lambda: marshal.dumps(compiled(data, path)))
        code: CodeType = marshal.loads(made)
        return code


def compiled(data: bytes, path: str) -> CodeType:
    """A module's code, from its text."""
    found: CodeType = compile(data, path, "exec", dont_inherit=True)
    return found


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
    # Else PyTorch, which asks where operations are registered, has every module there is looked at.
    inspect.modulesbyfile[path] = name
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
