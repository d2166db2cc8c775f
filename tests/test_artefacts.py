"""Files of a build: whole, listed, and kept from others."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from attnspec.artefacts import read_directory, update_directory, write_directory


def test_what_is_written_is_read(tmp_path: Path) -> None:
    files = {"a.py": b"x = 1\n", "b.cubin": bytes(range(256))}
    write_directory(tmp_path, files)
    assert read_directory(tmp_path) == files


def test_an_update_keeps_what_is_listed_and_there(tmp_path: Path) -> None:
    place = tmp_path / "new" / "place"
    update_directory(place, {"a.py": b"1", "b.py": b"2", "c.py": b"3"})
    (place / "c.py").unlink()
    update_directory(place, {"b.py": b"two", "d.py": b"4"})
    assert read_directory(place) == {"a.py": b"1", "b.py": b"two", "d.py": b"4"}


def test_files_of_others_stay_unlisted(tmp_path: Path) -> None:
    (tmp_path / "mine.txt").write_text("mine")
    update_directory(tmp_path, {"a.py": b"1"})
    assert read_directory(tmp_path) == {"a.py": b"1"}
    assert (tmp_path / "mine.txt").read_text() == "mine"


@pytest.mark.parametrize("text", ["", "[]", '{"files": {"../a.py": "0"}}', '{"files": [1]}'])
def test_an_odd_manifest_is_replaced(tmp_path: Path, text: str) -> None:
    (tmp_path / "manifest.json").write_text(text)
    update_directory(tmp_path, {"a.py": b"1"})
    assert list(json.loads((tmp_path / "manifest.json").read_text())["files"]) == ["a.py"]


def test_what_a_killed_writer_left_is_removed(tmp_path: Path) -> None:
    (tmp_path / ".tmp-left").write_text("half")
    update_directory(tmp_path, {"a.py": b"1"})
    assert not (tmp_path / ".tmp-left").exists()


@pytest.mark.parametrize("name", ["", ".", "..", "a/b", "/etc/x", "a\\b", "manifest.json", "a\0"])
def test_a_name_stays_in_its_directory(tmp_path: Path, name: str) -> None:
    with pytest.raises(ValueError, match="not a plain file name"):
        update_directory(tmp_path, {name: b""})
    assert {p.name for p in tmp_path.iterdir()} <= {".lock"}


def test_the_same_files_give_the_same_manifest(tmp_path: Path) -> None:
    for place, order in (("a", ["x", "y"]), ("b", ["y", "x"])):
        for name in order:
            update_directory(tmp_path / place, {name: name.encode()})
    manifests = [(tmp_path / place / "manifest.json").read_bytes() for place in "ab"]
    assert manifests[0] == manifests[1]


def test_builds_at_once_lose_no_file(tmp_path: Path) -> None:
    program = """
import sys
from pathlib import Path
from attnspec.artefacts import update_directory
for n in range(15):
    name = f"{sys.argv[2]}_{n}.py"
    update_directory(Path(sys.argv[1]), {name: name.encode(), "shared.py": name.encode()})
"""
    builds = [
        subprocess.Popen([sys.executable, "-c", program, str(tmp_path / "out"), str(n)])
        for n in range(4)
    ]
    assert [build.wait(60) for build in builds] == [0, 0, 0, 0]
    files = read_directory(tmp_path / "out")
    assert files is not None
    shared = files.pop("shared.py").decode()
    assert files == {f"{b}_{n}.py": f"{b}_{n}.py".encode() for b in range(4) for n in range(15)}
    assert shared in files
