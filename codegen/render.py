"""Plan to source: one readable Python module a spec."""

from __future__ import annotations

import hashlib
import re
import sys
import textwrap
from collections.abc import Sequence
from functools import cache

import jinja2
from jinja2.bccache import Bucket

from attnspec import __version__
from attnspec.codegen.check_module import LANGUAGE, PROVIDED, check_module
from attnspec.codegen.layout import fold, layout
from attnspec.codegen.loads import counts, loads
from attnspec.codegen.native import native
from attnspec.codegen.packing import packs
from attnspec.codegen.passes import operands
from attnspec.codegen.plan_types import (
    TABLES,
    WIDTHS,
    BlockPlan,
    Branch,
    ChannelSum,
    Leaf,
    Loop,
    Operand,
    PairPlan,
    Plan,
    RangePlan,
    Scan,
)
from attnspec.codegen.prepared import prepared
from attnspec.codegen.signatures import parameter_docs, parameters, signature_code
from attnspec.codegen.spelling import number, tuple_text
from attnspec.codegen.statements import takes_wide, text, torch_line
from attnspec.codegen.tile import Atom, Op, names_used, needed
from attnspec.codegen.views_kernel import kernels
from attnspec.codegen.wrapper import suffix, wrap
from attnspec.dsl.analysis import Facts
from attnspec.dsl.ast import Kind, Spec
from attnspec.dsl.formula import formula
from attnspec.store import find, keep, key_of

# Sizes and first positions, which every operation takes last.
_PLACE = ("batch", "heads", "key_heads", "rows", "columns", "q_start", "k_start")
# Stands for what names a module's text until the text is there; of no text of a spec is it a part.
_UNNAMED = "$digest$"
_FIXED = "     = CALLS.fixed(bound, fixed, fixed_by)"
_TYPES = {Kind.FLOAT: "float", Kind.INT: "int", Kind.BOOL: "bool"}


class _Kept(jinja2.BytecodeCache):
    """Templates compiled to Python, which takes longer than to render them, kept on disk."""

    def load_bytecode(self, bucket: Bucket) -> None:
        found = find("templates", self._key(bucket))
        if found is not None:
            bucket.bytecode_from_string(found[1])

    def dump_bytecode(self, bucket: Bucket) -> None:
        keep("templates", self._key(bucket), "bytecode", bucket.bytecode_to_string)

    def _key(self, bucket: Bucket) -> str:
        return key_of(bucket.key, bucket.checksum, jinja2.__version__, sys.version)


@cache
def environment() -> jinja2.Environment:
    """The fixed set of templates; text of a spec is only ever a value in them."""
    return jinja2.Environment(
        loader=jinja2.PackageLoader("attnspec", "templates"),
        bytecode_cache=_Kept(),
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
        autoescape=False,  # Python, not HTML; the result is checked below
    )


def digest(text_: str) -> str:
    """Eight hexadecimal digits that name a text."""
    return hashlib.sha256(text_.encode()).hexdigest()[:8]


def render(spec: Spec, facts: Facts, plan: Plan) -> str:
    """The module's source; only for a plan that kernels cover."""
    if not plan.fused:
        raise ValueError(f"{spec.name} has no kernel")
    env = environment()
    written, spec = spec, prepared(spec)
    host = wrap(spec, plan.passes, plan.roots)
    ends = [suffix(place) for place in range(len(plan.passes))]
    context = {
        "title": _docline(spec.title or spec.name),
        "name": spec.name,
        "version": __version__,
        "digest": digest(spec.text),
        "spec_lines": [ascii(line)[1:-1].replace('"', "'") for line in _equations(spec)],
        "facts": _facts(facts),
        "signature": signature_code(spec, written),
        "parts": [_pass(spec, p, end) for p, end in zip(plan.passes, ends, strict=True)],
        "passes": layout(
            tuple_text(f"(PAIRWISE{end}, KERNELS{end})" for end in ends), used=len("PASSES = ")
        ),
        "parameters": parameters(written),
        "keywords": [p.partition(":")[0] for p in parameters(written) if p != "*"][:-2],
        "arguments": parameter_docs(written),
        "fixed": host.fixed,
        "fixed_by": tuple_text(host.fixed.numbers),
        "fixed_names": layout(tuple_text(host.fixed.names), indent=4, used=len(_FIXED)),
        "steps": [
            {
                "end": end,
                "before": step.before,
                "arguments": step.arguments,
                "grads": bool(_gradient_names(found)),
                "several": len(found.branches) > 1,
            }
            for step, end, found in zip(host.steps, ends, plan.passes, strict=True)
        ],
        "epilogue": host.after,
        "initial": host.initial,
    }
    text = env.get_template("module.py.jinja").render(
        provided=_sorted(PROVIDED), language=_sorted(LANGUAGE), **context
    )
    source = _tidy(_without_unused(text, check_module(text)))
    return source.replace(_UNNAMED, digest(source))


