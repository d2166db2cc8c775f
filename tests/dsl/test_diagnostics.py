"""Every A0xx diagnostic beside the spec that causes it, and how diagnostics are rendered."""

from __future__ import annotations

import json
import pickle
import re
from importlib.resources import files

import pytest
from rich.console import Console

from attnspec.dsl.diagnostics import AttnError, Diagnostic
from attnspec.dsl.parse import parse
from attnspec.dsl.render_diagnostic import coloured, plain, to_json
from attnspec.dsl.scan import locate

X = "attention x\n"

# A spec and the exact text of its error.
CASES: list[tuple[str, str]] = [
    (
        X + "#" * 65536,
        """
error[A001]: the file is too long
 --> x.attn:1:1
  |
1 | attention x
  | ^ 65548 bytes, at most 65536 are read
  = help: write one mechanism a file, and give long tables at the call
""",
    ),
    (
        X + "let a = 1 \u202e",
        """
error[A002]: the text holds an invisible character
 --> x.attn:2:11
  |
2 | let a = 1 �
  |           ^ character U+202E
  = help: delete it
""",
    ),
    (
        X + "let a = 1\x00",
        """
error[A002]: the text holds an invisible character
 --> x.attn:2:10
  |
2 | let a = 1�
  |          ^ character U+0000
  = help: delete it
""",
    ),
    (
        X + '"""Never closed.\nlet a = 1\n',
        '''
error[A003]: a docstring is never closed
 --> x.attn:2:1
  |
2 | """Never closed.
  | ^^^ opened here
  = help: close it with `"""`
''',
    ),
    (
        X + 'cite "arXiv\nlet a = 1\n',
        """
error[A003]: a text is not closed on its line
 --> x.attn:2:6
  |
2 | cite "arXiv
  |      ^ opened here
  = help: close it with `"`
""",
    ),
    (
        X + "score = dot(q[i], k[j]\nmask j <= i\n",
        """
error[A004]: `(` is never closed
 --> x.attn:2:12
  |
2 | score = dot(q[i], k[j]
  |            ^ opened here
  = help: close it with `)`
""",
    ),
    (
        X + "score = dot(q[i], k[j]) / 2)\n",
        """
error[A004]: `)` closes nothing
 --> x.attn:2:28
  |
2 | score = dot(q[i], k[j]) / 2)
  |                            ^ no bracket is open here
  = help: delete it, or open it with `(`
""",
    ),
    (
        X + "let a = (1 +\n  b[2)]\n",
        """
error[A004]: `[` is closed by `)`
 --> x.attn:3:6
  |
3 |   b[2)]
  |    - opened here
  |      ^ expected `]`
  = help: close brackets in the order in which they were opened, from the inside
""",
    ),
    (
        X + "let a = (" + "\n  [" * 64 + "]" * 64 + ")",
        """
error[A005]: brackets are nested too deep
  --> x.attn:66:3
   |
66 |   []]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]])
   |   ^ more than 64 inside one another
   = help: name a part of the expression with `let`
""",
    ),
    (
        X + "let γ = 1\n",
        """
error[A006]: unexpected character `γ`
 --> x.attn:2:5
  |
2 | let γ = 1
  |     ^ means nothing here
  = help: names are ASCII letters, digits and `_`
""",
    ),
    (
        X + "mask j <= i & i < 3\n",
        """
error[A006]: unexpected character `&`
 --> x.attn:2:13
  |
2 | mask j <= i & i < 3
  |             ^ means nothing here
  = help: write `and`
""",
    ),
    (
        X + "mask j ≤ i\n",
        """
error[A006]: unexpected character `≤`
 --> x.attn:2:8
  |
2 | mask j ≤ i
  |        ^ means nothing here
  = help: write `<=`
""",
    ),
    (
        X + "let a = 1;\n",
        """
error[A006]: unexpected character `;`
 --> x.attn:2:10
  |
2 | let a = 1;
  |          ^ means nothing here
  = help: write one statement a line
""",
    ),
    (
        X + "let a = 3x\n",
        """
error[A007]: a number cannot be read
 --> x.attn:2:9
  |
2 | let a = 3x
  |         ^^ neither an int nor a float
  = help: numbers look like 3, 0.5, 1e-6
""",
    ),
    (
        X + "let a = 1e999\n",
        """
error[A007]: a number cannot be read
 --> x.attn:2:9
  |
2 | let a = 1e999
  |         ^^^^^ larger than any float64
  = help: write a smaller number
""",
    ),
    (
        X + "let a = 007\n",
        """
error[A007]: a number cannot be read
 --> x.attn:2:9
  |
2 | let a = 007
  |         ^^^ an int does not start with 0
  = help: write `7`
""",
    ),
    (
        X + "let a = 9007199254740993\n",
        """
error[A007]: a number cannot be read
 --> x.attn:2:9
  |
2 | let a = 9007199254740993
  |         ^^^^^^^^^^^^^^^^ larger than 2 ** 53
  = help: write it as a float
""",
    ),
    (
        X + "let a" + "b" * 63 + " = 1",
        """
error[A008]: a name is too long
 --> x.attn:2:5
  |
2 | let abbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbb = 1
  |     ^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^ 64 characters, at most 63
  = help: shorten it
""",
    ),
    (
        "",
        """
error[A009]: the `attention` line is missing
 --> x.attn:1:1
  |
1 |
  | ^ a spec starts with its name
  = help: write `attention NAME` first
""",
    ),
    (
        "let a = 1\n",
        """
error[A009]: the `attention` line is missing
 --> x.attn:1:1
  |
1 | let a = 1
  | ^^^ a spec starts with its name
  = help: write `attention NAME` first
""",
    ),
    (
        X + "let a = (\n" + "-" * 101 + "1)",
        """
error[A010]: an expression is nested too deep
 --> x.attn:2:1
  |
2 | let a = (
  | ^^^^^^^^^ more than 100 operations inside one another
  = help: name a part of it with `let`
""",
    ),
    (
        X + "param a = [\n" + "0, " * 2000 + "]",
        """
error[A011]: a statement is too large
 --> x.attn:2:1
  |
2 | param a = [
  | ^^^^^^^^^^^ more than 2000 names, numbers and operations
  = help: give long tables at the call, and name parts with `let`
""",
    ),
    (
        X + "let a = (\n  " + "1+" * 2998 + "\n  2)",
        """
error[A011]: a statement is too large
 --> x.attn:4:3
  |
4 |   2)
  |   ^ more than 6000 words and signs
  = help: give long tables at the call, and name parts with `let`
""",
    ),
    (
        X + "causal\n" * 501,
        """
error[A012]: the file has too many statements
   --> x.attn:502:1
    |
502 | causal
    | ^^^^^^ statement 501, at most 500 are read
    = help: write one mechanism a file
""",
    ),
    (
        X + "let a = f(b=1, 2)\n",
        """
error[A013]: an argument without a name follows one with a name
 --> x.attn:2:16
  |
2 | let a = f(b=1, 2)
  |                ^ has no name
  = help: put it before the arguments with names
""",
    ),
    (
        X + "let a = f(b=1, b=2)\n",
        """
error[A014]: `b=` is given twice
 --> x.attn:2:16
  |
2 | let a = f(b=1, b=2)
  |                ^^^ given before
  = help: delete one of them
""",
    ),
    (
        X + "scores = 1\n",
        """
error[A015]: no statement starts with `scores`
 --> x.attn:2:1
  |
2 | scores = 1
  | ^^^^^^ expected a statement
  = help: did you mean `score`?
""",
    ),
    (
        X + "a = 1\n",
        """
error[A015]: no statement starts with `a`
 --> x.attn:2:1
  |
2 | a = 1
  | ^ expected a statement
  = help: to name something, write `let NAME = ...`
""",
    ),
    (
        X + "attention y\n",
        """
error[A015]: a second `attention` line
 --> x.attn:2:1
  |
2 | attention y
  | ^^^^^^^^^ a file holds one spec
  = help: give each spec a file of its own
""",
    ),
    (
        X + 'let a = 1\n"""Too late."""\n',
        '''
error[A015]: a docstring in the wrong place
 --> x.attn:3:1
  |
3 | """Too late."""
  | ^^^^^^^^^^^^^^^ belongs under the `attention` line
  = help: move it there, or start a comment with `#`
''',
    ),
    (
        X + "let in = 1\n",
        """
error[A016]: `in` is a reserved word
 --> x.attn:2:5
  |
2 | let in = 1
  |     ^^ expected a name
  = help: choose another name
""",
    ),
    (
        X + "mask i = j\n",
        """
error[A017]: unexpected `=`
 --> x.attn:2:8
  |
2 | mask i = j
  |        ^ expected an operator or the end of the line
  = help: compare with `==`
""",
    ),
    (
        X + "let a =  # nothing\nlet b = 1\n",
        """
error[A017]: the line ends too early
 --> x.attn:2:8
  |
2 | let a =  # nothing
  |        ^ expected an expression
  = help: finish the statement; a line goes on only inside brackets
""",
    ),
    (
        X + "let a = (b + c)[i]\n",
        """
error[A017]: unexpected `[`
 --> x.attn:2:16
  |
2 | let a = (b + c)[i]
  |                ^ expected an operator or the end of the line
  = help: only a name takes indices: name the expression with `let`
""",
    ),
    (
        X + "let a = 2 b\n",
        """
error[A017]: unexpected `b`
 --> x.attn:2:11
  |
2 | let a = 2 b
  |           ^ expected an operator or the end of the line
  = help: put an operator in front of it, or delete it
""",
    ),
    (
        X + "let a = 2 (b)\n",
        """
error[A017]: unexpected `(`
 --> x.attn:2:11
  |
2 | let a = 2 (b)
  |           ^ expected an operator or the end of the line
  = help: only a name is called; a product needs `*`
""",
    ),
    (
        X + "let a = (b, c)\n",
        """
error[A017]: unexpected `,`
 --> x.attn:2:11
  |
2 | let a = (b, c)
  |           ^ expected `)`
  = help: a tuple stands only after `over=`, as in `over=(u, w)`
""",
    ),
    (
        X + "blocks c = j / 64\n",
        """
error[A017]: unexpected `/`
 --> x.attn:2:14
  |
2 | blocks c = j / 64
  |              ^ expected `//`
  = help: write `//` here
""",
    ),
    (
        X + "input a: str\n",
        """
error[A017]: unexpected `str`
 --> x.attn:2:10
  |
2 | input a: str
  |          ^^^ expected `int`, `bool` or `float`
  = help: write `int`, `bool` or `float` here
""",
    ),
    (
        X + "input a 1\n",
        """
error[A017]: unexpected number `1`
 --> x.attn:2:9
  |
2 | input a 1
  |         ^ expected `[`, `:`, `=`, `where` or the end of the line
  = help: write `=` in front of it, or delete it
""",
    ),
    (
        X + "state S[d] forward\n",
        """
error[A017]: unexpected `forward`
 --> x.attn:2:12
  |
2 | state S[d] forward
  |            ^^^^^^^ expected `over`, `reverse`, `=` or the end of the line
  = help: write `=` in front of it, or delete it
""",
    ),
    (
        X + "state S[d] = S0 reverse\n",
        """
error[A017]: unexpected `reverse`
 --> x.attn:2:17
  |
2 | state S[d] = S0 reverse
  |                 ^^^^^^^ expected an operator or the end of the line
  = help: in a `state`, write `reverse` before the `=`
""",
    ),
    (
        X + "cite arXiv\n",
        """
error[A017]: unexpected `arXiv`
 --> x.attn:2:6
  |
2 | cite arXiv
  |      ^^^^^ expected a text in double quotes
  = help: write a text in double quotes here
""",
    ),
    (
        X + "let a = * 3\n",
        """
error[A017]: unexpected `*`
 --> x.attn:2:9
  |
2 | let a = * 3
  |         ^ expected an expression
  = help: write an expression here
""",
    ),
    (
        X + "return a = 1\n",
        """
error[A017]: unexpected `=`
 --> x.attn:2:10
  |
2 | return a = 1
  |          ^ expected `[`
  = help: write `[` here
""",
    ),
    (
        X + "let a = none\n",
        """
error[A017]: unexpected `none`
 --> x.attn:2:9
  |
2 | let a = none
  |         ^^^^ expected an expression
  = help: write an expression here
""",
    ),
]


