"""Plan to source: one readable Python module a spec."""

from __future__ import annotations

import ast as python
import hashlib
import re
import textwrap
from functools import cache

import jinja2

from attnspec import __version__
from attnspec.codegen.check_module import PROVIDED, check_module
from attnspec.codegen.layout import fold, layout
from attnspec.codegen.loads import loads
from attnspec.codegen.plan_types import TABLES, BlockPlan, Loop, PairPlan, Plan, RangePlan
from attnspec.codegen.signatures import parameter_docs, parameters, signature_code
from attnspec.codegen.spelling import number, tuple_text
from attnspec.codegen.statements import takes_wide, text, torch_line
from attnspec.codegen.tile import Atom, Op, names_used, needed
from attnspec.codegen.views_kernel import kernels
from attnspec.codegen.wrapper import operands, wrap
from attnspec.dsl.analysis import Facts
from attnspec.dsl.ast import Kind, Spec

_SHAPE = ("heads", "rows", "q_start", "k_start")  # what an operation takes after its numbers
_TYPES = {Kind.FLOAT: "float", Kind.INT: "int", Kind.BOOL: "bool"}


@cache
def environment() -> jinja2.Environment:
    """The fixed set of templates; text of a spec is only ever a value in them."""
    return jinja2.Environment(
        loader=jinja2.PackageLoader("attnspec", "templates"),
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
        autoescape=False,  # Python, not HTML; the result is checked below
    )


def digest(spec: Spec) -> str:
    """Eight hexadecimal digits that name a spec's text."""
    return hashlib.sha256(spec.text.encode()).hexdigest()[:8]


def render(spec: Spec, facts: Facts, plan: Plan) -> str:
    """The module's source; only for a plan with a fused stage."""
    pair = plan.pair
    if pair is None:
        raise ValueError(f"{spec.name} has no kernel: it is lowered densely")
    views = kernels(pair)
    env = environment()
    shown = []
    for view in views:
        template = view.name if view.name in ("forward", "backward_columns") else "backward_rows"
        code = env.get_template(f"{template}.py.jinja").render(k=view)
        shown.append("\n".join(line for line in code.splitlines() if line.strip()))
    host = wrap(spec, pair)
    context = {
        "title": _docline(spec.title or spec.name),
        "name": spec.name,
        "version": __version__,
        "digest": digest(spec),
        "spec_lines": [ascii(line)[1:-1].replace('"', "'") for line in _equations(spec)],
        "facts": _facts(facts),
        "signature": signature_code(spec),
        "kernels": shown,
        "views": views,
        "loads": '("{}", "{}")'.format(*loads(pair)),
        "plan": pair,
        "softmax": pair.normalizer == "softmax",
        "cpu": _cpu(pair),
        "fields": {
            name: layout(code, indent=4, used=4 + len(f"{name}="))
            for name, code in (
                ("operands", repr(tuple((o.name, o.labels) for o in operands(pair)))),
                ("numbers", repr(tuple(s.name for s in pair.scalars))),
                ("dots", repr(tuple((d.name, d.left.name, d.right.name) for d in pair.dots))),
                ("leaves", _leaves(pair)),
                ("patches", _patches(pair)),
                ("between", repr(None if pair.logit is None else pair.logit.between)),
                ("wanted", repr(tuple(g.of for g in pair.gradients))),
                ("ranges", _ranges(pair.ranges)),
                ("blocks", _blocks(pair.blocks)),
            )
        },
        "op_args": _op_args(pair),
        "op_names": layout(
            tuple_text([*(a.partition(":")[0] for a in _op_args(pair)), *_SHAPE]),
            indent=4,
            used=len("    args = "),
        ),
        "grads": ", ".join(_gradient_names(pair)),
        "parameters": parameters(spec),
        "keywords": [p.partition(":")[0] for p in parameters(spec) if p != "*"][:-2],
        "arguments": parameter_docs(spec),
        "host": host.before,
        "op_values": host.arguments,
        "epilogue": host.after,
        "initial": host.initial,
    }
    source = _tidy(
        env.get_template("module.py.jinja").render(imports=[], uses_math=False, **context)
    )
    body = source[source.index("SIGNATURE = ") :]
    imports = sorted(_imports(body), key=lambda n: (not n.isupper(), not n[0].isupper(), n))
    source = _tidy(
        env.get_template("module.py.jinja").render(
            imports=imports, uses_math="math." in body, **context
        )
    )
    check_module(source)
    return source


def _imports(body: str) -> set[str]:
    tree = python.parse(body)
    return {n.id for n in python.walk(tree) if isinstance(n, python.Name)} & PROVIDED


def _tidy(source: str) -> str:
    """No trailing blanks, at most two blank lines in a row, none at the end."""
    source = "\n".join(fold(line.rstrip()) for line in source.splitlines())
    return re.sub(r"\n{4,}", "\n\n\n", source).strip("\n") + "\n"


def _docline(title: str) -> str:
    return ascii(title)[1:-1].replace('"', "'").replace("\\", "")


def _equations(spec: Spec) -> list[str]:
    """The spec's statements without docstring, citations and comments."""
    text_ = re.sub(r'"""(?s:.*?)"""', "", spec.text, count=1)
    lines = [line.split("#")[0].rstrip() for line in text_.splitlines()]
    return [x for x in lines if x.strip() and not x.startswith(("cite ", "catalog "))]


