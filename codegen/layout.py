"""Python literals and calls laid out as a formatter would."""

from __future__ import annotations

import ast
import re

LINE = 100


def layout(code: str, indent: int = 0, used: int = 0) -> str:
    """`code`, one expression of calls, tuples, names and constants, broken where it is too long.

    `indent` is that of the line it stands on, `used` the columns before it on that line.
    """
    return _laid(ast.parse(code, mode="eval").body, indent, used)


def quoted(value: str) -> str:
    """A string as a literal between the quotes that a formatter prefers."""
    code = ascii(value)
    if code[0] == '"' or '"' in code:
        return code
    return '"' + code[1:-1] + '"'


def _flat(node: ast.expr) -> str:
    match node:
        case ast.Constant(value=str() as value):
            return quoted(value)
        case ast.Call(func=func, args=args, keywords=keywords):
            inside = [_flat(a) for a in args] + [f"{k.arg}={_flat(k.value)}" for k in keywords]
            return f"{_flat(func)}({', '.join(inside)})"
        case ast.Tuple(elts=[one]):
            return f"({_flat(one)},)"
        case ast.Tuple(elts=items):
            return f"({', '.join(_flat(i) for i in items)})"
    code = ast.unparse(node)
    return code if '"' in code else code.replace("'", '"')


def _laid(node: ast.expr, indent: int, used: int) -> str:
    flat = _flat(node)
    if used + len(flat) <= LINE - 1:
        return flat
    pad = " " * (indent + 4)
    match node:
        case ast.Call(func=func, args=args, keywords=keywords):
            items = [_laid(a, indent + 4, indent + 4) for a in args]
            for k in keywords:
                name = f"{k.arg}="
                items.append(name + _laid(k.value, indent + 4, indent + 4 + len(name)))
            opening, closing = f"{_flat(func)}(", ")"
        case ast.Tuple(elts=elts) if elts:
            items = [_laid(e, indent + 4, indent + 4) for e in elts]
            opening, closing = "(", ")"
        case _:
            return flat
    lines = [opening, *(f"{pad}{item}," for item in items), " " * indent + closing]
    return "\n".join(lines)


def fold(line: str) -> str:
    """A statement on one line, broken at its longest bracket where it is too long.

    What stands in the bracket goes on a line of its own, or on one line an item.
    """
    bracketed = any(bracket in line for bracket in "([{")
    if len(line) <= LINE or not bracketed or line.lstrip().startswith(("#", '"""')):
        return line
    indent = len(line) - len(line.lstrip())
    head, listed = _listed(line)
    if listed is not None:
        return head + _laid(listed, indent, len(head))
    start, end = _longest(line, line.find(" = ") + 1)
    inside, pad = line[start + 1 : end], " " * (indent + 4)
    body = pad + inside
    if len(body) > LINE:
        items = _items(inside)
        body = ",\n".join(_folded_item(pad, item) for item in items) + ","
    return f"{_opening(line[: start + 1], indent)}\n{body}\n{' ' * indent}{line[end:]}"


def _listed(line: str) -> tuple[str, ast.Tuple | None]:
    """The tuple that a line returns or gives a name, if that is what it does, after its head."""
    found = re.match(r" *(?:return |\w+ = )", line)
    head = found[0] if found else ""
    try:
        match ast.parse(line[len(head) :]).body if head else []:
            case [ast.Expr(value=ast.Tuple() as value)]:
                return head, value
    except SyntaxError:  # a line of the spec, which the module quotes
        pass
    return head, None


def _opening(head: str, indent: int) -> str:
    """What stands before a broken bracket, with one target a line where there are too many."""
    targets, equals, rest = head.partition(" = ")
    if len(head) <= LINE or not equals:
        return head
    pad = " " * indent
    items = "".join(f"{pad}    {x},\n" for x in _items(targets.strip()))
    return f"{pad}(\n{items}{pad}) = {rest}"


def _folded_item(pad: str, item: str) -> str:
    if len(pad + item) < LINE or not item.endswith("]") or "[" not in item:
        return pad + item
    opening = item.index("[")
    inner = "".join(f"{pad}    {x},\n" for x in _items(item[opening + 1 : -1]))
    return f"{pad}{item[: opening + 1]}\n{inner}{pad}]"


def _longest(text: str, place: int) -> tuple[int, int]:
    """Where the longest bracket from `place` on that stands in no other opens and closes; that of
    a call's index or method comes first."""
    pairs = []
    while place < len(text):
        if text[place] in "([{":
            pairs.append((place, _closing(text, place)))
            place = pairs[-1][1]
        place += 1
    if len(pairs) > 1 and pairs[-1][0] < LINE and pairs[-1][1] + 1 == len(text):
        between = text[pairs[-2][1] + 1 : pairs[-1][0]]
        if re.fullmatch(r"\.\w+" if text.endswith(")") else "", between):
            return pairs[-1]
    return max(pairs, key=lambda pair: pair[1] - pair[0])


def _closing(text: str, start: int) -> int:
    depth = 0
    for place in range(start, len(text)):
        depth += (text[place] in "([{") - (text[place] in ")]}")
        if depth == 0:
            return place
    raise ValueError(f"no closing bracket: {text!r}")


def _items(text: str) -> list[str]:
    """What commas separate at the top of `text`."""
    found, depth, begin = [], 0, 0
    for place, letter in enumerate(text):
        depth += (letter in "([{") - (letter in ")]}")
        if letter == "," and depth == 0:
            found.append(text[begin:place].strip())
            begin = place + 1
    return [item for item in [*found, text[begin:].strip()] if item]