@pytest.mark.parametrize(("text", "expected"), CASES, ids=[e.strip()[6:10] for _, e in CASES])
def test_syntax_errors(text: str, expected: str) -> None:
    with pytest.raises(AttnError) as caught:
        parse(text, "x.attn")
    assert str(caught.value) == expected.strip("\n")


def test_every_code_has_a_case() -> None:
    folder = files("attnspec.dsl")
    sources = [folder.joinpath(name) for name in ("scan.py", "surface.py", "parse.py")]
    sources.append(folder.joinpath("unexpected.py"))
    codes = {c for file in sources for c in re.findall(r'"(A\d{3})"', file.read_text("utf-8"))}
    assert codes == {expected.strip()[6:10] for _, expected in CASES}


TEXT = "attention x\nlet a = 1\nlet b = 2\nlet c = 3\nlet a = 4\n"
FIRST, SECOND = TEXT.index("a = 1"), TEXT.index("a = 4")
TWICE = Diagnostic(
    "A999",
    "warning",
    "`a` is defined twice",
    locate(TEXT, SECOND, SECOND + 1),
    "again",
    "rename one of them",
    ((locate(TEXT, FIRST, FIRST + 1), "here"),),
)


def test_notes_are_shown_in_the_order_of_the_text() -> None:
    assert plain(TWICE, TEXT, "x.attn") == (
        "warning[A999]: `a` is defined twice\n"
        " --> x.attn:5:5\n"
        "  |\n"
        "2 | let a = 1\n"
        "  |     - here\n"
        "...\n"
        "5 | let a = 4\n"
        "  |     ^ again\n"
        "  = help: rename one of them\n"
    )


