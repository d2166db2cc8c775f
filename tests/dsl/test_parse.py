"""The grammar, and the surface tree that comes of it."""

from __future__ import annotations

import ast
import logging
from collections.abc import Iterator
from dataclasses import fields
from importlib.resources import files

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from lark import Lark, logger

from attnspec.dsl import syntax as s
from attnspec.dsl.diagnostics import AttnError
from attnspec.dsl.parse import parse

GRAMMAR = files("attnspec.dsl").joinpath("grammar.lark").read_text(encoding="utf-8")


def statement(line: str) -> s.Statement:
    (found,) = parse(f"attention x\n{line}\n").statements
    return found


def expression(text: str) -> s.Expr:
    found = statement(f"mask {text}")
    assert isinstance(found, s.Mask)
    return found.expr


def nodes(node: s.Node) -> Iterator[s.Node]:
    yield node
    for field in fields(node):
        value = getattr(node, field.name)
        for item in value if isinstance(value, tuple) else (value,):
            if isinstance(item, s.Node):
                yield from nodes(item)


def conflicts(grammar: str, caplog: pytest.LogCaptureFixture) -> list[str]:
    """Shift/reduce conflicts, which Lark settles in silence and reports only to its log."""
    level = logger.level
    logger.setLevel(logging.DEBUG)
    try:
        with caplog.at_level(logging.DEBUG, logger="lark"):
            logger.propagate = True
            Lark(grammar, parser="lalr", start="file")
    finally:
        logger.setLevel(level)
    return [record.getMessage() for record in caplog.records if "onflict" in record.getMessage()]


def test_the_grammar_has_no_conflict(caplog: pytest.LogCaptureFixture) -> None:
    assert conflicts(GRAMMAR, caplog) == []


def test_a_conflict_would_be_seen(caplog: pytest.LogCaptureFixture) -> None:
    ambiguous = GRAMMAR.replace("| sum (PLUS | MINUS) term ", "| sum (PLUS | MINUS) sum ")
    assert ambiguous != GRAMMAR
    assert conflicts(ambiguous, caplog) != []


def test_every_example_parses(example: tuple[str, str]) -> None:
    _, text = example
    tree = parse(text, "some/path.attn")
    assert tree.statements
    assert (tree.text, tree.path) == (text, "some/path.attn")


def test_spans_point_at_the_text(example: tuple[str, str]) -> None:
    _, text = example
    lines = text.split("\n")
    for node in nodes(parse(text)):
        span = node.span
        written = text[span.start : span.end]
        assert lines[span.line - 1][span.column - 1 :].startswith(written.split("\n")[0])
        assert lines[span.end_line - 1][: span.end_column - 1].endswith(written.split("\n")[-1])
        match node:
            case s.Name(id=name):
                assert written.strip("( )") == name
            case s.Attribute(name=name, coordinate=coordinate):
                assert written.strip("( )") == f"{name}.{coordinate}"
            case s.Call(func=name):
                assert written.lstrip("( ").startswith(f"{name}(")
                assert written.endswith(")")
            case s.Subscript(name=name):
                assert written.lstrip("( ").startswith(f"{name}[")
                assert written.rstrip(") ").endswith("]")
            case s.Keyword(name=name):
                assert written.startswith(f"{name}=")
            case _:
                assert written


def test_name_spans_point_at_the_names(example: tuple[str, str]) -> None:
    _, text = example
    for node in parse(text).statements:
        for spans, names in (
            ("name_span", "name"),
            ("base_span", "base"),
            ("axis_span", "axis"),
            ("over_span", "over"),
            ("axis_spans", "axes"),
            ("param_spans", "params"),
            ("name_spans", "names"),
        ):
            found, expected = getattr(node, spans, ()), getattr(node, names, None) or ()
            if isinstance(expected, str):
                found, expected = (found,), (expected,)
            if hasattr(node, spans) and expected:
                assert [text[p.start : p.end] for p in found] == list(expected)


n = s.Name
one, two, three = s.Num(1), s.Num(2), s.Num(3)