def _facts(facts: Facts) -> list[str]:
    """Each fact's name and value, as lines of a comment."""
    shown = (ascii(f"{fact.name}: {fact.value}")[1:-1] for fact in facts.facts)
    return [line for text_ in shown for line in textwrap.wrap(text_, 96, subsequent_indent="    ")]


def _gradient_names(pair: PairPlan) -> list[str]:
    floats = {leaf.operand.name for leaf in pair.leaves if leaf.grad}
    leaves = {leaf.operand.name for leaf in pair.leaves}
    return [o.name for o in operands(pair) if o.name in floats or o.name not in leaves]


def _op_args(pair: PairPlan) -> list[str]:
    tensors = [f"{o.name}: Tensor" for o in operands(pair)]
    return tensors + [f"{s.name}: {_TYPES[s.kind]}" for s in pair.scalars]


def _leaves(pair: PairPlan) -> str:
    items = [f'Leaf("{x.name}", "{x.role}", "{x.operand.name}", {x.grad})' for x in pair.leaves]
    return tuple_text(items)


def _patches(pair: PairPlan) -> str:
    found = pair.patches
    if found is None:
        return "None"
    return f"Patches({found.axes!r}, {found.i_sides!r}, {found.j_sides!r}, {found.steps!r}, boxes)"


# The CPU's tile functions


def _cpu(pair: PairPlan) -> dict[str, list[str]]:
    slopes: list[Atom] = [g.value for g in pair.gradients]
    end = tuple_text([text(a) for a in slopes])
    tables = [x for x in pair.leaves if x.role in TABLES and x.index is not None]
    at: list[Atom] = [x.index for x in tables if x.index is not None]
    pairs = ", ".join(f'"{x.name}": {_tensor(x.index)}' for x in tables)
    return {
        "tile": _function(pair, [pair.score], pair.keep, _tensor(pair.score)),
        "slopes": _function(
            pair, [pair.again, *slopes], pair.keep, f"{_tensor(pair.again)}, {end}"
        ),
        "indices": [*_values(needed(pair.ops, at), at), f"return {{{pairs}}}"],
        "rows": _limits(pair.rows),
        "boxes": [] if pair.patches is None else _limits(pair.patches.rows),
        "row_ranges": [] if pair.ranges is None else _limits(pair.ranges.rows),
        "column_ranges": [] if pair.ranges is None else _limits(pair.ranges.columns),
        "flags": [] if pair.blocks is None else _flags(pair.blocks),
    }


def _tensor(atom: Atom | None) -> str:
    """An atom as a tensor."""
    if isinstance(atom, str):
        return atom
    assert atom is not None
    return f"torch.tensor({number(atom)})"


def _values(ops: tuple[Op, ...], roots: list[Atom]) -> list[str]:
    """Statements that take what `ops` use out of `values`, then the operations."""
    made = {op.target for op in ops}
    used = sorted(names_used(ops, roots) - made)
    wide = any(takes_wide(op) for op in ops)
    taken = [f'{n} = values["{n}"]' for n in [*used, *(["wide"] if wide else [])]]
    return taken + [torch_line(op) for op in ops]


def _function(pair: PairPlan, roots: list[Atom], keep: Atom | None, returned: str) -> list[str]:
    lines = _values(needed(pair.ops, roots), roots)
    if keep is None:
        return [*lines, f"return None, {returned}"]
    have = {op.target for op in needed(pair.ops, roots)}
    more = tuple(op for op in needed(pair.ops, [keep]) if op.target not in have)
    taken = {x.partition(" = ")[0] for x in lines}
    extra = [x for x in _values(more, [keep]) if x.partition(" = ")[0] not in taken]
    lines += ["if not masked:", f"    return None, {returned}", *extra]
    return [*lines, f"return {_tensor(keep)}, {returned}"]


def _limits(loop: Loop) -> list[str]:
    runs = tuple_text(
        [
            tuple_text([*("None" if end is None else text(end) for end in run.ends), str(run.full)])
            for run in loop.runs
        ]
    )
    return [*_values(loop.ops, list(loop.limits)), f"return {runs}"]


def _flags(blocks: BlockPlan) -> list[str]:
    roots = [blocks.possible, blocks.certain]
    return [*_values(blocks.ops, roots), f"return {', '.join(map(_tensor, roots))}"]


def _blocks(blocks: BlockPlan | None) -> str:
    if blocks is None:
        return "None"
    names = _taken(blocks.ops, [blocks.possible, blocks.certain])
    return f"Blocks({names!r}, {blocks.ends!r}, flags)"


def _ranges(ranges: RangePlan | None) -> str:
    if ranges is None:
        return "None"
    loops = ranges.rows, ranges.columns
    names = [_taken(loop.ops, list(loop.limits)) for loop in loops]
    return f"Ranges({names[0]!r}, {names[1]!r}, {ranges.ends!r}, row_ranges, column_ranges)"


def _taken(ops: tuple[Op, ...], roots: list[Atom]) -> tuple[str, ...]:
    """What operations and roots take from outside."""
    return tuple(sorted(names_used(ops, roots) - {op.target for op in ops}))