def test_two_marks_share_their_line() -> None:
    text = "let a = a + a"
    found = Diagnostic(
        "A999",
        "error",
        "twice",
        locate(text, 12, 13),
        "this",
        notes=((locate(text, 8, 9), "and this"),),
    )
    assert plain(found, text, "x.attn") == (
        "error[A999]: twice\n"
        " --> x.attn:1:13\n"
        "  |\n"
        "1 | let a = a + a\n"
        "  |         - and this\n"
        "  |             ^ this\n"
    )


def test_a_span_of_several_lines_is_underlined_on_its_first() -> None:
    text = "\n" * 8 + "let a = (1 +\n  2)\nlet b = 3"
    start = text.index("(")
    found = Diagnostic("A999", "error", "t", locate(text, start, text.index(")") + 1))
    other = Diagnostic("A999", "error", "t", locate(text, len(text) - 1, len(text)))
    assert plain(found, text, "x.attn") == (
        "error[A999]: t\n --> x.attn:9:9\n  |\n9 | let a = (1 +\n  |         ^^^^\n"
    )
    assert plain(other, text, "x.attn") == (
        "error[A999]: t\n  --> x.attn:11:9\n   |\n11 | let b = 3\n   |         ^\n"
    )


@pytest.mark.parametrize(
    ("length", "at", "excerpt", "column"),
    [
        (100, 99, "a" * 99 + "?", 99),
        (101, 0, "?" + "a" * 99 + "...", 0),
        (101, 50, "a" * 50 + "?" + "a" * 49 + "...", 50),
        (101, 51, "..." + "a" * 50 + "?" + "a" * 49, 53),
        (300, 299, "..." + "a" * 50 + "?", 53),
        (300, 100, "..." + "a" * 50 + "?" + "a" * 49 + "...", 53),
    ],
)
def test_a_long_line_is_cut_around_the_span(
    length: int, at: int, excerpt: str, column: int
) -> None:
    text = "a" * at + "?" + "a" * (length - at - 1)
    shown = plain(Diagnostic("A999", "error", "t", locate(text, at, at + 1)), text, "x.attn")
    assert shown.split("\n")[3:] == [f"1 | {excerpt}", "  | " + " " * column + "^", ""]