@pytest.mark.parametrize(
    ("text", "tree"),
    [
        ("1 + 2 + 3", s.Binary("+", s.Binary("+", one, two), three)),
        ("1 - (2 - 3)", s.Binary("-", one, s.Binary("-", two, three))),
        ("-1 ** 2", s.Unary("-", s.Binary("**", one, two))),
        ("1 ** -2 ** 3", s.Binary("**", one, s.Unary("-", s.Binary("**", two, three)))),
        ("1 * 2 @ 3", s.Binary("@", s.Binary("*", one, two), three)),
        ("not a < b", s.Unary("not", s.Compare(n("a"), ("<",), (n("b"),)))),
        ("1 < a in b == 2", s.Compare(one, ("<", "in", "=="), (n("a"), n("b"), two))),
        ("(a < b) < 1", s.Compare(s.Compare(n("a"), ("<",), (n("b"),)), ("<",), (one,))),
        (
            "a or b and not true",
            s.Binary("or", n("a"), s.Binary("and", n("b"), s.Unary("not", s.Num(True)))),
        ),
        ("i.y", s.Attribute("i", "y")),
        ("f()", s.Call("f", (), ())),
        (
            "where(a, 1, where(b, 2, 3))",
            s.Call("where", (n("a"), one, s.Call("where", (n("b"), two, three), ())), ()),
        ),
        (
            "sum(j, x, where=a, over=(u, w),)",
            s.Call(
                "sum",
                (n("j"), n("x")),
                (s.Keyword("where", n("a")), s.Keyword("over", s.Tuple((n("u"), n("w"))))),
            ),
        ),
        ("f(over=(u,))", s.Call("f", (), (s.Keyword("over", s.Tuple((n("u"),))),))),
        ("f(over=(u))", s.Call("f", (), (s.Keyword("over", n("u")),))),
        (
            "k[t - 1, h=2, pad=3]",
            s.Subscript(
                "k", (s.Binary("-", n("t"), one),), (s.Keyword("h", two), s.Keyword("pad", three))
            ),
        ),
        ("0", s.Num(0)),
        ("9007199254740992", s.Num(2**53)),
        ("1.5e-3", s.Num(0.0015)),
        (".5", s.Num(0.5)),
        ("2.", s.Num(2.0)),
        ("1E3", s.Num(1000.0)),
        ("12e-1", s.Num(1.2)),
        ("false", s.Num(False)),
        ("score + over + int + reverse", expression("((score + over) + int) + reverse")),
        ("inside", n("inside")),
        ("x_in", n("x_in")),
        ("nothing", n("nothing")),
    ],
)
def test_expressions(text: str, tree: s.Expr) -> None:
    found = expression(text)
    assert found == tree
    assert repr(found) == repr(tree)  # 2 == 2.0 == True


def names_of(*statements: s.Statement) -> list[object]:
    return [getattr(found, "name", None) for found in statements]


@pytest.mark.parametrize(
    ("line", "shown"),
    [
        ('cite "arXiv:1", "arXiv:2"', "Cite(texts=('arXiv:1', 'arXiv:2'))"),
        ('catalog "A:I-12"', "Catalog(rows=('A:I-12',))"),
        (
            "query q[e]",
            "Declare(form='query', name='q', axes=(AxisSpec(expr=Name(id='e')),), type=None, "
            "default=None, where=None)",
        ),
        (
            "value v[e]",
            "Declare(form='value', name='v', axes=(AxisSpec(expr=Name(id='e')),), type=None, "
            "default=None, where=None)",
        ),
        (
            "input w: int = 3 where w > 0",
            "Declare(form='input', name='w', axes=(), type='int', default=Num(value=3), "
            "where=Compare(first=Name(id='w'), ops=('>',), rest=(Num(value=0),)))",
        ),
        (
            "const a[h, 2]: float = [[1, 2], [3, -x],]",
            "Declare(form='const', name='a', axes=(AxisSpec(expr=Name(id='h')), "
            "AxisSpec(expr=Num(value=2))), type='float', default=ListLit(items=("
            "ListLit(items=(Num(value=1), Num(value=2))), ListLit(items=(Num(value=3), "
            "Unary(op='-', operand=Name(id='x')))))), where=None)",
        ),
        ("axis docs", "AxisDecl(name='docs', size=None)"),
        ("axis a = 49", "AxisDecl(name='a', size=Num(value=49))"),
        ("blocks c = j // 64", "BlocksDecl(name='c', base='j', length=Num(value=64))"),
        ("index u = j", "IndexDecl(name='u', base='j')"),
        ("grid f, y, x", "GridDecl(side=None, names=('f', 'y', 'x'))"),
        ("grid i: y, x", "GridDecl(side='i', names=('y', 'x'))"),
        ("let x = 1", "Let(name='x', axes=None, expr=Num(value=1))"),
        ("let x[i, c] = 1", "Let(name='x', axes=('i', 'c'), expr=Num(value=1))"),
        ("let f(x, y) = x", "LetFunction(name='f', params=('x', 'y'), expr=Name(id='x'))"),
        ("mask a", "Mask(expr=Name(id='a'))"),
        ("score = a", "Clause(name='score', expr=Name(id='a'))"),
        ("value = a", "Clause(name='value', expr=Name(id='a'))"),
        ("output = none", "Clause(name='output', expr=None)"),
        (
            "return p[b, h] = 1",
            "ReturnStmt(name='p', axes=('b', 'h'), expr=Num(value=1))",
        ),
        ("causal", "Causal()"),
        ("require a", "Require(expr=Name(id='a'))"),
        (
            "state S[d, e] reverse",
            "StateDecl(name='S', axes=('d', 'e'), init=None, over=None, reverse=True)",
        ),
        (
            "state f[i] over s = 1",
            "StateDecl(name='f', axes=('i',), init=Num(value=1), over='s', reverse=False)",
        ),
        ("state m", "StateDecl(name='m', axes=(), init=None, over=None, reverse=False)"),
        ("step S[t] = 1", "Step(name='S', axis='t', expr=Num(value=1))"),
    ],
)
def test_statements(line: str, shown: str) -> None:
    found = statement(line)
    text = repr(found)
    if hasattr(found, "name_span"):
        text = text.replace(f" name_span={found.name_span!r},", "")
    text = text.replace(f", name_span={getattr(found, 'name_span', None)!r}", "")
    assert text == shown
    assert found.span.end == len(f"attention x\n{line}")


