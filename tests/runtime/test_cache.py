"""The cache of generated modules: nothing is lost, and wrong code is never loaded."""

from __future__ import annotations

import hashlib
import inspect
import json
import os
import random
import resource
import shutil
import signal
import subprocess
import sys
import time
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from types import CodeType, ModuleType
from typing import Any

import pytest

import attnspec
from attnspec.runtime import cache

SOURCE = '"""Generated."""\n\n\ndef answer() -> int:\n    # a line to read\n    return 42\n'
BIG = SOURCE + "".join(f"# padding {n}\n" for n in range(20_000))


def key_of(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def load(text: str = SOURCE, key: str | None = None) -> ModuleType:
    """Load `text` as if by a new process: no module of an earlier load is there."""
    key = key or key_of(text)
    for name in [n for n in sys.modules if n.startswith("attnspec_kernel_")]:
        del sys.modules[name]
    return cache.load_module(key, lambda: text)


def never() -> str:
    raise AssertionError("the entry in the cache was not used")


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Where entries stand; any warning about the cache is an error."""
    monkeypatch.setenv("ATTNSPEC_CACHE", str(tmp_path / "cache"))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        yield tmp_path / "cache" / "modules"


def leftovers(root: Path) -> list[str]:
    return [p.name for p in root.iterdir() if p.name.startswith(".tmp")]


def test_an_entry_is_made_once_and_found_again(root: Path) -> None:
    assert load().answer() == 42
    names = {p.name for p in (root / key_of(SOURCE)).iterdir()}
    assert names == {"kernel.py", "manifest.json"}
    for name in [n for n in sys.modules if n.startswith("attnspec_kernel_")]:
        del sys.modules[name]
    assert cache.load_module(key_of(SOURCE), never).answer() == 42


def test_no_module_is_looked_at_but_the_one_that_is_loaded(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """PyTorch asks for the place of an operation, and Python's way to it is by every module."""
    seen: list[object] = []
    plain = inspect.getabsfile

    def counted(*args: Any) -> str:
        seen.append(args)
        return plain(*args)

    monkeypatch.setattr(inspect, "getabsfile", counted)
    monkeypatch.setattr(inspect, "_filesbymodname", {})
    source = attnspec.load("causal").source
    cache.load_module(key_of(source), lambda: source, "fresh")
    assert len(seen) < 20


def test_a_module_is_compiled_once_and_again_where_that_is_damaged(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[str] = []
    whole = cache.compiled

    def counted(data: bytes, path: str) -> CodeType:
        seen.append(path)
        return whole(data, path)

    monkeypatch.setattr(cache, "compiled", counted)
    for count in (1, 1):
        assert load().answer() == 42
        assert len(seen) == count
    assert load(SOURCE.replace("42", "43")).answer() == 43
    assert len(seen) == 2
    for entry in (root.parent / "bytecode").glob("*/module"):
        entry.write_bytes(entry.read_bytes()[:-1])
    assert load().answer() == 42
    assert len(seen) == 3
    assert inspect.getsource(load().answer).endswith("return 42\n")


def test_one_process_loads_a_module_once(root: Path) -> None:
    assert load() is cache.load_module(key_of(SOURCE), never)


def test_modules_of_different_keys_do_not_meet(root: Path) -> None:
    one, two = load(), load(SOURCE.replace("42", "43"))
    assert (one.answer(), two.answer()) == (42, 43)
    assert one.__name__ != two.__name__
    assert one.__file__ != two.__file__


def test_the_directory_is_private(root: Path) -> None:
    load()
    assert [p.stat().st_mode & 0o077 for p in (root, root / key_of(SOURCE))] == [0, 0]


def test_source_can_be_inspected_and_is_what_runs(root: Path) -> None:
    module = load()
    text = inspect.getsource(module.answer)
    assert text == "def answer() -> int:\n    # a line to read\n    return 42\n"
    (root / key_of(SOURCE) / "kernel.py").write_text("def answer(): return 0\n")
    assert inspect.getsource(module.answer) == text


def test_the_place_is_read_at_the_call(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("a", "b"):
        monkeypatch.setenv("ATTNSPEC_CACHE", str(tmp_path / name))
        load()
        assert (tmp_path / name / "modules" / key_of(SOURCE)).is_dir()


def test_the_key_follows_text_options_and_compiler(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cache, "compiler_version", lambda: "one")
    keys = [cache.cache_key("a", {}), cache.cache_key("b", {}), cache.cache_key("a", {"tf32": 1})]
    assert cache.cache_key("a", {"x": 1, "y": 2}) == cache.cache_key("a", {"y": 2, "x": 1})
    monkeypatch.setattr(cache, "compiler_version", lambda: "two")
    assert len({*keys, cache.cache_key("a", {})}) == 4


def test_every_source_of_the_compiler_counts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    package = tmp_path / "attnspec"
    for folder in ("dsl", "codegen", "runtime", "templates"):
        shutil.copytree(Path(attnspec.__file__).parent / folder, package / folder)
    monkeypatch.setattr("importlib.resources.files", lambda name: package)

    def version() -> str:
        cache.compiler_version.cache_clear()
        return cache.compiler_version()

    first = version()
    assert version() == first
    (package / "dsl" / "note.txt").write_text("no source")
    assert version() == first
    changed = sorted(p for p in package.rglob("*") if p.suffix in (".py", ".lark", ".jinja"))
    assert {p.suffix for p in changed} == {".py", ".lark", ".jinja"}
    seen = {first}
    for path in changed:
        path.write_bytes(path.read_bytes() + b"\n")
        seen.add(version())
    (package / "codegen" / "new").mkdir()
    (package / "codegen" / "new" / "pass.py").write_text("")
    seen.add(version())
    cache.compiler_version.cache_clear()
    assert len(seen) == len(changed) + 2


@pytest.mark.parametrize("key", ["", "../" * 21 + "a", "A" * 64, "0" * 63, "0" * 64 + "\n"])
def test_a_key_cannot_leave_the_cache(root: Path, key: str) -> None:
    with pytest.raises(ValueError, match="not a cache key"):
        cache.load_module(key, lambda: SOURCE)
    assert not root.exists()


def test_a_module_that_fails_leaves_nothing_behind(root: Path) -> None:
    for _ in range(2):
        with pytest.raises(ZeroDivisionError):
            load("1 / 0\n")
    assert not [n for n in sys.modules if n.startswith("attnspec_kernel_")]


# Damage


def flip(path: Path, rng: random.Random) -> None:
    data = bytearray(path.read_bytes())
    data[rng.randrange(len(data))] ^= 1 << rng.randrange(8)
    path.write_bytes(data)


def truncate(path: Path, rng: random.Random) -> None:
    data = path.read_bytes()
    path.write_bytes(data[: rng.randrange(len(data))])


def extend(path: Path, rng: random.Random) -> None:
    path.write_bytes(path.read_bytes() + b"\nanswer = None\n")


def remove(path: Path, rng: random.Random) -> None:
    path.unlink()


def empty_object(path: Path, rng: random.Random) -> None:
    path.write_text(rng.choice(["{}", "[]", "null", "[" * 10_000, '{"format": 1, "files": 7}']))


def widen(path: Path, rng: random.Random) -> None:
    path.chmod(0o666)


def as_directory(path: Path, rng: random.Random) -> None:
    path.unlink()
    path.mkdir()


def as_fifo(path: Path, rng: random.Random) -> None:
    path.unlink()
    os.mkfifo(path)


DAMAGE = [flip, truncate, extend, remove, empty_object, widen, as_directory, as_fifo]


@pytest.mark.parametrize("file", ["kernel.py", "manifest.json"])
@pytest.mark.parametrize("damage", DAMAGE)
def test_a_damaged_entry_is_made_again(
    root: Path, damage: Callable[[Path, random.Random], None], file: str
) -> None:
    entry = root / key_of(SOURCE)
    rng = random.Random(7)
    for _ in range(25):
        load()
        pristine = {p.name: p.read_bytes() for p in entry.iterdir()}
        damage(entry / file, rng)
        assert load().answer() == 42
        assert {p.name: p.read_bytes() for p in entry.iterdir()} == pristine
    assert leftovers(root) == []


def test_a_link_to_other_code_is_not_followed(root: Path, tmp_path: Path) -> None:
    evil = "def answer(): return 666\n"
    planted = root / key_of(evil)
    load(evil)
    entry = root / key_of(SOURCE)
    load()
    entry.rename(tmp_path / "moved")
    for target in (planted, tmp_path / "moved"):
        entry.symlink_to(target)
        assert load().answer() == 42
        assert not entry.is_symlink()
        for name in ("kernel.py", "manifest.json"):
            (entry / name).unlink()
            (entry / name).symlink_to(target / name)
            assert load().answer() == 42
            assert not (entry / name).is_symlink()
        shutil.rmtree(entry)
    assert (planted / "kernel.py").read_text() == evil


@pytest.mark.parametrize("name", ["../kernel.py", "/etc/passwd", "a/b", "..", "manifest.json"])
def test_a_manifest_cannot_name_a_file_elsewhere(root: Path, name: str) -> None:
    load()
    manifest = root / key_of(SOURCE) / "manifest.json"
    manifest.write_text(json.dumps({"format": 1, "files": {name: "0" * 64}}))
    assert load().answer() == 42


def test_an_entry_with_a_further_file_is_made_again(root: Path) -> None:
    load()
    entry = root / key_of(SOURCE)
    manifest = json.loads((entry / "manifest.json").read_text())
    (entry / "extra.py").write_text("")
    manifest["files"]["extra.py"] = hashlib.sha256(b"").hexdigest()
    (entry / "manifest.json").write_text(json.dumps(manifest))
    assert load().answer() == 42
    assert not (entry / "extra.py").exists()


# No directory to use


def in_memory(reason: str) -> None:
    with pytest.warns(RuntimeWarning, match=reason):
        module = load()
    assert module.answer() == 42
    assert "return 42" in inspect.getsource(module.answer)


def test_a_place_that_cannot_be_made(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("ATTNSPEC_CACHE", str(tmp_path / "file" / "cache"))
    in_memory("Not a directory")


def test_a_place_open_to_others_is_refused(root: Path) -> None:
    load()
    root.chmod(0o777)
    in_memory("open to others")


def test_a_linked_place_is_refused(root: Path, tmp_path: Path) -> None:
    load()
    root.rename(tmp_path / "elsewhere")
    root.symlink_to(tmp_path / "elsewhere")
    in_memory("is a link")


def test_a_full_disk_leaves_nothing_behind(root: Path) -> None:
    load()
    before = sorted(root.rglob("*"))
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, limits[1]))
    try:
        with pytest.warns(RuntimeWarning, match="stay in memory"):
            assert load(BIG).answer() == 42
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        signal.signal(signal.SIGXFSZ, handler)
    assert sorted(root.rglob("*")) == before


# Several processes, killed ones among them. Each child is a fresh interpreter without torch.

WORKER = """
import os, signal, sys
sys.path.insert(0, os.path.dirname({here!r}))
from attnspec import store
from attnspec.runtime import cache
from test_cache import BIG, key_of, load

def crash_at(n):
    '''Die by SIGKILL at the n-th change of the file system below the cache.'''
    events = {{"open", "os.rename", "os.remove", "os.mkdir", "os.rmdir", "tempfile.mkstemp"}}
    left = [n]
    def hook(event, args):
        if event in events and "modules" in str(args[0]):
            left[0] -= 1
            if left[0] < 0:
                os.kill(os.getpid(), signal.SIGKILL)
    sys.addaudithook(hook)
"""


def script(body: str) -> list[str]:
    return [sys.executable, "-c", WORKER.format(here=__file__) + body]


def test_four_processes_at_once(root: Path) -> None:
    body = """
import time
start = float(sys.stdin.readline())
for n in range(30):
    time.sleep(max(0.0, start + n / 25 - time.time()))
    text = BIG.replace("42", str(n))
    assert load(text, key_of(f"round {n}")).answer() == n
"""
    children = [
        subprocess.Popen(script(body), stdin=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        for _ in range(4)
    ]
    start = time.time() + 1
    for child in children:
        assert child.stdin is not None
        child.stdin.write(f"{start}\n")
        child.stdin.flush()
    errors = [child.communicate(timeout=120)[1] for child in children]
    assert errors == ["", "", "", ""]
    assert len([p for p in root.iterdir() if len(p.name) == 64]) == 30
    assert leftovers(root) == []


def test_a_writer_killed_at_every_step(root: Path) -> None:
    """One forked writer a step dies there; the next reader finds or makes the right module."""
    body = """
root = store.cache_dir() / "modules"
entry = root / key_of(BIG)
steps, torn = 0, 0
for damaged in (False, True):
    while True:
        load(BIG)
        if damaged:
            (entry / "kernel.py").write_text("half of")
        else:
            for path in (*entry.iterdir(), entry):
                path.unlink() if path.is_file() else path.rmdir()
        child = os.fork()
        if child == 0:
            crash_at(steps)
            load(BIG)
            os._exit(0)
        killed = os.WIFSIGNALED(os.waitpid(child, 0)[1])
        torn += any(p.name.startswith(".tmp") for p in root.iterdir())
        assert load(BIG).answer() == 42
        assert load(BIG).__file__ == str(entry / "kernel.py")
        assert not [p for p in root.iterdir() if p.name.startswith(".tmp")], steps
        if not killed:
            break
        steps += 1
    print(steps, torn)
    steps = 0
"""
    done = subprocess.run(script(body), check=False, timeout=240, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    counts = [[int(n) for n in line.split()] for line in done.stdout.splitlines()]
    assert len(counts) == 2
    for steps, torn in counts:
        assert steps >= 8
        assert torn >= 1
    assert done.stderr == ""


def test_a_writer_killed_at_any_time(root: Path) -> None:
    """The same, at moments that no step of ours names: inside writes and syncs."""
    rng = random.Random(time.time_ns())
    seed = rng.randrange(2**32)
    print(f"seed {seed}")
    body = f"""
import random, time
rng = random.Random({seed})
root = store.cache_dir() / "modules"
start = time.perf_counter(); load(BIG); once = time.perf_counter() - start
killed = 0
for n in range(200):
    key = key_of(f"kill {{n}}")
    child = os.fork()
    if child == 0:
        load(BIG, key)
        os._exit(0)
    time.sleep(rng.random() * once)
    os.kill(child, signal.SIGKILL)
    killed += os.WIFSIGNALED(os.waitpid(child, 0)[1])
    assert load(BIG, key).__file__ == str(root / key / "kernel.py")
assert not [p for p in root.iterdir() if p.name.startswith(".tmp")]
print(killed)
"""
    done = subprocess.run(script(body), check=False, timeout=240, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")
    assert int(done.stdout) >= 60