def test_two_marks_on_a_long_line_have_an_excerpt_each() -> None:
    text = "let a = b" + " " * 200 + "+ c"
    found = Diagnostic(
        "A999", "error", "t", locate(text, 211, 212), notes=((locate(text, 8, 9), ""),)
    )
    assert plain(found, text, "x.attn").split("\n")[3:] == [
        "1 | let a = b" + " " * 91 + "...",
        "  |         -",
        "1 | ..." + " " * 48 + "+ c",
        "  | " + " " * 53 + "^",
        "",
    ]


def test_the_underline_ends_with_the_excerpt() -> None:
    text = "b" * 10 + "a" * 300
    shown = plain(Diagnostic("A999", "error", "t", locate(text, 10, 310)), text, "x.attn")
    assert shown.split("\n")[3:] == [
        "1 | " + "b" * 10 + "a" * 90 + "...",
        "  | " + " " * 10 + "^" * 93,
        "",
    ]


def test_nothing_stands_between_lines_that_follow_each_other() -> None:
    found = Diagnostic(
        "A999", "error", "t", locate(TEXT, 22, 31), "", notes=((locate(TEXT, 12, 21), ""),)
    )
    assert plain(found, TEXT, "x.attn").split("\n")[3:] == [
        "2 | let a = 1",
        "  | ---------",
        "3 | let b = 2",
        "  | ^^^^^^^^^",
        "",
    ]


