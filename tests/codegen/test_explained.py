"""What `explain --json` says of every library spec, as it was.

`pytest --update-golden` writes the files anew; read the difference before committing it.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from attnspec.codegen import library
from attnspec.codegen.cli import main

GOLDEN = Path(__file__).parent / "golden" / "explain"


def explained(name: str) -> dict[str, Any]:
    """What is kept of it: the spec says the rest, or the modules that test_render keeps."""
    result = CliRunner().invoke(main, ["explain", name, "--json"])
    assert result.exit_code == 0, result.output
    found = json.loads(result.stdout)
    assert found["name"] == name
    kept = {key: found[key] for key in ("stages", "backward", "packing", "operations", "picture")}
    choices = [choice for plan in found["passes"] for choice in plan["choices"]]
    return {"facts": found["facts"]["facts"], **kept} | ({"choices": choices} if choices else {})


def shown(value: Any, depth: int = 0) -> str:
    """JSON with a fact, a kernel or a row of tiles on each line."""
    tall = isinstance(value, list) and len(value) > 3
    if not value or not isinstance(value, dict | list) or (depth > 1 and not tall):
        return json.dumps(value, ensure_ascii=False)
    pad = "\n" + " " * depth
    if isinstance(value, list):
        items = [shown(item, depth + 1) for item in value]
        return f"[{pad} {f',{pad} '.join(items)}{pad}]"
    items = [f"{json.dumps(key)}: {shown(item, depth + 1)}" for key, item in value.items()]
    return f"{{{pad} {f',{pad} '.join(items)}{pad}}}"


def test_what_is_shown_is_json() -> None:
    found = explained("natten")
    assert json.loads(shown(found)) == found


@pytest.mark.parametrize("name", library.names())
def test_every_spec_is_explained_as_it_was(name: str, update_golden: bool) -> None:
    path = GOLDEN / f"{name}.json"
    text = shown(explained(name)) + "\n"
    if update_golden:
        path.parent.mkdir(exist_ok=True)
        path.write_text(text, encoding="utf-8")
    assert text == path.read_text(encoding="utf-8")


def test_no_golden_file_is_left_over() -> None:
    assert {path.stem for path in GOLDEN.iterdir()} == set(library.names())
