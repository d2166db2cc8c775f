"""The planted faults of `tests.mutations`: what is replaced, and which suites should notice."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Mutation:
    """`old` in `file` becomes `new`; `equivalent` says why no test can notice."""

    file: str
    old: str
    new: str
    suites: tuple[str, ...]
    equivalent: str = ""


KERNELS, FUZZ = ("kernels",), ("fuzz",)
WALKS, BOXES, GRIDS = ("walks",), ("boxes",), ("boxes", "fuzz")
BOUNDS = ("bounds", "relations", "fuzz")
FUNCTIONS = ("functions", "fuzz")
CPU = ("relations", "regressions", "functions", "fuzz")

FORWARD = "templates/forward.py.jinja"
ROWS = "templates/backward_rows.py.jinja"
COLUMNS = "templates/backward_columns.py.jinja"
MACROS = "templates/macros.py.jinja"
TILES = "runtime/triton_tiles.py"
WALK = "runtime/triton_walk.py"
PATCHES = "runtime/triton_patches.py"
SCALARS = "runtime/triton_functions.py"
ANALYSIS = "dsl/analysis/bounds.py"
POSITIONS = "dsl/analysis/positions.py"
SYMBOLIC = "dsl/analysis/symbolic.py"

MUTATIONS = (
    # what is computed forward
    Mutation(FORWARD, 'tl.where(keep, {{ k.raw }}, float("-inf"))', "{{ k.raw }}", KERNELS),
    Mutation(FORWARD, "p = tl.where(keep, {{ k.score }}, 0.0)", "p = {{ k.score }}", KERNELS),
    Mutation(FORWARD, "(column < N)[None, :]", "(column <= N)[None, :]", KERNELS),
    Mutation(FORWARD, "total * scale + tl.sum(p, 1)", "total + tl.sum(p, 1)", KERNELS),
    Mutation(FORWARD, "acc = acc * scale[:, None]", "acc = acc * 1.0", KERNELS),
    Mutation(FORWARD, "tl.maximum(top, tl.max(score, 1))", "tl.max(score, 1)", KERNELS),
    Mutation(FORWARD, 'tl.where(higher == float("-inf"), 0.0, higher)', "higher", KERNELS),
    Mutation(FORWARD, "tl.where(total == 0.0, 1.0, total)", "total", KERNELS),
    Mutation(FORWARD, " + tl.log2(total)) * LN2", ") * LN2", KERNELS),
    Mutation(FORWARD, ".to(tl.float32) * LOG2E", ".to(tl.float32)", KERNELS),
    Mutation(FORWARD, 'tl.where(top == float("-inf"), 0.0, 1.0)', "tl.zeros_like(top)", KERNELS),
    Mutation(FORWARD, "acc = acc * {{ k.gate.name }}", "acc = acc * 1.0", KERNELS),
    Mutation(
        FORWARD,
        '"p_ungated + first_out", "acc", "row", "BLOCK_M", "M"',
        '"p_ungated + first_out", "acc", "row", "BLOCK_M", "0"',
        KERNELS,
    ),
    Mutation(FORWARD, "i = (row + q_start)[:, None]", "i = row[:, None]", KERNELS),
    Mutation(FORWARD, "j = (column + k_start)[None, :]", "j = column[None, :]", KERNELS),
    Mutation(FORWARD, "hk64 = h64 // (H // HK)", "hk64 = h64 % HK", KERNELS),
    Mutation(FORWARD, "LN2, mask=row < M)", "LN2, mask=row <= M)", KERNELS),
    # gradients of rows
    Mutation(ROWS, "- lse) * (dp - delta)", "- lse) * dp", KERNELS),
    Mutation(ROWS, "tl.exp2({{ k.score }} - lse)", "tl.exp2({{ k.score }})", KERNELS),
    Mutation(ROWS, "{% if k.keep %}{{ k.keep }} & {% endif %}(column", "(column", KERNELS),
    Mutation(
        ROWS,
        "d_{{ g.operand }} += tl.sum({{ g.share }}, 1)",
        "d_{{ g.operand }} = tl.sum({{ g.share }}, 1)",
        KERNELS,
    ),
    Mutation(ROWS, "range(low, high + 1)", "range(low, high)", KERNELS),
    Mutation(
        ROWS,
        "tl.store(at, tl.sum(d_{{ g.operand }}, 0){{ g.after }})",
        "tl.store(at, tl.sum(d_{{ g.operand }}, 0))",
        ("kernels", "fuzz"),
    ),
    Mutation(
        ROWS,
        '"into", "d_" + g.operand + g.after,',
        '"into", "d_" + g.operand,',
        KERNELS,
    ),
    Mutation(ROWS, "((b64 * H + h) * blocks + block) * T", "(b64 * H + h) * blocks * T", KERNELS),
    Mutation(ROWS, "mask=slots < T)", "mask=slots <= T)", KERNELS),
    Mutation(ROWS, "hk64 = h64 // (H // HK)", "hk64 = h64 % HK", KERNELS),
    Mutation(
        MACROS,
        "hi = tl.minimum(block * {{ block }} + {{ block }}, {{ size }}) - 1 + {{ start }}",
        "hi = block * {{ block }} + {{ start }}",
        KERNELS,
    ),
    # gradients of columns
    Mutation(COLUMNS, "(head + 1) * (H // HK)):", "head * (H // HK) + 1):", KERNELS),
    Mutation(COLUMNS, "dp = p * (dp - delta)", "dp = p * dp", KERNELS),
    Mutation(COLUMNS, 'm.excluded(["p"] + k.shares', "m.excluded(k.shares", KERNELS),
    Mutation(COLUMNS, "{% if k.keep %}{{ k.keep }} & {% endif %}(row", "(row", KERNELS),
    Mutation(
        MACROS,
        "lo = block * {{ block }} + {{ start }}",
        "lo = block * {{ block }} + {{ start }} + {{ block }}",
        KERNELS,
    ),
    Mutation(COLUMNS, "d_{{ g.operand }} += tl.sum(", "d_{{ g.operand }} = tl.sum(", KERNELS),
    Mutation(COLUMNS, "mask=column < N)", "mask=column <= N)", KERNELS),
    Mutation(COLUMNS, "i = (row + q_start)[None, :]", "i = row[None, :]", KERNELS),
    Mutation(
        COLUMNS,
        "dot(p.to(d_out.dtype), d_out, d_{{ k.value.name }})",
        "dot(p.to(d_out.dtype), d_out, tl.zeros_like(d_{{ k.value.name }}))",
        KERNELS,
    ),
    # loops
    Mutation(WALK, "tl.minimum(last + 1, start + size)", "tl.minimum(last, start + size)", KERNELS),
    Mutation(
        WALK,
        "low = start if first is None else tl.maximum(first, start)",
        "low = start if first is None else tl.maximum(first + block, start)",
        KERNELS,
    ),
    Mutation(WALK, "tl.minimum(full_last + 1, high)", "high", KERNELS),
    Mutation(
        WALK,
        "tl.minimum((low - start + block - 1) // block",
        "tl.minimum((low - start) // block",
        KERNELS,
    ),
    Mutation(
        WALK,
        "begin = tl.maximum(spans[at + 1][0], spans[at][1])",
        "begin = spans[at + 1][0]",
        WALKS,
    ),
    Mutation(WALK, "turn = two[0] < one[0]", "turn = two[0] < 0", WALKS),
    Mutation(
        WALK,
        "tl.where(place < before, place, place + others",
        "tl.where(place <= before, place, place + others",
        KERNELS,
    ),
    Mutation(
        MACROS,
        "{{ name }} = tl.where(keep, {{ name }}, 0.0)",
        "{{ name }} = {{ name }} * 1.0",
        KERNELS,
    ),
    Mutation(
        MACROS, 'bases(k.head_leaves, "h64", indent)', 'bases(k.head_leaves, "0", indent)', KERNELS
    ),
    Mutation(MACROS, "b64 * s_{{ t.name }}_b + {{ heads }} *", "{{ heads }} *", KERNELS),
    # compact tiles on grids
    Mutation(
        PATCHES,
        "low + shape[axis], lengths[axis]) - 1)",
        "low + 1, lengths[axis]) - 1)",
        (*BOXES, *KERNELS),
    ),
    Mutation(PATCHES, "there & (coordinate < sides[axis])", "there", (*BOXES, *KERNELS)),
    Mutation(
        PATCHES, "whole = (start == 0) & (length == times(sides))", "whole = start == 0", BOXES
    ),
    Mutation(PATCHES, "rest = size - cut", "rest = size", BOXES),
    Mutation(PATCHES, "place + slices * cut, place)", "place, place)", BOXES),
    Mutation(
        "dsl/analysis/patches.py",
        "rows = [replace(run, full=False) for run in rows]",
        "pass",
        GRIDS,
    ),
    # tiles in memory
    Mutation(
        TILES,
        "some = (start + token < length)[:, None]",
        "some = (start + token <= length)[:, None]",
        KERNELS,
    ),
    Mutation(TILES, "some = some & (channel < channels)[None, :]", "some = some & True", KERNELS),
    Mutation(TILES, "tl.minimum(place, length - 1)", "tl.minimum(place, length)", KERNELS),
    Mutation(
        TILES,
        "row, column = tl.minimum(row, rows - 1), tl.minimum(column, columns - 1)",
        "row, column = tl.minimum(row, rows - 1), column",
        KERNELS,
    ),
    Mutation(
        TILES,
        "(start + token < length)[:, None] & (channel < channels)[None, :])",
        "(start + token < length)[:, None])",
        KERNELS,
    ),
    Mutation(TILES, "tl.minimum(tl.maximum(index, 0), size - 1)", "index", KERNELS),
    Mutation(TILES, "acc = dot(short, finite(v), acc)", "acc = dot(short, v, acc)", KERNELS),
    Mutation(SCALARS, "(r < 0) != (b < 0)), q - 1, q)", "(r < 0) != (b < 0)), q, q)", KERNELS),
    Mutation(SCALARS, "(r < 0) != (b < 0)), r + b, r)", "(r < 0) != (b < 0)), r, r)", KERNELS),
    Mutation(SCALARS, "(a - 1.0) / (a + 1.0)", "(a - 1.0) / (a + 2.0)", KERNELS),
    Mutation(SCALARS, "tl.where(x > 0, x, 0.0) + log1p(", "log1p(", KERNELS),
    # bounds of loops
    Mutation(ANALYSIS, '_NEGATED = {"lt": "ge"', '_NEGATED = {"lt": "gt"', BOUNDS),
    Mutation(ANALYSIS, '_hull("min", [p.first', '_hull("max", [p.first', BOUNDS),
    Mutation(ANALYSIS, '_hull("max", [p.last', '_hull("min", [p.last', BOUNDS),
    Mutation(
        ANALYSIS, 'tighter("max", a.first, b.first)', 'tighter("min", a.first, b.first)', BOUNDS
    ),
    Mutation(ANALYSIS, 'tighter("min", a.full_last', 'tighter("max", a.full_last', BOUNDS),
    Mutation(ANALYSIS, "a.full and b.full", "a.full or b.full", BOUNDS),
    Mutation(ANALYSIS, 'gap=1 if op == "lt" else 0', "gap=0", BOUNDS),
    Mutation(
        ANALYSIS,
        'each([(x, b), (apply("neg", x), b)])',
        "each([(x, b)])",
        BOUNDS,
    ),
    Mutation(
        ANALYSIS,
        "return each([(x, b) for x in args])",
        "return each([(x, b) for x in args[:1]])",
        BOUNDS,
    ),
    Mutation(
        ANALYSIS,
        "decides no bound, and may leave holes\n        return Run(full=False)",
        "decides no bound\n        return Run()",
        BOUNDS,
    ),
    Mutation(
        ANALYSIS,
        "= _solve_most(term, high, variable), _solve_most(",
        "= _solve_most(term, low, variable), _solve_most(",
        BOUNDS,
    ),
    Mutation(
        ANALYSIS,
        "_solve_least(term, low, variable), _solve_least(term, high, variable)",
        "_solve_least(term, low, variable), _solve_least(term, low, variable)",
        BOUNDS,
    ),
    Mutation(
        ANALYSIS,
        'apply("mul", apply("add", limit, integer(1)), c)',
        'apply("mul", limit, c)',
        BOUNDS,
    ),
    Mutation(
        ANALYSIS,
        '_solve_least(x, apply("mul", limit, c), variable)',
        '_solve_least(x, apply("add", apply("mul", limit, c), integer(1)), variable)',
        BOUNDS,
    ),
    Mutation(ANALYSIS, "_flatten(b, -sign, out)", "_flatten(b, sign, out)", BOUNDS),
    Mutation(
        ANALYSIS,
        'return apply("sub", a, d), apply("sub", b, c)',
        'return apply("sub", a, c), apply("sub", b, d)',
        BOUNDS,
    ),
    Mutation(
        ANALYSIS,
        'return apply("neg", b), apply("neg", a)',
        'return apply("neg", a), apply("neg", b)',
        BOUNDS,
    ),
    Mutation(
        ANALYSIS,
        "low, high = apply(op, low, a), apply(op, high, b)",
        "low, high = low, high",
        BOUNDS,
    ),
    Mutation(ANALYSIS, 'apply("min", apply("max", b, d), f)', 'apply("max", b, d)', BOUNDS),
    Mutation(
        ANALYSIS,
        'return apply("floordiv", a, c), apply("floordiv", b, c)',
        'return apply("floordiv", a, c), apply("floordiv", a, c)',
        BOUNDS,
    ),
    Mutation(
        ANALYSIS,
        'return integer(0), apply("sub", c, integer(1))',
        'return integer(1), apply("sub", c, integer(1))',
        BOUNDS,
    ),
    # positions
    Mutation(
        POSITIONS,
        'case Apply(op=("add" | "mul" | "min" | "where"), args=args):',
        'case Apply(op=("add" | "sub" | "mul" | "min" | "where"), args=args):',
        KERNELS,
    ),
    Mutation(POSITIONS, "if place > 0:", "if place > 1:", ("regressions", "fuzz")),
    Mutation(
        POSITIONS,
        "if place + 1 < len(names):",
        "if place + 2 < len(names):",
        ("regressions", "fuzz"),
    ),
    # derivatives
    Mutation(
        SYMBOLIC,
        '"abs": lambda y, x: (_F["sign"](x),)',
        '"abs": lambda y, x: (sp.S.One,)',
        FUNCTIONS,
    ),
    Mutation(
        SYMBOLIC,
        '"min": lambda y, a, b: (_less(a, b), _less(b, a))',
        '"min": lambda y, a, b: (_less(b, a), _less(a, b))',
        FUNCTIONS,
    ),
    Mutation(
        SYMBOLIC,
        '"max": lambda y, a, b: (_less(b, a), _less(a, b))',
        '"max": lambda y, a, b: (_less(b, a), _less(b, a))',
        FUNCTIONS,
    ),
    Mutation(SYMBOLIC, "Where(above, 1, 0)\n", "Where(above, 0, 0)\n", FUNCTIONS),
    Mutation(SYMBOLIC, "(_HALF / y,)", "(1 / y,)", FUNCTIONS),
    Mutation(SYMBOLIC, "(-_HALF * y**3,)", "(_HALF * y**3,)", FUNCTIONS),
    Mutation(SYMBOLIC, "(y * sp.Float(log(2)),)", "(y,)", FUNCTIONS),
    Mutation(SYMBOLIC, "sp.Float(1 / log(2)) / x", "1 / x", FUNCTIONS),
    Mutation(SYMBOLIC, "(1 / (1 + x),)", "(1 / x,)", FUNCTIONS),
    Mutation(SYMBOLIC, '(-_F["sin"](x),)', '(_F["sin"](x),)', FUNCTIONS),
    Mutation(SYMBOLIC, "(1 / (1 + x**2),)", "(1 / (1 + x),)", FUNCTIONS),
    Mutation(SYMBOLIC, "(1 - y**2,)", "(1 - y,)", FUNCTIONS),
    Mutation(SYMBOLIC, "(y * (1 - y),)", "(y,)", FUNCTIONS),
    Mutation(SYMBOLIC, '(_F["sigmoid"](-x),)', '(_F["sigmoid"](x),)', FUNCTIONS),
    Mutation(SYMBOLIC, '(_F["step"](x),)', "(sp.S.One,)", FUNCTIONS),
    Mutation(SYMBOLIC, 'Where(_F["gt"](x, 0), 0, x)', "sp.S.Zero", FUNCTIONS),
    Mutation(
        SYMBOLIC,
        '"elu": lambda y, x: (Where(_F["gt"](x, 0), 1, _F["exp"](x)),)',
        '"elu": lambda y, x: (_F["exp"](x),)',
        FUNCTIONS,
    ),
    Mutation(
        SYMBOLIC,
        '_F["sigmoid"](x) * (1 + x * (1 - _F["sigmoid"](x)))',
        '_F["sigmoid"](x)',
        FUNCTIONS,
    ),
    Mutation(SYMBOLIC, "x * sp.Float(1 / sqrt(2 * pi))", "x * sp.Float(1 / sqrt(pi))", FUNCTIONS),
    Mutation(SYMBOLIC, "sp.Float(2 / sqrt(pi))", "sp.Float(1 / sqrt(pi))", FUNCTIONS),
    Mutation(
        SYMBOLIC,
        '(n * _F["pow"](x, n - 1), y * _log(x))',
        '(n * _F["pow"](x, n - 1), y)',
        FUNCTIONS,
    ),
    Mutation(SYMBOLIC, "Where(condition, d_yes, d_no)", "Where(condition, d_no, d_yes)", FUNCTIONS),
    Mutation(SYMBOLIC, 'Where(_F["eq"](a, b), _HALF, 0)', "sp.S.Zero", ("functions", "fuzz")),
    # matching, hosts, gradients around the kernels
    Mutation(
        "codegen/match.py", " or any(core in walk(f) for f in others)", "", ("regressions", "fuzz")
    ),
    Mutation(
        "codegen/match.py",
        "gate = _product(others)",
        "gate = others[0]",
        ("regressions", "fuzz"),
    ),
    Mutation(
        "codegen/host.py",
        "        if not value.narrow:\n",
        "        if True:\n",
        ("regressions", "fuzz"),
    ),
    Mutation(
        "codegen/host.py",
        "self.aligned(value, dims, ungroup=True)\n        return code if",
        "self.aligned(value, dims)\n        return code if",
        ("regressions", "fuzz"),
    ),
    Mutation(
        "codegen/views.py", '(side == "columns" and not _number(plan, value))', "False", KERNELS
    ),
    Mutation(
        "runtime/launch.py", "delta = delta - d_lse.to(wide)", "delta = delta + d_lse.to(wide)", CPU
    ),
    Mutation(
        "runtime/launch.py",
        "product = d_out.to(wide) * ungated.to(wide)",
        "product = d_out.to(wide) * out.to(wide)",
        CPU,
    ),
    Mutation(
        "runtime/launch.py",
        "found[plan.sink] = -torch.where",
        "found[plan.sink] = torch.where",
        CPU,
    ),
    Mutation(
        "runtime/launch.py",
        "grad = grad.sum(2).sum_to_size(like.shape)",
        "grad = grad[:, :, 0].sum_to_size(like.shape)",
        KERNELS,
    ),
    Mutation("runtime/cpu.py", "total = total * scale + weight", "total = total + weight", CPU),
    Mutation(
        "runtime/cpu.py",
        "upstream = weight * (upstream - delta",
        "upstream = weight * (upstream + delta",
        CPU,
    ),
    Mutation(
        "runtime/cpu.py",
        "(p != 0).to(v.dtype) @ bad.to(v.dtype)",
        "(p == 0).to(v.dtype) @ bad.to(v.dtype)",
        CPU,
    ),
    Mutation(
        "runtime/cpu_tiles.py",
        "begin = max(0, _limit(first, torch.amin",
        "begin = max(0, _limit(first, torch.amax",
        CPU,
    ),
    Mutation(
        "runtime/cpu_tiles.py",
        "part.repeat_interleave(call.groups, 1)",
        "part.repeat(1, call.groups, 1)",
        CPU,
    ),
    Mutation(
        "runtime/cpu_tiles.py",
        "min(end, _limit(full_last, torch.amin, end + start) - start + 1)",
        "min(end, _limit(full_last, torch.amin, end + start) - start + 2)",
        CPU,
    ),
)