def _pass(spec: Spec, plan: PairPlan, end: str) -> str:
    """Kernels, CPU tile and operation of one pass, the names of which end in `end`."""
    views = kernels(plan, end)
    env = environment()
    shown = []
    for view in views:
        template = view.name if view.name in ("forward", "backward_columns") else "backward_rows"
        template = plan.form if plan.search is not None else template
        code = env.get_template(f"{template}.py.jinja").render(k=view)
        shown.append("\n".join(line for line in code.splitlines() if line.strip()))
    given = [o.name for o in operands(plan)] + [s.name for s in plan.scalars]
    several = len(plan.branches) > 1
    fields = {
        "operands": repr(tuple((o.name, o.labels) for o in operands(plan))),
        "numbers": repr(tuple(s.name for s in plan.scalars)),
        "dots": repr(tuple((d.name, d.left.name, d.right.name) for d in plan.dots)),
        "sums": tuple_text([_sum(plan, part, end) for part in plan.sums]),
        "scans": tuple_text([_scan(x, end) for x in plan.scans]),
        "leaves": tuple_text([_leaf(x) for x in plan.leaves]),
        "patches": _patches(plan, end),
        "entries": repr(None if plan.entries is None else plan.entries.size),
        "between": repr(None if several else _between(plan.branches[0])),
        "branches": tuple_text([_branch(x) for x in plan.branches if several]),
        "wanted": repr(tuple(g.of for g in plan.branches[0].gradients)),
        "ranges": _ranges(plan.ranges, end),
        "blocks": _blocks(plan.blocks, end),
    }
    return env.get_template("pass.py.jinja").render(
        name=spec.name,
        digest=_UNNAMED,
        end=end,
        what=f" of {_heading(plan)}" if end else "",
        kernels=shown,
        views=views,
        loads='("{}", "{}")'.format(*loads(plan)),
        counts=counts(plan),
        packs=packs(plan),
        plan=plan,
        shape=_shape(plan),
        several=several,
        normalizer="softmax" if plan.softmax else "none",
        sink=None if several else plan.branches[0].sink,
        **_texts(plan),
        cpu=_cpu(plan),
        sums={part.name: _terms(plan, part) for part in plan.sums},
        scans={
            scan.name: _listed(plan.ops, [g.value for g in scan.gradients])
            for scan in plan.scans
            if scan.gradients
        },
        native=_native(plan),
        fields={
            name: layout(code, indent=4, used=4 + len(f"{name}=")) for name, code in fields.items()
        },
        op_args=_op_args(plan),
        op_names=layout(tuple_text([*given, *_PLACE]), indent=4, used=len("    args = ")),
        grads=", ".join(_gradient_names(plan)),
    )


def _texts(plan: PairPlan) -> dict[str, str]:
    """What a module says of the scores of a tile, and how it annotates what gives them."""
    if len(plan.branches) > 1:
        words = "logits" if plan.softmax else "logits and weight"
        return {"words": words, "scores": "tuple[Tensor | None, ...]", "slopes": "Scores"}
    return {
        "words": "logit" if plan.softmax else "weight",
        "scores": "tuple[Tensor | None, Tensor]",
        "slopes": "tuple[Tensor | None, Tensor, tuple[Tensor | float, ...]]",
    }