def test_a_line_left_out_is_marked() -> None:
    found = Diagnostic(
        "A999", "error", "t", locate(TEXT, 32, 41), "", notes=((locate(TEXT, 12, 21), ""),)
    )
    assert plain(found, TEXT, "x.attn").split("\n")[3:] == [
        "2 | let a = 1",
        "  | ---------",
        "...",
        "4 | let c = 3",
        "  | ^^^^^^^^^",
        "",
    ]


def test_a_carriage_return_is_not_shown() -> None:
    text = "attention x\r\nlet a = b\r\n"
    found = Diagnostic("A999", "error", "t", locate(text, 21, 22))
    assert plain(found, text, "x.attn").split("\n")[3:] == ["2 | let a = b", "  |         ^", ""]


def test_a_place_outside_the_text_is_shown_empty() -> None:
    found = Diagnostic("A999", "error", "t", locate("\n\n", 2, 2))
    assert plain(found, "", "x.attn").split("\n")[1:] == [
        " --> x.attn:3:1",
        "  |",
        "3 |",
        "  | ^",
        "",
    ]


def test_nothing_that_a_terminal_obeys_is_shown() -> None:
    text = "\x1b[31mred\tx"
    found = Diagnostic("A999", "error", "\x1b]0;", locate(text, 9, 10), "\x9b", "\u202e")
    shown = plain(found, text, "\x07.attn")
    assert all(char.isprintable() or char == "\n" for char in shown)
    line, marks = shown.split("\n")[3:5]
    assert line[marks.index("^")] == "x"


def test_colour_adds_nothing_but_colour() -> None:
    text = coloured(TWICE, TEXT, "[bold]x.attn")
    assert text.plain == plain(TWICE, TEXT, "[bold]x.attn")
    console = Console(force_terminal=True, color_system="standard", width=20, _environ={})
    with console.capture() as captured:
        console.print(text, end="", soft_wrap=True)
    assert "\x1b[1;33mwarning[A999]" in captured.get()
    assert re.sub(r"\x1b\[[0-9;]*m", "", captured.get()) == text.plain


def test_json_says_everything() -> None:
    data = json.loads(json.dumps(to_json(TWICE, "x.attn")))
    assert data["path"] == "x.attn"
    assert data["code"] == "A999"
    assert data["severity"] == "warning"
    assert data["title"] == "`a` is defined twice"
    assert data["label"] == "again"
    assert data["help"] == "rename one of them"
    assert (data["span"]["line"], data["span"]["column"]) == (5, 5)
    ((place, label),) = data["notes"]
    assert (place["line"], label) == (2, "here")


def test_an_error_reads_as_its_findings() -> None:
    other = Diagnostic("A998", "error", "also wrong", locate(TEXT, 0, 9))
    error = AttnError("two", (TWICE, other), text=TEXT, path="x.attn")
    shown = plain(TWICE, TEXT, "x.attn") + "\n" + plain(other, TEXT, "x.attn").rstrip()
    assert str(error) == shown
    assert str(pickle.loads(pickle.dumps(error))) == shown
    assert str(AttnError("q has the wrong shape")) == "q has the wrong shape"
