"""Libraries of passes in C++: made once by the system's compiler, then found in the cache."""

from __future__ import annotations

import ctypes
import functools
import hashlib
import os
import platform
import shutil
import subprocess
import tempfile
from importlib import resources
from pathlib import Path

from attnspec.store import CacheUnusable, fetch, find

FLAGS = (
    "-O3 -std=c++17 -march=native -fPIC -shared -fvisibility=hidden -fopenmp -fno-math-errno"
    " -fno-trapping-math"
).split()
_HEADER, _SOURCE, _LIBRARY = "native.h", "attend.cpp", "attend.so"


class CompileError(Exception):
    """The compiler refused a generated pass; the text is what it printed."""


@functools.cache
def compiler() -> str | None:
    """The C++ compiler: `$CXX`, or the first of the usual ones that is there; only on Linux."""
    if platform.system() != "Linux":
        return None
    for name in (os.environ.get("CXX"), "c++", "g++", "clang++"):
        if name and (found := shutil.which(name)):
            return found
    return None


def library(source: str, build: bool) -> ctypes.CDLL | None:
    """The library of a pass, from memory or the cache; made if it is nowhere and `build` says so.

    None where it is not there, or there is no compiler. CompileError if the compiler refuses it.
    """
    if source in _libraries:
        return _libraries[source]
    if compiler() is None or not (build or _known(source)):
        return None
    _libraries[source] = None  # what is refused once is refused again
    _libraries[source] = _load(source)
    return _libraries[source]


_libraries: dict[str, ctypes.CDLL | None] = {}
_unknown: set[str] = set()  # to look once, not at every call


def _known(source: str) -> bool:
    """Whether the cache has it, or had it when it was first asked for."""
    if source not in _unknown and kept(source):
        return True
    _unknown.add(source)
    return False


def kept(source: str) -> bool:
    """Whether the cache has the library of a pass."""
    return find("native", _key(source)) is not None


def _load(source: str) -> ctypes.CDLL | None:
    try:
        path, _ = fetch("native", _key(source), _LIBRARY, lambda: compiled(source))
        return ctypes.CDLL(path)
    except (CacheUnusable, OSError):
        return None  # a library must stand in a file


def _key(source: str) -> str:
    parts = "\0".join([source, _header(), _machine(), *FLAGS])
    return hashlib.sha256(parts.encode()).hexdigest()


@functools.cache
def _header() -> str:
    return (resources.files("attnspec") / "runtime" / _HEADER).read_text()


@functools.cache
def _machine() -> str:
    """What a binary for this machine depends on."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        lines = []
    kept = {x for x in lines if x.startswith(("flags", "Features", "model name", "CPU part"))}
    return "\n".join([platform.machine(), str(compiler()), *sorted(kept)])


def compiled(source: str) -> bytes:
    """The shared library of a pass."""
    with tempfile.TemporaryDirectory() as folder:
        for name, text in ((_HEADER, _header()), (_SOURCE, source)):
            (Path(folder) / name).write_text(text)
        command = [str(compiler()), *FLAGS, _SOURCE, "-o", _LIBRARY]
        done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
        if done.returncode:
            raise CompileError(done.stderr)
        return (Path(folder) / _LIBRARY).read_bytes()