def _heading(plan: PairPlan) -> str:
    """What a pass computes, in the words of the spec."""
    shown = ascii(formula(plan.result))[1:-1]
    return shown if len(shown) < 80 else f"{shown[:76]} ..."


def _shape(plan: PairPlan) -> str:
    if plan.value is not None:
        return f"[B, H, M, {plan.value.labels[3]}]"
    last = (WIDTHS | {"cuts": "3"}).get(plan.form)
    return f"[B, H, M{f', {last}' if last else ''}]"


def _sorted(names: frozenset[str]) -> list[str]:
    """Names as imports have them: constants, classes, functions."""
    return sorted(names, key=lambda n: (not n.isupper(), not n[0].isupper(), n))


def _without_unused(text: str, used: frozenset[str]) -> str:
    """The module, which imports everything there is, with those imports that it uses."""
    above, math, rest = text.partition("\nimport math\n")
    head, start, body = rest.partition("SIGNATURE = ")
    unused = "|".join(sorted((PROVIDED | LANGUAGE) - used))
    head = re.sub(rf"^ +(?:{unused}),\n", "", head, flags=re.MULTILINE)
    return f"{above}{math if 'math' in used else ''}{head}{start}{body}"


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
    if pair.constant:
        return []
    floats = {leaf.operand.name for leaf in pair.read if leaf.grad}
    leaves = {leaf.operand.name for leaf in pair.read}
    return [o.name for o in operands(pair) if o.name in floats or o.name not in leaves]


def _op_args(pair: PairPlan) -> list[str]:
    tensors = [f"{o.name}: Tensor" for o in operands(pair)]
    return tensors + [f"{s.name}: {_TYPES[s.kind]}" for s in pair.scalars]


def _between(branch: Branch) -> tuple[Atom, Atom] | None:
    return None if branch.logit is None else branch.logit.between


def _branch(x: Branch) -> str:
    coefficient, sink = (o.name if isinstance(o, Operand) else o for o in (x.coefficient, x.sink))
    return f'Branch("{x.normalizer}", {coefficient!r}, {sink!r}, {_between(x)!r})'


def _leaf(x: Leaf) -> str:
    return f'Leaf("{x.name}", "{x.role}", "{x.operand.name}", {x.grad})'


def _sum(pair: PairPlan, part: ChannelSum, end: str) -> str:
    vectors = tuple_text([_leaf(v) for v in part.vectors])
    more = "" if part.op == "sum" else f', op="{part.op}"'
    if _before(pair, part):
        more += f", before={part.name}_before{end}"
    if part.gradients:
        more += f", slopes={part.name}_slopes{end}"
    if part.beside:
        names = tuple(name for name, _ in part.beside)
        more += f", beside={names!r}, terms={part.name}_terms{end}"
    term = f"{part.name}_term{end}"
    return f'ChannelSum("{part.name}", "{part.label}", {vectors}, {term}{more})'


def _scan(x: Scan, end: str) -> str:
    slopes = f"{x.name}_slopes{end}" if x.gradients else "None"
    names = tuple(g.of for g in x.gradients)
    return f'Scan("{x.name}", "{x.side}", {x.after}, {x.own}, "{x.carried}", {names!r}, {slopes})'


def _patches(pair: PairPlan, end: str) -> str:
    found = pair.patches
    if found is None:
        return "None"
    sides = f"{found.i_sides!r}, {found.j_sides!r}"
    return f"Patches({found.axes!r}, {sides}, {found.steps!r}, boxes{end})"


def _native(plan: PairPlan) -> str:
    """The pass in C++, empty if it cannot be."""
    found = native(plan)
    if found is None:
        return ""
    code = environment().get_template("native.cpp.jinja").render(k=found)
    return re.sub(r"\n{3,}", "\n\n", "\n".join(x.rstrip() for x in code.splitlines())).strip()