def test_a_file() -> None:
    text = (
        "# before\n\nattention x  # the name\r\n"
        '\n"""One.\n\n    Two."""\n\n\n'
        "  let a = (1 +\n\n  # a comment inside brackets\n  2)\n\n# after\nlet b = f(\n\n)"
    )
    tree = parse(text)
    assert tree.name == "x"
    assert tree.doc == "One.\n\nTwo."
    assert names_of(*tree.statements) == ["a", "b"]


def test_a_file_without_statements() -> None:
    assert parse("attention x").statements == ()


def test_a_quote_in_a_comment_and_a_comment_sign_in_a_text() -> None:
    tree = parse('attention x\n# don"t (\ncite "a # b ("\n')
    assert tree.statements == (s.Cite(("a # b (",)),)


@pytest.mark.parametrize("line", ["letx = 3", "maski", "causals", "let x = inside y"])
def test_a_word_ends_where_its_letters_end(line: str) -> None:
    with pytest.raises(AttnError):
        statement(line)


def test_statement_words_are_names_elsewhere() -> None:
    found = statement("let mask = score + key + let + attention")
    assert isinstance(found, s.Let)
    assert found.name == "mask"


# The same text read by Python's own parser must have the same shape.

ATOMS = st.sampled_from(["a", "b", "1", "2.5", "f(a)", "g(a, b)", "x[a]"])
PYTHON: list[tuple[type[ast.AST], str]] = [
    (ast.Add, "+"),
    (ast.Sub, "-"),
    (ast.Mult, "*"),
    (ast.Div, "/"),
    (ast.FloorDiv, "//"),
    (ast.Mod, "%"),
    (ast.Pow, "**"),
    (ast.MatMult, "@"),
    (ast.Lt, "<"),
    (ast.LtE, "<="),
    (ast.Gt, ">"),
    (ast.GtE, ">="),
    (ast.Eq, "=="),
    (ast.NotEq, "!="),
    (ast.In, "in"),
    (ast.And, "and"),
    (ast.Or, "or"),
]
OPERATORS = [sign for _, sign in PYTHON]
OPS = dict(PYTHON) | {ast.USub: "-", ast.UAdd: "+", ast.Not: "not"}


def combine(inner: st.SearchStrategy[str]) -> st.SearchStrategy[str]:
    binary = st.tuples(inner, st.sampled_from(OPERATORS), inner).map(" ".join)
    unary = st.tuples(st.sampled_from(["-", "+", "not"]), inner).map(" ".join)
    return binary | unary | inner.map(lambda text: f"({text})")


def from_python(node: ast.expr) -> s.Expr:
    match node:
        case ast.Constant(value=int() | float() as value):
            return s.Num(value)
        case ast.Name(id=name):
            return s.Name(name)
        case ast.UnaryOp(op=op, operand=operand):
            return s.Unary(OPS[type(op)], from_python(operand))
        case ast.BinOp(left=left, op=operator, right=right):
            return s.Binary(OPS[type(operator)], from_python(left), from_python(right))
        case ast.BoolOp(op=word, values=[first, *rest]):
            found = from_python(first)
            for other in rest:
                found = s.Binary(OPS[type(word)], found, from_python(other))
            return found
        case ast.Compare(left=left, ops=signs, comparators=others):
            words = tuple(OPS[type(sign)] for sign in signs)
            return s.Compare(from_python(left), words, tuple(map(from_python, others)))
        case ast.Call(func=ast.Name(id=name), args=args):
            return s.Call(name, tuple(map(from_python, args)), ())
        case ast.Subscript(value=ast.Name(id=name), slice=index):
            return s.Subscript(name, (from_python(index),), ())
    raise AssertionError(ast.dump(node))


@settings(derandomize=True, max_examples=400, deadline=None)
@given(st.recursive(ATOMS, combine, max_leaves=12))
def test_precedence_is_that_of_python(text: str) -> None:
    try:
        expected = from_python(ast.parse(text, mode="eval").body)
    except SyntaxError:  # `a + not b`
        with pytest.raises(AttnError):
            expression(text)
    else:
        assert expression(text) == expected
