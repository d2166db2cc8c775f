"""Every diagnostic of the checker: a program, and the exact text beside it in golden/.

`pytest --update-golden` writes the texts anew; read the difference before committing it.
"""

from __future__ import annotations

import re
import time
from pathlib import Path

import pytest

from attnspec.dsl import check as check_module
from attnspec.dsl.check import check
from attnspec.dsl.diagnostics import AttnError, Diagnostic
from attnspec.dsl.parse import parse
from attnspec.dsl.render_diagnostic import plain

GOLDEN = Path(__file__).parent / "golden"
PROGRAMS = sorted(GOLDEN.glob("*.attn"))


def findings(text: str, path: str) -> tuple[Diagnostic, ...]:
    try:
        return check(parse(text, path=path))[1]
    except AttnError as error:
        return error.diagnostics


@pytest.mark.parametrize("program", PROGRAMS, ids=lambda path: path.stem)
def test_text_is_exact(program: Path, update_golden: bool) -> None:
    text = program.read_text(encoding="utf-8")
    found = findings(text, program.name)
    shown = "\n".join(plain(diagnostic, text, program.name) for diagnostic in found)
    expected = program.with_suffix(".txt")
    if update_golden:
        expected.write_text(shown, encoding="utf-8")
    assert shown == expected.read_text(encoding="utf-8")
    assert program.stem.split("_")[0] in {diagnostic.code for diagnostic in found}


@pytest.mark.parametrize("program", PROGRAMS, ids=lambda path: path.stem)
def test_finding_is_well_formed(program: Path) -> None:
    text = program.read_text(encoding="utf-8")
    for found in findings(text, program.name):
        assert found.title
        assert found.title[-1] != "."
        assert found.label
        assert found.help
        assert 0 <= found.span.start < found.span.end <= len(text)
        assert text[: found.span.start].count("\n") + 1 == found.span.line


def test_every_code_has_a_program() -> None:
    folder = Path(check_module.__file__).parent
    sources = "".join(path.read_text(encoding="utf-8") for path in folder.glob("check*.py"))
    raised = set(re.findall(r'"([AW]\d{3})"', sources))
    documented = set(re.findall(r"\b[AW]\d{3}\b", check_module.__doc__ or ""))
    shown = {program.stem.split("_")[0] for program in PROGRAMS}
    assert raised == documented == shown


def test_all_errors_come_at_once() -> None:
    text = "attention x\nmask jj <= i\nscore = dot(q[i], kk[j]) / sqrt(DD)\nlet dot = 1\n"
    found = findings(text, "x.attn")
    assert [(d.code, d.span.line) for d in found] == [
        ("A101", 2),
        ("A101", 3),
        ("A101", 3),
        ("A103", 4),
    ]


def test_an_error_knows_its_spec() -> None:
    text = "attention x\nmask jj <= i\n"
    with pytest.raises(AttnError, match="unknown name `jj`") as caught:
        check(parse(text, path="deep/x.attn"))
    assert (caught.value.text, caught.value.path) == (text, "deep/x.attn")


def doubling(count: int) -> str:
    lines = "".join(f"let a{k} = a{k - 1} + a{k - 1}\n" for k in range(1, count))
    return f"let a0 = i\n{lines}score = a{count - 1}\n"


HOSTILE = {
    "doubled lets": doubling(60),
    "doubled functions": "let f0(x) = x + x\n"
    + "".join(f"let f{k}(x) = f{k - 1}(f{k - 1}(x))\n" for k in range(1, 40))
    + "score = f39(1)\n",
    "long chain": "let a0 = 1\n"
    + "".join(f"let a{k} = a{k - 1} + 1\n" for k in range(1, 400))
    + "score = a399\n",
    "definitions squared": "let a0[i] = i + 1\n"
    + "".join(f"let a{k}[i] = a{k - 1} + a{k - 1}[i] * a{k - 1}\n" for k in range(1, 200))
    + "param w[9]\nscore = 1 / a199 + w[a199]\n",
    "alternatives": "mask "
    + " and ".join(f"(i * {k} < j or j * {k} > i + {k})" for k in range(2, 40))
    + "\nparam w[9]\nscore = w[i - j] / (i * j - 7)\n",
    "quotients": "let a0[i] = i + 1\n"
    + "".join(f"let a{k}[i] = max(a{k - 1}, a{k - 1}[i + 1]) // a{k - 1}\n" for k in range(1, 200))
    + "score = 1 / a199\n",
    "exclusions": "causal\nmask " + " and ".join(f"(j - i) % {k} != 1" for k in range(2, 60)),
    "tower": "const c: int = 9 ** 9 ** 9 ** 9 ** 9\nscore = c\n",
}


@pytest.mark.parametrize("body", HOSTILE.values(), ids=HOSTILE.keys())
def test_hostile_specs_end_in_an_error_soon(body: str) -> None:
    started = time.process_time()  # of this process, so that a busy machine does not count
    found = findings(f"attention x\n{body}\n", "x.attn")
    assert any(d.severity == "error" for d in found)
    assert time.process_time() - started < 1
