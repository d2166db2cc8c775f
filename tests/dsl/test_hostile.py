"""A spec may come from anyone: each of these ends in an AttnError, soon and in little memory."""

from __future__ import annotations

import gc
import subprocess
import sys
import time
from dataclasses import fields

import pytest
from hypothesis import example as also
from hypothesis import given, settings
from hypothesis import strategies as st

from attnspec.dsl import syntax
from attnspec.dsl.diagnostics import AttnError
from attnspec.dsl.limits import EXPRESSION_DEPTH, EXPRESSION_NODES, STATEMENTS
from attnspec.dsl.parse import parse

X = "attention x\n"
BIG = 60_000  # characters: under the limit on a file, so that the limits behind it must act

# What it is: the code of its error, and the text.
HOSTILE: dict[str, tuple[str, str]] = {
    "a file of a million characters": ("A001", X + "causal\n" * 150_000),
    "a line of a million brackets": ("A001", X + "let a = " + "(" * 1_000_000),
    "a megabyte in few wide characters": ("A001", X + '"""' + "\U0001f600" * 20_000 + '"""'),
    "nested parentheses": ("A005", X + "let a = " + "(" * 30_000 + "1" + ")" * 30_000),
    "nested brackets and parentheses": (
        "A005",
        X + "let a = " + "x[(" * 10_000 + "1" + ")]" * 10_000,
    ),
    "nested calls": ("A005", X + "let a = " + "f(" * 20_000 + "1" + ")" * 20_000),
    "closing brackets": ("A004", X + "let a = " + ")" * BIG),
    "opening brackets in a comment's shadow": (
        "A005",
        X + "# (\n" + "let a = " + "(" * 65 + ")" * 65,
    ),
    "minus signs": ("A011", X + "let a = " + "-" * BIG + "1"),
    "nots": ("A011", X + "mask " + "not " * (BIG // 4) + "true"),
    "exponent tower": ("A011", X + "let a = " + "9**" * (BIG // 3) + "9"),
    "exponent tower of negatives": ("A011", X + "let a = " + "9**-" * (BIG // 4) + "9"),
    "long sum": ("A011", X + "let a = " + "1+" * (BIG // 2) + "1"),
    "long product": ("A011", X + "let a = " + "N*" * (BIG // 2) + "N"),
    "long disjunction": ("A011", X + "mask " + "i or " * (BIG // 5) + "j"),
    "long sum that ends in an error": ("A011", X + "let a = " + "1+" * (BIG // 2) + "*"),
    "long tower that ends in an error": ("A011", X + "let a = " + "1**" * (BIG // 3) + "$"),
    "some minus signs": ("A010", X + "let a = " + "-" * 101 + "1"),
    "some nots": ("A010", X + "mask " + "not " * 5_000 + "true"),
    "some exponents": ("A010", X + "let a = " + "9**" * 2_900 + "9"),
    "some sum": ("A010", X + "let a = " + "1+" * 900 + "1"),
    "some tower that ends in an error": ("A006", X + "let a = " + "1**" * 2_900 + "$"),
    "some sum that ends in an error": ("A017", X + "let a = " + "1+" * 2_900 + "*"),
    "wide call": ("A011", X + "let a = f(" + "1," * (BIG // 2) + ")"),
    "long list": ("A011", X + "param a = [" + "1," * (BIG // 2) + "]"),
    "wide comparison": ("A011", X + "mask " + "1<" * (BIG // 2) + "1"),
    "many axes": ("A011", X + "param a[" + "1," * (BIG // 2) + "1]"),
    "many statements": ("A012", X + "causal\n" * (BIG // 7)),
    "many keywords": ("A011", X + "let a = f(" + ",".join(f"k{n}=1" for n in range(6_000)) + ")"),
    "long number": ("A007", X + "let a = " + "9" * BIG),
    "long exponent": ("A007", X + "let a = 1e" + "9" * BIG),
    "large exponent": ("A007", X + "let a = 1e309"),
    "hexadecimal": ("A007", X + "let a = 0xff"),
    "long name": ("A008", X + "let " + "a" * BIG + " = 1"),
    "null": ("A002", X + "let a\x00 = 1"),
    "escape": ("A002", X + "# \x1b[2J"),
    "lone carriage return": ("A002", X + "# hidden\rlet a = 1"),
    "bidirectional override in a comment": ("A002", X + "# \u202e"),
    "bidirectional isolate in a text": ("A002", X + 'cite "\u2066"'),
    "zero width space in a name": ("A002", X + "let a\u200bb = 1"),
    "line separator": ("A002", X + "let a = 1\u2028let b = 2"),
    "byte order mark": ("A002", "\ufeff" + X),
    "lone surrogate": ("A002", X + "# \ud800"),
    "Greek name": ("A006", X + "let \u03b1 = 1"),
    "full-width digits": ("A006", X + "let a = \uff11"),
    "ligature": ("A006", X + "let \ufb01x = 1"),
    "Arabic digits": ("A006", X + "let a = \u0661"),
    "superscript": ("A006", X + "let a = 2\u00b2"),
    "open docstring": ("A003", X + '"""' + "a\n" * (BIG // 2)),
    "quotes": ("A003", X + '"' * (BIG + 1)),
    "only newlines": ("A009", "\n" * BIG),
    "only comments": ("A009", "#\n" * (BIG // 2)),
    "nothing": ("A009", ""),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_a_hostile_text_is_refused_within_a_second(name: str) -> None:
    parse(X)  # the grammar is read once a process
    gc.collect()  # what other tests left is not counted against this one
    gc.freeze()
    start = time.process_time()
    code, text = HOSTILE[name]
    with pytest.raises(AttnError) as caught:
        parse(text)
    shown = str(caught.value)
    assert time.process_time() - start < 1
    gc.unfreeze()
    (found,) = caught.value.diagnostics
    assert found.code == code
    assert len(shown) < 1000
    assert all(char.isprintable() or char == "\n" for char in shown)


def test_memory_stays_small() -> None:
    """All of them, one after another, in a process that may have 200 MB."""
    code = (
        "import re, sys\n"
        "from attnspec.dsl.parse import parse\n"
        "from attnspec.dsl.diagnostics import AttnError\n"
        "for part in (('(' * 60000), ('1+' * 30000 + '1'), ('9**' * 20000 + '9'), ('-' * 60000)):\n"
        "    try:\n"
        "        parse('attention x\\nlet a = ' + part)\n"
        "    except AttnError as error:\n"
        "        str(error)\n"
        # The peak of this program alone: getrusage counts what the parent had before exec.
        "status = open('/proc/self/status').read()\n"
        "sys.exit(int(re.search(r'VmHWM:\\s+(\\d+)', status)[1]) > 200 * 1024)\n"
    )
    assert subprocess.run([sys.executable, "-c", code], timeout=60, check=False).returncode == 0


def test_what_just_fits_is_read() -> None:
    parse(X + "let a = " + "(" * 64 + "1" + ")" * 64)
    parse(X + "let a = " + "-" * EXPRESSION_DEPTH + "1")
    parse(X + "let a = f(" + "1," * (EXPRESSION_NODES - 2) + ")")
    parse(X + "causal\n" * STATEMENTS)
    parse(X + "#" * (64 * 1024 - len(X)))
    parse(X + "let " + "a" * 63 + " = 1")


def test_what_is_read_can_be_compared_and_shown() -> None:
    """Recursion over the deepest tree that is accepted stays far from Python's limit."""
    text = X + "let a = " + "(-" * 50 + "1" + "+1)" * 50
    tree = parse(text)
    assert parse(text) == tree
    assert hash(tree) == hash(parse(text))
    assert repr(tree)


def sound(error: AttnError, text: str) -> None:
    (found,) = error.diagnostics
    assert found.code.startswith("A0")
    assert 0 <= found.span.start <= found.span.end <= len(text) + 1
    assert all(char.isprintable() or char == "\n" for char in str(error))


def check(text: str) -> None:
    """Parsing ends in a tree that holds only what a spec may hold, or in an AttnError."""
    try:
        tree = parse(text)
    except AttnError as error:
        sound(error, text)
        return
    stack: list[object] = [tree.name, *tree.statements]
    while stack:
        node = stack.pop()
        if isinstance(node, syntax.Cite | syntax.Catalog):
            continue
        if isinstance(node, syntax.Node):
            stack += [getattr(node, f.name) for f in fields(node) if f.compare]
        elif isinstance(node, tuple):
            stack += node
        elif isinstance(node, str):
            assert node.isascii()


WORDS = st.sampled_from(
    [
        *("attention x\n", "let", "mask", "score", "state", "step", "input", "grid", "output"),
        *("return", "blocks", "causal", "axis", "index", "param", "value", "cite", "over"),
        *("reverse", "int", "and", "or", "not", "in", "where", "true", "none", "i", "j", "k"),
        *("=", "==", "<", "<=", "(", ")", "[", "]", ",", ":", ".", "+", "-", "*", "**", "/"),
        *("//", "%", "@", "1", "0.5", "1e-6", "1e999", '"', '"""', "#", "\n", "\r\n", " "),
        *("\u00e9", "\x00", "\u202e", "$"),
    ]
)


@settings(derandomize=True, max_examples=500, deadline=None)
@given(st.lists(WORDS, max_size=40).map(" ".join))
def test_random_words(text: str) -> None:
    check(X + text)


@settings(derandomize=True, max_examples=300, deadline=None)
@given(st.binary(max_size=200))
@also(b"attention x\r\ncite \xff\xfe")
def test_random_bytes(data: bytes) -> None:
    check(data.decode("utf-8", "surrogateescape"))
    check(X + data.decode("latin-1"))


@settings(derandomize=True, max_examples=20, deadline=None)
@given(data=st.data())
def test_damaged_examples(examples: dict[str, str], data: st.DataObject) -> None:
    """A spec with a piece cut out, doubled or replaced."""
    for text in examples.values():
        start = data.draw(st.integers(0, len(text)))
        end = data.draw(st.integers(start, min(start + 10, len(text))))
        check(text[:start] + text[end:])
        check(text[:end] + text[start:])
        check(text[:start] + data.draw(st.sampled_from("()[]=\"'#\n.,*-1")) + text[end:])
