"""The host's statements that read no tensor, apart from the others.

What they make depends on sizes, numbers and positions alone, so that a call like an earlier one
need not make it again. What is handed to the caller, who may write into it, is made anew.
"""

from __future__ import annotations

import ast
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass

from attnspec.codegen.check_module import PROVIDED

_ARITHMETIC = {"abs", "float", "int", "math", "max", "min", "number", "size"}
_ARITHMETIC |= {name for name in PROVIDED if name.startswith("number_")}
_KNOWN = PROVIDED | _ARITHMETIC | {"torch", "wide"}
_PLACES, _GIVEN = {"q_start", "k_start"}, {"device", "dtype"}  # what of `bound` is no tensor
_NEW = "device=bound.device"  # in what makes a tensor of numbers


@dataclass(frozen=True, slots=True)
class Fixed:
    """Statements, the names among theirs that others read, and the `numbers` that all they make
    depends on, after the statements `before`."""

    lines: tuple[str, ...] = ()
    names: tuple[str, ...] = ()
    numbers: tuple[str, ...] = ()
    before: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class _Line:
    """A statement, the name that it assigns, empty unless that is one, and those that it reads."""

    text: str
    target: str
    reads: frozenset[str]
    node: ast.stmt


def without_tensors(
    steps: Sequence[Sequence[str]], arguments: Iterable[str], after: Iterable[str]
) -> tuple[Fixed, list[tuple[str, ...]]]:
    """What of the statements of `steps` reads no tensor, and what is left of each step. Their names
    are read in `arguments` and in `after`, of which the caller gets something."""
    lines = [[_parsed(text) for text in step] for step in steps]
    every = [line for step in lines for line in step]
    times = Counter(line.target for line in every)
    shown = _needed(every, _read(after))
    numbers: dict[str, _Line] = {}
    tensors: dict[str, _Line] = {}
    for line in every:
        if not line.reads <= _KNOWN | numbers.keys() | tensors.keys():
            continue
        if not line.target or times[line.target] > 1:
            continue
        if _NEW not in line.text and not line.reads & tensors.keys():
            numbers[line.target] = line
        elif line.target not in shown:
            tensors[line.target] = line
    left = [line for line in every if line.target not in tensors]
    names = _read(arguments).union(*(line.reads for line in left)) & tensors.keys()
    wanted = _needed(every, names)
    inside = [line for line in every if line.target in wanted]
    makers = [line for line in inside if line.target in tensors]
    asked = sorted({x for line in makers for x in _numbers(line, numbers.keys())})
    early = _needed(list(numbers.values()), _read(asked)) & numbers.keys()
    fixed = Fixed(
        tuple(line.text for line in inside),
        tuple(name for name in tensors if name in names),
        tuple(asked),
        tuple(line.text for name, line in numbers.items() if name in early),
    )
    outside = _needed(left, _read(arguments) | _read(after), numbers.keys()) - early
    kept = [
        tuple(
            x.text
            for x in step
            if x.target not in tensors and (x.target not in numbers or x.target in outside)
        )
        for step in lines
    ]
    return fixed, kept


def _needed(
    lines: Sequence[_Line], names: frozenset[str], idle: Collection[str] | None = None
) -> frozenset[str]:
    """What `names` are made of; with `idle`, all statements count that assign none of these."""
    needed = set(names)
    for line in reversed(lines):
        if line.target in needed or (idle is not None and line.target not in idle):
            needed |= line.reads
    return frozenset(needed)


def _read(texts: Iterable[str]) -> frozenset[str]:
    return frozenset().union(*(_parsed(text).reads for text in texts))


def _parsed(text: str) -> _Line:
    (node,) = ast.parse(text).body
    target = ""
    if isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name):
        target = node.targets[0].id
    return _Line(text, target, _names(node), node)


def _names(node: ast.AST) -> frozenset[str]:
    """The names that are read, those of `bound` as they are called there."""
    reads = set()
    for x in ast.walk(node):
        match x:
            case ast.Attribute(ast.Name("bound"), attr):
                reads |= {attr} - _PLACES - _GIVEN
            case ast.Name(name, ast.Load()) if name != "bound":
                reads.add(name)
    return frozenset(reads)


def _numbers(line: _Line, known: Collection[str]) -> Iterator[str]:
    """The largest parts of a statement that are numbers of the call, `known` names among them;
    all sizes, or all numbers, where those are read by no name."""

    def visit(node: ast.AST) -> Iterator[str]:
        if isinstance(node, ast.Name) and node.id in ("size", "number"):
            yield f"*{node.id}.values()"
        elif isinstance(node, ast.expr) and _number(node, known):
            yield ast.get_source_segment(line.text, node) or ast.unparse(node)
        else:
            for child in ast.iter_child_nodes(node):
                yield from visit(child)

    return visit(line.node)


def _number(node: ast.expr, known: Collection[str]) -> bool:
    """Whether an expression is a number that is not the same for every call."""
    if isinstance(node, ast.Name):
        return node.id in known
    places = {x.attr for x in ast.walk(node) if isinstance(x, ast.Attribute)} - {"bound"}
    reads = {x.id for x in ast.walk(node) if isinstance(x, ast.Name)}
    plain = reads <= _ARITHMETIC | {"bound"} | set(known)
    return plain and not places & _GIVEN and bool(reads & {"bound", "size", "number", *known})
