"""Tables of the grammar and compiled templates, made once and then found."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jinja2
import pytest

from attnspec import store
from attnspec.codegen import render
from attnspec.dsl import parse

TEXT = "attention a\nmask j <= i\nscore = dot(q[i], k[j])\n"
TEMPLATE = "module.py.jinja"
PROGRAM = """
import sys, attnspec
print(hash(attnspec.compile(sys.argv[1]).source))
"""


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where entries of every kind stand."""
    monkeypatch.setenv("ATTNSPEC_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def made(root: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Grows whenever a table or a template is made."""
    seen: list[str] = []
    tables, compiled = parse._tables, jinja2.Environment.compile

    def counted_tables(grammar: str) -> bytes:
        seen.append("grammars")
        return tables(grammar)

    def counted_compile(self: jinja2.Environment, *args: str) -> Any:
        seen.append("templates")
        return compiled(self, *args)  # type: ignore[call-overload]

    monkeypatch.setattr(parse, "_tables", counted_tables)
    monkeypatch.setattr(jinja2.Environment, "compile", counted_compile)
    return seen


def parser() -> object:
    """As a new process has it."""
    return parse._parser.__wrapped__().parse(TEXT)


def template() -> object:
    return render.environment.__wrapped__().get_template(TEMPLATE).debug_info


MADE: list[tuple[str, Callable[[], object]]] = [("grammars", parser), ("templates", template)]


def emptied(entry: Path) -> None:
    for file in entry.iterdir():
        file.write_bytes(b"")


def cut(entry: Path) -> None:
    for file in entry.iterdir():
        file.write_bytes(file.read_bytes()[:-1])


def altered(entry: Path) -> None:
    for file in entry.iterdir():
        if file.name != "manifest.json":
            file.write_bytes(b"\x00" + file.read_bytes())


def open_to_others(entry: Path) -> None:
    entry.chmod(0o777)


def without_manifest(entry: Path) -> None:
    (entry / "manifest.json").unlink()


@pytest.mark.parametrize(("kind", "make"), MADE)
def test_it_is_made_once(kind: str, make: Callable[[], object], made: list[str]) -> None:
    first = make()
    assert make() == first
    assert made == [kind]


@pytest.mark.parametrize("harm", [emptied, cut, altered, open_to_others, without_manifest])
@pytest.mark.parametrize(("kind", "make"), MADE)
def test_what_is_amiss_is_made_again(
    kind: str, make: Callable[[], object], harm: Callable[[Path], None], root: Path, made: list[str]
) -> None:
    first = make()
    (entry,) = (path for path in (root / kind).iterdir() if path.is_dir())
    harm(entry)
    assert make() == first
    assert make() == first
    assert made == [kind] * 2


@pytest.mark.parametrize(("kind", "make"), MADE)
def test_without_a_directory_it_is_made_each_time(
    kind: str, make: Callable[[], object], root: Path, made: list[str]
) -> None:
    root.write_text("no directory")
    assert make() == make()
    assert made == [kind] * 2


def test_templates_of_another_text_do_not_mix(root: Path, made: list[str]) -> None:
    env = render.environment.__wrapped__()
    for text in ("one", "other", "one"):
        env = env.overlay(loader=jinja2.DictLoader({"x": text}), cache_size=0)
        assert env.get_template("x").render() == text
    assert made == ["templates"] * 2


def test_keys_tell_parts_apart() -> None:
    keys = {store.key_of(*parts) for parts in (("a", "b"), ("ab",), ("a", "b", ""), ("a\0b",))}
    assert len(keys) == 4


def test_several_first_processes_at_once(root: Path) -> None:
    """All make the same, and leave whole entries."""
    environment = {**os.environ, "PYTHONHASHSEED": "0"}
    started = [
        subprocess.Popen([sys.executable, "-c", PROGRAM, TEXT], env=environment, text=True,
                         stdout=subprocess.PIPE)
        for _ in range(3)
    ]  # fmt: skip
    results = {process.communicate(timeout=120)[0] for process in started}
    assert len(results) == 1
    assert results != {""}
    for kind in ("grammars", "templates", "modules"):
        entries = [path for path in (root / kind).iterdir() if path.is_dir()]
        assert entries
        assert all(store.find(kind, entry.name) is not None for entry in entries)