# The CPU's tile functions


def _cpu(pair: PairPlan) -> dict[str, list[str]]:
    scores: list[Atom] = [branch.score for branch in pair.branches]
    slopes: list[Atom] = []
    given = []
    for branch in pair.branches:
        values = [g.value for g in branch.gradients]
        slopes += [branch.again, *values]
        given += [_tensor(branch.again), tuple_text([text(a) for a in values])]
    read = {x.name: x.index for x in pair.leaves if x.role in TABLES and x.index is not None}
    if pair.entries is not None:
        read["out"] = pair.entries.index
    at = list(read.values())
    pairs = ", ".join(f'"{name}": {_tensor(index)}' for name, index in read.items())
    return {
        "tile": _function(pair, scores, pair.keep, ", ".join(map(_tensor, scores))),
        "slopes": _function(pair, slopes, pair.keep, ", ".join(given)),
        "search": [] if pair.search is None else _searched(pair, *pair.search.atoms),
        "indices": [*_values(needed(pair.ops, at), at), f"return {{{pairs}}}"],
        "rows": _limits(pair.rows),
        "boxes": [] if pair.patches is None else _limits(pair.patches.rows),
        "row_ranges": [] if pair.ranges is None else _limits(pair.ranges.rows),
        "column_ranges": [] if pair.ranges is None else _limits(pair.ranges.columns),
        "flags": [] if pair.blocks is None else _flags(pair.blocks),
    }


def _terms(pair: PairPlan, part: ChannelSum) -> dict[str, list[str]]:
    """The CPU's functions of a sum over channels."""
    before, slopes = _before(pair, part), [g.value for g in part.gradients]
    beside = [term for _, term in part.beside]
    terms = [part.value, part.where] if part.op == "place" else [part.value]
    made = ", ".join(f'"{name}": {name}' for name in before)
    return {
        "before": (
            [*_values(needed(pair.ops, before), before), f"return {{{made}}}"] if before else []
        ),
        "term": [
            *_values(needed(part.ops, terms), terms),
            f"return {', '.join(map(_tensor, terms))}",
        ],
        "terms": _listed(part.ops, [part.value, *beside]) if beside else [],
        "slopes": _listed(part.ops, slopes) if slopes else [],
    }


def _before(pair: PairPlan, part: ChannelSum) -> list[Atom]:
    """What the terms of a sum over channels read that is computed of a pair, whatever channel."""
    computed = {op.target for op in pair.ops}
    return [name for name in part.outside if name in computed]


def _listed(ops: Sequence[Op], roots: list[Atom]) -> list[str]:
    """A function that gives several atoms."""
    found = tuple_text([text(a) for a in roots])
    return [*_values(needed(ops, roots), roots), f"return {found}"]


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


def _searched(pair: PairPlan, share: Atom, *others: Atom) -> list[str]:
    numbers = tuple_text(text(a) for a in others)
    return _function(pair, [share, *others], pair.keep, f"{_tensor(share)}, {numbers}")


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


def _blocks(blocks: BlockPlan | None, end: str) -> str:
    if blocks is None:
        return "None"
    names = _taken(blocks.ops, [blocks.possible, blocks.certain])
    return f"Blocks({names!r}, {blocks.ends!r}, flags{end})"


def _ranges(ranges: RangePlan | None, end: str) -> str:
    if ranges is None:
        return "None"
    loops = ranges.rows, ranges.columns
    names = [_taken(loop.ops, list(loop.limits)) for loop in loops]
    made = f"row_ranges{end}, column_ranges{end}"
    return f"Ranges({names[0]!r}, {names[1]!r}, {ranges.ends!r}, {made})"


def _taken(ops: tuple[Op, ...], roots: list[Atom]) -> tuple[str, ...]:
    """What operations and roots take from outside."""
    return tuple(sorted(names_used(ops, roots) - {op.target for op in ops}))
