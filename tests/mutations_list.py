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
SCORES = ("scores",)
LOOKUPS = ("lookups", "fuzz")
RANKS, CUTS, SWEEPS = ("ranks", "fuzz"), ("cuts",), ("sweeps",)
MIXTURES = ("mixtures", "fuzz")
WALKS, BOXES, GRIDS = ("walks",), ("boxes",), ("boxes", "fuzz")
COORDINATES = ("coordinates",)
BOUNDS = ("bounds", "relations", "fuzz")
FUNCTIONS = ("functions", "fuzz")
BLOCKS, PARTS = ("blocks",), ("parts",)
BLOCKED, KEPT, REGRESSIONS = ("blocked",), ("kept",), ("regressions",)
TURNED, ORDERS = ("turned",), ("channels",)
FACTS = ("facts",)
RUNNING = ("running", "fuzz")
CPU = ("relations", "regressions", "functions", "fuzz")

NATIVE, FEW_ROWS, PACKED = ("native",), ("few",), ("packed",)
DESCRIPTORS, BOXED = ("descriptors",), ("boxed",)
PEERS, DISTANCES = ("peers",), ("distances",)

NATIVE_H, NATIVE_CPP = "runtime/native.h", "templates/native.cpp.jinja"
DIAGONALS, REL = "codegen/diagonals.py", "codegen/rewrite_distances.py"
RUNS_ALONG, ALONG = "runtime/triton_running.py", "runtime/running.py"
FORWARD = "templates/forward.py.jinja"
TRITON_CUTS = "runtime/triton_cuts.py"
ROWS = "templates/backward_rows.py.jinja"
COLUMNS = "templates/backward_columns.py.jinja"
MACROS = "templates/macros.py.jinja"
TILES, ARRANGE = "runtime/triton_tiles.py", "runtime/arrange.py"
WALK = "runtime/triton_walk.py"
PATCHES, VIEWS = "runtime/triton_patches.py", "codegen/views.py"
SCALARS = "runtime/triton_functions.py"
BOUND = "dsl/analysis/bounds.py"
EXTENTS = "dsl/analysis/extents.py"
CLAIMS = "dsl/analysis/claims.py"
READING = "dsl/analysis/logic.py"
RUNS = "dsl/analysis/runs.py"
PERIODS = "dsl/analysis/periods.py"
WHOLE = "dsl/analysis/whole.py"
POSITIONS = "dsl/analysis/positions.py"
SYMBOLIC = "dsl/analysis/symbolic.py"
RELATIONS = "dsl/analysis/relations.py"
SEPARABLE = "dsl/analysis/separable.py"
SETS = "dsl/analysis/index_sets.py"
ENTMAX = "codegen/entmax.py"
SEARCH = "templates/threshold.py.jinja"
SEARCHED = "runtime/triton_entmax.py"
SWEPT = "runtime/cpu_entmax.py"
SPARSE = ("entmax",)
REWRITE = "codegen/rewrite.py"
MIXED = "codegen/mixtures.py"
REWRITE_BLOCKS = "codegen/rewrite_blocks.py"
IN_BLOCKS = "runtime/blocked.py"
BLOCKED_AXES = "runtime/blocked_axes.py"
REWRITE_TURNED = "codegen/rewrite_turned.py"
REWRITE_ORDERS = "codegen/rewrite_orders.py"
HOST_SUMS = "codegen/host_sums.py"
HOST_FUNCTIONS = "runtime/host_functions.py"

MUTATIONS = (
    # what is computed forward
    Mutation(FORWARD, 'tl.where(keep, {{ r.raw }}, float("-inf"))', "{{ r.raw }}", KERNELS),
    Mutation(FORWARD, "p = tl.where(keep, {{ r.score }}, 0.0)", "p = {{ r.score }}", KERNELS),
    Mutation(FORWARD, "(column < N)[None, :]", "(column <= N)[None, :]", KERNELS),
    Mutation(FORWARD, "{{ r.end }} * scale + tl.sum(p, 1)", "{{ r.end }} + tl.sum(p, 1)", KERNELS),
    Mutation(FORWARD, "{{ r.end }} * scale[:, None]", "{{ r.end }} * 1.0", KERNELS),
    Mutation(FORWARD, "tl.maximum(top{{ r.end }}, tl.max(score, 1))", "tl.max(score, 1)", KERNELS),
    Mutation(FORWARD, 'tl.where(higher == float("-inf"), 0.0, higher)', "higher", KERNELS),
    Mutation(FORWARD, 'total ~ " == 0.0" }}, 1.0,', 'total ~ " < 0.0" }}, 1.0,', KERNELS),
    Mutation(FORWARD, " + tl.log2({{ total }})", "", KERNELS),
    Mutation(FORWARD, "tl.where(top == higher, first, N)", "N", KERNELS),
    Mutation(
        FORWARD, "tl.where(top == {{ least }}, -1, ", "tl.where(top == {{ least }}, 0, ", KERNELS
    ),
    Mutation(SCALARS, "tl.where(bits < 0, bits ^ 0x7FFFFFFF, bits)", "bits", KERNELS),
    Mutation(FORWARD, ".to(tl.float32) * LOG2E", ".to(tl.float32)", KERNELS),
    Mutation(FORWARD, "empty = {{ total }} == 0.0", "empty = {{ total }} < 0.0", KERNELS),
    Mutation(FORWARD, "{{ total }} = {{ total }} * less", "{{ total }} = {{ total }}", KERNELS),
    Mutation(FORWARD, "acc = acc * {{ k.gate.name }}", "acc = acc * 1.0", KERNELS),
    Mutation(ROWS, "ungated = ungated * upstream", "ungated = ungated * d_out", KERNELS),
    Mutation(ROWS, "            p = tl.where(keep, p, 0.0)", "            p = p + 0.0", KERNELS),
    Mutation(MACROS, "i = (row + q_start)[:, None]", "i = row[:, None]", KERNELS),
    Mutation(MACROS, "j = (column + k_start)[None, :]", "j = column[None, :]", KERNELS),
    Mutation(MACROS, "hk64 = h64 // GROUPS", "hk64 = h64 % HK", KERNELS),
    Mutation(FORWARD, "LN2, mask=row < M)", "LN2, mask=row <= M)", KERNELS),
    # logits cut short
    Mutation(FORWARD, "lse, lse - lifted)", "lse, lse + lifted)", SCORES),
    Mutation(ROWS, '" + " ~ r.lifted', '" - " ~ r.lifted', SCORES),
    Mutation(ROWS, '"tl.minimum(row, M - 1)"', '"row"', SCORES),
    Mutation(TILES, "0, 1), 1), 0) > 0", "0, 1), 1), 0) > 1", SCORES),
    Mutation(FORWARD, "{{ attempt(carefully,", "{{ attempt(step,", SCORES),
    Mutation(ROWS, "if k.holds_rows", "if k.sums_rows", SCORES),
    Mutation(
        MACROS, "tl.where({{ scan.past }}, 0.0, d_{{ scan.name }})", "d_{{ scan.name }}", SCORES
    ),
    Mutation(COLUMNS, '" + " ~ r.lifted', '" - " ~ r.lifted', SCORES),
    Mutation(SCALARS, "place = place + since", "place = place - since", SCORES),
    Mutation(SCALARS, "highest * 1.4426950408889634 - fixed", "highest * 99.0", SCORES),
    # gradients of rows
    Mutation(ROWS, "{% if k.value %}(dp - delta)", "{% if k.value %}dp", KERNELS),
    Mutation(ROWS, 'tl.exp2(%s - lse)" % score', 'tl.exp2(%s)" % score', KERNELS),
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
    Mutation(ROWS, "hk64 = h64 // GROUPS", "hk64 = h64 % HK", KERNELS),
    Mutation(
        MACROS,
        "hi = tl.minimum(lo + {{ block }}, {{ size }} + {{ start }}) - 1",
        "hi = lo",
        KERNELS,
    ),
    # gradients of columns
    Mutation(COLUMNS, "for turn in range(GROUPS):", "for turn in range(1):", KERNELS),
    Mutation(COLUMNS, "{% if k.value %}(dp - delta)", "{% if k.value %}dp", KERNELS),
    Mutation(COLUMNS, '(["p"] if k.value and turn.last else []) + ', "", KERNELS),
    Mutation(COLUMNS, "{% if k.keep %}{{ k.keep }} & {% endif %}(row", "(row", KERNELS),
    Mutation(
        MACROS,
        "lo = (block * {{ block }} + {{ start }})",
        "lo = (block * {{ block }} + {{ start }} + {{ block }})",
        KERNELS,
    ),
    Mutation(COLUMNS, "d_{{ g.operand }} += tl.sum(", "d_{{ g.operand }} = tl.sum(", KERNELS),
    Mutation(COLUMNS, "mask=column < N)", "mask=column <= N)", KERNELS),
    Mutation(COLUMNS, "i = (row + q_start)[None, :]", "i = row[None, :]", KERNELS),
    Mutation(
        COLUMNS,
        'dot({{ m.narrow(k, "p", "d_out") }}, d_out, d_{{ k.value.name }})',
        'dot({{ m.narrow(k, "p", "d_out") }}, d_out, tl.zeros_like(d_{{ k.value.name }}))',
        KERNELS,
    ),
    # loops
    Mutation(
        WALK,
        "high = stop if last is None else within(last, start - 1, stop - 1) + 1",
        "high = stop if last is None else within(last, start - 1, stop - 1)",
        KERNELS,
    ),
    Mutation(WALK, "within(first, start, stop)", "within(first + block, start, stop)", KERNELS),
    Mutation(WALK, "tl.minimum(within(full_last, start - 1, stop - 1) + 1, high)", "high", KERNELS),
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
        MACROS,
        "bases(k, k.head_leaves, k.upright, indent)",
        'bases(k, k.head_leaves, "0", indent)',
        KERNELS,
    ),
    Mutation(MACROS, "b64 * s_{{ t.name }}_b + {{ t.head", "{{ t.head", KERNELS),
    Mutation(
        MACROS,
        "nth_besides(place // pieces, visited, full) * {{ block }} + place % pieces * EDGE",
        "nth_besides(place // pieces, visited, full) * {{ block }}",
        KERNELS,
    ),
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
    Mutation(VIEWS, "* {text(step)} + {rest})", "* {text(step)})", COORDINATES),
    Mutation(VIEWS, 'f"tl.minimum({at}, hi_{axis}.to(tl.int32))"', "at", COORDINATES),
    Mutation(VIEWS, '"[:, None]" if own == side', '"[:, None]" if own == "rows"', COORDINATES),
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
    Mutation(TILES, "tl.minimum(index.to(tl.uint32, bitcast=True), last)", "index", KERNELS),
    Mutation(TILES, "acc = dot(short, finite(v), acc)", "acc = dot(short, v, acc)", KERNELS),
    Mutation(SCALARS, "(r < 0) != (b < 0)), q - 1, q)", "(r < 0) != (b < 0)), q, q)", KERNELS),
    Mutation(SCALARS, "(r < 0) != (b < 0)), r + b, r)", "(r < 0) != (b < 0)), r, r)", KERNELS),
    Mutation(SCALARS, "(a - 1.0) / (a + 1.0)", "(a - 1.0) / (a + 2.0)", KERNELS),
    Mutation(SCALARS, "tl.where(x > 0, x, 0.0) + log1p(", "log1p(", KERNELS),
    # bounds of loops
    Mutation(CLAIMS, 'NEGATED = {"lt": "ge"', 'NEGATED = {"lt": "gt"', BOUNDS),
    Mutation(READING, 'every if (op == "and") is holds', 'every if op == "and"', BOUNDS),
    Mutation(READING, "return read(inner, not holds)", "return read(inner, holds)", BOUNDS),
    Mutation(READING, "every([read(c, False), read(*b)])", "read(*b)", BOUNDS),
    Mutation(READING, "(b, same), (b, not same)", "(b, same), (b, same)", BOUNDS),
    Mutation(
        BOUND,
        "Run(last=high, full_last=low) if up",
        "Run(last=high, full_last=high) if up",
        BOUNDS,
    ),
    Mutation(
        BOUND,
        "else Run(first=low, full_first=high),)",
        "else Run(first=low, full_first=low),)",
        BOUNDS,
    ),
    Mutation(BOUND, "over = limit.plus(number(1)).by(divisor)", "over = limit.by(divisor)", BOUNDS),
    Mutation(BOUND, "quotient if up else quotient.times(-1)", "quotient", BOUNDS),
    Mutation(BOUND, 'if (op == "max") == (self.sign(by) > 0):', 'if op == "max":', BOUNDS),
    Mutation(
        BOUND,
        'op, args = "max", (x, Apply("neg", (x,), kind=x.kind))',
        'op, args = "max", (x,)',
        BOUNDS,
    ),
    Mutation(
        BOUND,
        "rest.by(divisor).plus(self.sum(x).minus(left).by(by))",
        "rest.by(divisor).plus(self.sum(x).by(by))",
        BOUNDS,
    ),
    Mutation(
        BOUND,
        "return end(low, lowest=True), end(high, lowest=False)",
        "return end(high, lowest=True), end(low, lowest=False)",
        BOUNDS,
    ),
    Mutation(
        BOUND,
        "choose(known, Apply(inner, (x, far), kind=FLOAT), near)",
        "Apply(inner, (x, far), kind=FLOAT)",
        BOUNDS,
    ),
    Mutation(
        CLAIMS,
        "return Claim(self.total.plus(number(1)), real=False)",
        "return Claim(self.total, real=False)",
        BOUNDS,
    ),
    Mutation(
        EXTENTS,
        "elif t.number < 0:\n                least, most = most, least",
        "elif t.number < 0:\n                pass",
        BOUNDS,
    ),
    Mutation(
        EXTENTS,
        "choose(same, least, ZERO), choose(same, greatest, most)",
        "ZERO, choose(same, least, most)",
        BOUNDS,
    ),
    Mutation(
        EXTENTS,
        "return extreme(op, *lows), extreme(op, *highs)",
        "return extreme(op, *lows), extreme(op, *lows)",
        BOUNDS,
    ),
    Mutation(
        EXTENTS,
        "return _clamped(*lows), _clamped(*highs)",
        "return _clamped(*lows), highs[0]",
        BOUNDS,
    ),
    Mutation(
        EXTENTS,
        "choose(c[1], x[0], choose(c[0], low, y[0]))",
        "choose(c[0], x[0], y[0])",
        BOUNDS,
    ),
    Mutation(
        EXTENTS,
        'return extreme("max", low, above, ZERO), extreme("max", high, below)',
        'return extreme("max", low, above), high',
        BOUNDS,
    ),
    Mutation(EXTENTS, 'if real and (op == "ne" or not holds)', 'if real and op == "ne"', BOUNDS),
    Mutation(EXTENTS, "return [[less, more]]", "return [[less]]", BOUNDS),
    Mutation(
        EXTENTS,
        "may_be_below(low.minus(slack)), surely_below(high.plus(slack))",
        "may_be_below(low), surely_below(low)",
        BOUNDS,
    ),
    Mutation(EXTENTS, "found = TRUE if value < 0 or", "found = TRUE if value <= 0 or", BOUNDS),
    Mutation(RUNS, 'inner("max", a.first, b.first)', 'inner("min", a.first, b.first)', BOUNDS),
    Mutation(
        RUNS,
        'inner("min", a.full_last, b.full_last)',
        'inner("max", a.full_last, b.full_last)',
        BOUNDS,
    ),
    Mutation(
        RUNS,
        "if not (a.full and b.full):\n        return Run(first, last, full=False)",
        "if not (a.full or b.full):\n        return Run(first, last, full=False)",
        BOUNDS,
    ),
    Mutation(
        RUNS,
        'first, last = _outer("min", a.first, b.first), a.last',
        "first, last = a.first, a.last",
        BOUNDS,
    ),
    Mutation(
        RUNS,
        'last = _outer("max", _last(a), _last(b))',
        'last = _outer("min", _last(a), _last(b))',
        BOUNDS,
    ),
    Mutation(RUNS, "None if certain == TRUE else choose(certain, ZERO, NOWHERE)", "None", BOUNDS),
    Mutation(RUNS, "choose(some(*conditions), ZERO,", "choose(every(*conditions), ZERO,", BOUNDS),
    Mutation(PERIODS, "return math.lcm(", "return max(", BOUNDS),
    Mutation(PERIODS, "slopes in ((1, -1), (-1, 1))", "True", BOUNDS),
    Mutation(
        WHOLE,
        "_times(n, below // d) for n, d in known",
        "_times(n, d) for n, d in known",
        BOUNDS,
    ),
    Mutation(
        WHOLE,
        "return (lit(above), below) if below <= _MOST_BELOW else None",
        "return lit(above), 1",
        BOUNDS,
    ),
    # entmax
    Mutation(ENTMAX, "_where(none, ZERO, step)", "ZERO", SPARSE),
    Mutation(SWEPT, "torch.where(convex, near, low)", "near", SPARSE),
    Mutation(SWEPT, "total / slope * height * lower", "(total - 1) / slope", SPARSE),
    Mutation(SWEPT, "(n - 1) / n - series * near", "(n - 1) / n + series * near", SPARSE),
    Mutation(SEARCH, "share = tl.where(keep, share, 0.0)", "share = share", KERNELS),
    Mutation(SEARCH, 'score = tl.where(keep, score, float("-inf"))', "score = score", KERNELS),
    Mutation(SEARCHED, "height * lower, 0.0)", "height, 0.0)", KERNELS),
    Mutation(SEARCHED, "v / (1.0 + v) - tl.log", "v / (1.0 + v) + tl.log", KERNELS),
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
        "gate = times(others)",
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
        "codegen/views_gradients.py",
        '(side == "columns" and not one_number(plan, slopes[0].value))',
        "False",
        KERNELS,
    ),
    Mutation(
        "runtime/launch.py", "delta = delta - d_lse.to(wide)", "delta = delta + d_lse.to(wide)", CPU
    ),
    Mutation(
        "runtime/cpu.py", "ungated.mul_(of_gated.to(call.wide))", "ungated.add_(of_gated)", CPU
    ),
    Mutation(
        "runtime/launch.py",
        "found[weight.sink] = -torch.where",
        "found[weight.sink] = torch.where",
        CPU,
    ),
    Mutation(
        "runtime/launch.py",
        "grad = grad.sum(2).sum_to_size(like.shape)",
        "grad = grad[:, :, 0].sum_to_size(like.shape)",
        KERNELS,
    ),
    Mutation("runtime/cpu.py", "self.total * scale + weights", "self.total + weights", CPU),
    Mutation(
        "runtime/cpu.py",
        "weight * (_times(by, d_weight) - delta)",
        "weight * (_times(by, d_weight) + delta)",
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
        "of_blocks(first).amin(1)",
        "of_blocks(first).amax(1)",
        CPU,
    ),
    Mutation(
        "runtime/cpu_tiles.py",
        "else x.repeat_interleave(call.groups, 1)",
        "else x.repeat(1, call.groups, *[1] * (x.dim() - 2))",
        CPU,
    ),
    Mutation(
        "runtime/cpu_tiles.py",
        "of_blocks(torch.minimum(last, full_last)).amin(1)",
        "of_blocks(torch.minimum(last, full_last)).amin(1) + 1",
        CPU,
    ),
    # block lists and ranges
    Mutation(MACROS, '"partial * pieces"', '"partial"', KERNELS),
    Mutation(
        MACROS,
        "tl.load(visited + full + place // pieces)",
        "tl.load(visited + place // pieces)",
        KERNELS,
    ),
    Mutation(
        MACROS,
        "full, partial = tl.load(counts), tl.load(counts + 1)",
        "full, partial = tl.load(counts + 1), tl.load(counts)",
        KERNELS,
    ),
    Mutation(
        VIEWS,
        "tl.load(limits + {4 * place + n})",
        "tl.load(limits + {4 * place + 2 + n % 2})",
        KERNELS,
    ),
    Mutation(
        "dsl/analysis/boxes.py",
        'self.may("lt", x.low, y.high)',
        'self.may("lt", x.high, y.high)',
        BLOCKS,
    ),
    Mutation(
        "dsl/analysis/boxes.py",
        '"lt" if rounded else "le", x.high, y.low',
        '"lt" if rounded else "le", x.high, y.high',
        BLOCKS,
    ),
    Mutation(
        "dsl/analysis/boxes.py",
        "return self.no(of[1]), self.no(of[0])",
        "return self.no(of[0]), self.no(of[1])",
        BLOCKS,
    ),
    Mutation(
        "dsl/analysis/boxes.py",
        'return self.no(self.holds({"lt": "ge", "le": "gt"}[op], a, b))',
        "return self.holds(op, a, b)",
        BLOCKS,
    ),
    Mutation(
        "dsl/analysis/boxes.py",
        'op("where", same, op("mod", x.high, by), most)',
        'op("mod", x.high, by)',
        BLOCKS,
    ),
    Mutation("dsl/analysis/boxes.py", "if found.most > MOST:", "if found.most < 0:", BLOCKS),
    Mutation(
        "dsl/analysis/ascending.py",
        "total.axis == own and nonnegative(total.body)",
        "total.axis == own",
        BLOCKS,
    ),
    Mutation(
        "dsl/analysis/ascending.py",
        'count = "upto" if op == "gt" else "below"',
        'count = "upto"',
        BLOCKS,
    ),
    Mutation("dsl/analysis/ascending.py", "not base.tight or", "", BLOCKS),
    Mutation("runtime/blocks.py", "full[..., -1] = False", "pass", BLOCKS),
    Mutation("runtime/blocks.py", "after.add_(counts[..., :1])", "after", BLOCKS),
    Mutation(
        "runtime/blocks.py",
        "x.repeat_interleave(call.groups, 1)",
        "x.repeat(1, call.groups, *([1] * (x.dim() - 2)))",
        BLOCKS,
    ),
    Mutation(
        "runtime/blocks.py", "(low + size).clamp(max=length) - 1 + start", "low + start", BLOCKS
    ),
    Mutation(
        "runtime/cpu_tiles.py",
        "of_blocks(torch.maximum(first, full_first))",
        "of_blocks(full_first)",
        BLOCKS,
    ),
    Mutation("codegen/host_reads.py", 'former = host.only[1] == "i"', "pass", BLOCKS),
    # few queries, whose keys several programs share
    Mutation(
        "runtime/triton_parts.py",
        "begin = (count * tl.program_id(1)) // parts",
        "begin = 0",
        FEW_ROWS,
    ),
    Mutation("runtime/triton_parts.py", "(tl.num_programs(0) // blocks) * rows", "rows", FEW_ROWS),
    Mutation(
        "runtime/triton_parts.py", "total / tl.where(whole == 0.0, 1.0, whole)", "total", FEW_ROWS
    ),
    Mutation(
        FORWARD, 'sink = tl.where(tl.program_id(1) == 0, sink, float("-inf"))', "pass", FEW_ROWS
    ),
    # tiles loaded by descriptors
    Mutation(
        TILES,
        "descriptor.load([b.to(tl.int32), h.to(tl.int32), first, 0])",
        "descriptor.load([b.to(tl.int32), h.to(tl.int32), start * 0, 0])",
        DESCRIPTORS,
    ),
    Mutation(
        MACROS, "desc_{{ t.name }}, b64, {{ heads }})", "desc_{{ t.name }}, b64, h64)", DESCRIPTORS
    ),
    Mutation(ARRANGE, "tile.block_n if by_keys else tile.block_m", "tile.block_n", DESCRIPTORS),
    Mutation(ARRANGE, "s > 0 and s * x.dtype.itemsize", "s * x.dtype.itemsize", BOXED),
    Mutation(ARRANGE, "if x is None or x.data_ptr() % 16:", "if x is None:", BOXED),
    # rows of several heads in one tile
    Mutation("runtime/triton_packed.py", "first + tl.arange(0, rows) % packed", "first", PACKED),
    Mutation(
        "runtime/triton_packed.py",
        "tl.where(place < rows // packed, token, length)",
        "token",
        PACKED,
    ),
    Mutation(FORWARD, 'M{{ " * PACKED" if k.packs }}', "M", PACKED),
    Mutation(FORWARD, "{% if k.packs and not r.alike %}", "{% if false %}", PACKED),
    Mutation("codegen/packing.py", "leaf.role not in KEYED and (", "False and (", PACKED),
    Mutation("codegen/views_kernel.py", "if self.packs and not own", "if False", PACKED),
    # passes in C++
    Mutation(
        NATIVE_H, "const int64_t from = begin / WIDE * WIDE;", "const int64_t from = begin;", NATIVE
    ),
    Mutation(
        NATIVE_H, "total[r] = total[r] * scale + weigh(", "total[r] = total[r] + weigh(", NATIVE
    ),
    Mutation(NATIVE_H, "if (block % call.parts != part) continue;", "", NATIVE),
    Mutation(
        NATIVE_H,
        "spot.lse = spot.lse == NOTHING ? 0.0f : spot.lse;",
        "",
        NATIVE,
        "a pair of an empty row is excluded, and its share selected away",
    ),
    Mutation(
        NATIVE_H,
        "bad += value * 0.0f;\n                to[c * WIDE + n]",
        "to[c * WIDE + n]",
        NATIVE,
    ),
    Mutation(NATIVE_H, "to[place[n]] += share[n]", "to[place[n]] = share[n]", NATIVE),
    Mutation(NATIVE_H, "return size < 0.625f ? inner : outer;", "return outer;", NATIVE),
    Mutation(NATIVE_CPP, '{{ "gradient" if loop.first else', '{{ "gradient" if True else', NATIVE),
    Mutation(NATIVE_CPP, "weight * (gradient[n] - at.delta)", "weight * gradient[n]", NATIVE),
    Mutation("runtime/native.py", "_largest(x) >= 2**31", "_largest(x) < 0", NATIVE),
    Mutation(NATIVE_CPP, "return most < 2147483648.0;", "return true;", NATIVE),
    Mutation(NATIVE_H, "const int by = y == 0 ? 1 : y", "const int by = y", NATIVE),
    Mutation("runtime/calls.py", " and not x.is_neg()", "", NATIVE),
    # what the pairs of a diagonal share
    Mutation(DIAGONALS, "return known[0] - known[1]", "return known[0] + known[1]", NATIVE),
    Mutation(DIAGONALS, "return 0 if known[0] == known[1] else None", "return 0", NATIVE),
    Mutation(DIAGONALS, "return by * known[1]", "return known[1]", NATIVE),
    Mutation(NATIVE_H, "low + m - 1, begin", "low, begin", NATIVE),
    Mutation(
        NATIVE_H, "float* const to = diagonals + at.shift", "float* const to = diagonals", NATIVE
    ),
    Mutation(NATIVE_H, "std::fill_n(flows.at[k], across.count, 0.0f);", ";", NATIVE),
    Mutation(
        NATIVE_CPP, "at.along[{{ loop.index0 }}] + at.shift", "at.along[{{ loop.index0 }}]", NATIVE
    ),
    # tables of distances, and what reads no tensor
    Mutation(REL, "return step == -back", "return step == back", DISTANCES),
    Mutation(REL, "ends(self.spec, other)[1])", "ends(self.spec, other)[0])", DISTANCES),
    Mutation(REL, "{one: add(index(at), least)", "{one: index(at)", DISTANCES),
    Mutation("codegen/fixed.py", "elif line.target not in shown:", "else:", DISTANCES),
    Mutation("codegen/fixed.py", "- _PLACES - _GIVEN", "- {attr}", DISTANCES),
    Mutation("codegen/fixed.py", "return node.id in known", "return False", DISTANCES),
    Mutation("runtime/calls.py", ", *map(repr, numbers))", ")", DISTANCES),
    Mutation(REL, "lit(2 * STEP)", "lit(0)", DISTANCES),
    Mutation("runtime/calls.py", "torch.inference_mode(False), own", "own", DISTANCES),
    Mutation("runtime/calls.py", "(False), own_precision(device):", "(False):", DISTANCES),
    # tables of tokens
    Mutation("codegen/lookups.py", "(*found, *ends)", "found", LOOKUPS),
    Mutation("codegen/lookups.py", "return () if step else None", "return ()", LOOKUPS),
    Mutation("codegen/lookups.py", "places.setdefault(axis, at) != at", "False", LOOKUPS),
    Mutation("dsl/analysis/products.py", "yield sign * other", "yield sign", LOOKUPS),
    Mutation("dsl/analysis/products.py", "yield -sign, term", "yield sign, term", LOOKUPS),
    Mutation(TILES, "range(low, high + 1)", "range(low, high)", KERNELS),
    Mutation(TILES, "at == repeated[place], 0.0, share", "False, 0.0, share", KERNELS),
    # sums by the entry of a table
    Mutation("codegen/by_entry.py", "if expr != padded[0]:", "if False:", LOOKUPS),
    Mutation("codegen/by_entry.py", "(at, first, last[a])", "(at, first, first)", LOOKUPS),
    Mutation(
        "codegen/by_entry.py", "both([*more, *have])) if more else", "None) if 0 else", LOOKUPS
    ),
    Mutation("codegen/by_entry.py", "column in found.table.free or", "", LOOKUPS),
    Mutation(TILES, "(repeated[place] >= 0) & (repeated[place] < size)", "True", KERNELS),
    Mutation(ROWS, "look_up(of_d_out, {{ k.entry }},", "look_up(of_d_out, 0,", KERNELS),
    Mutation(COLUMNS, "look_up(of_d_out, {{ k.entry }},", "look_up(of_d_out, 0,", KERNELS),
    # ranks among a range
    Mutation("runtime/host_functions.py", "inside = left < among", "inside = left <= among", RANKS),
    Mutation("codegen/rewrite_ranks.py", "if where is None or where in among:", "if True:", RANKS),
    Mutation(
        "codegen/rewrite_ranks.py",
        'return Apply("or", (_both(where, inside), outside), kind=Kind.BOOL)',
        "return _both(where, inside)",
        RANKS,
    ),
    # ranks of pairs
    Mutation("runtime/cpu_cuts.py", "at.gather(-1, most) + start", "at.gather(-1, most)", CUTS),
    Mutation("runtime/cpu_cuts.py", "half, found)", "found, found)", CUTS),
    Mutation(
        "codegen/rewrite_ranks.py",
        'apply("ceil" if op == "lt" else',
        'apply("floor" if 0 else',
        CUTS,
    ),
    Mutation("codegen/rewrite_ranks.py", 'if not whole or op == "le":', "if False:", CUTS),
    Mutation("codegen/rewrite_ranks.py", "limit, negative(LOWEST)", "limit, LOWEST", CUTS),
    Mutation("codegen/rewrite_ranks.py", " and not isinstance(limit, Rank)", "", CUTS),
    Mutation(TRITON_CUTS, "where(counts[place] < wanted, counts", "where(True, counts", SWEEPS),
    Mutation(TRITON_CUTS, "tl.where(turn, wanted - beyond, wanted)", "wanted", SWEEPS),
    Mutation(TRITON_CUTS, "counts[place] >= wanted", "counts[place] > wanted", SWEEPS),
    Mutation("templates/cuts.py.jinja", "last.to(tl.int64) + k_start", "last.to(tl.int64)", SWEEPS),
    # reductions over a block of tokens, and definitions of pairs at a computed token
    Mutation(REWRITE_BLOCKS, 'apply("ge", layout.token, first), ', "", PARTS),
    Mutation(REWRITE_BLOCKS, ', apply("le", layout.token, last)', ",", PARTS),
    Mutation(REWRITE_BLOCKS, "if node.mask is not None and", "if False and", PARTS),
    Mutation(REWRITE_BLOCKS, "for n, value in reversed(list(", "for n, value in list((", PARTS),
    Mutation(REWRITE_BLOCKS, "== layout.length:", "> 0:", PARTS),
    Mutation(
        REWRITE_BLOCKS, "[] if node.mask is None else [mask_at", "[] if True else [mask_at", PARTS
    ),
    # definitions of pairs with their tokens changed places, orders of channels
    Mutation(REWRITE_TURNED, "expr.free | self._of_mask(expr)", "expr.free", TURNED),
    Mutation(REWRITE_ORDERS, 'apply("le", index(other), index(axis))', "lit(True)", ORDERS),
    Mutation(REWRITE_ORDERS, 'apply("lt", index(other), index(axis))', "lit(True)", ORDERS),
    Mutation(REWRITE_ORDERS, "count if rank.where is None else", "count if True else", ORDERS),
    Mutation(REWRITE_ORDERS, 'apply("and", node.where, inside)', "inside", ORDERS),
    Mutation(REWRITE, 'Apply("clamp", (at, *ends(spec, axis)), kind=Kind.INT)', "at", PARTS),
    Mutation(HOST_SUMS, "return None if block.at.axis in others else block", "return block", PARTS),
    Mutation(HOST_SUMS, 'where = fills.get(expr.op, "0"),', 'where = "0",', PARTS),
    Mutation(HOST_FUNCTIONS, "total = first + shape[dim]", "total = shape[dim]", PARTS),
    # what is said of a spec
    Mutation("dsl/check_rows.py", "return all(_proves", "return any(_proves", FACTS),
    Mutation("dsl/check_rows.py", "prover.decls[node.name].paired", "False", FACTS),
    Mutation(RELATIONS, "return a - b", "return a", FACTS),
    Mutation(RELATIONS, "self.of(a) == self.of(b)", "True", FACTS),
    Mutation(RELATIONS, "if len(set(known)) == 1", "if True", FACTS),
    Mutation(RELATIONS, "shift % number == 0", "True", FACTS),
    Mutation("dsl/analysis/canonical.py", "Fraction(0)) - 1", "Fraction(0))", FACTS),
    Mutation("dsl/analysis/canonical.py", "{term: -count", "{term: count", FACTS),
    Mutation(SEPARABLE, "or not _prefix(spec)", "", FACTS),
    Mutation(SEPARABLE, "if len(dots) > 1 or any(", "if any(", FACTS),
    Mutation(SEPARABLE, "sp.expand(mixed) == 0", "True", FACTS),
    Mutation("dsl/analysis/recurrence.py", "if self._uses_state(vector):", "if False:", FACTS),
    Mutation(SETS, "own & set(decl.axes) >= PAIR", "False", FACTS),
    Mutation(SETS, "or not isinstance(expr, Apply)", "or True", FACTS),
    Mutation("codegen/cost.py", "return shape if zeros else", "return", FACTS),
    # several weights
    Mutation(MACROS, '{{ "p + " if not turn.first }}', "", KERNELS),
    Mutation(MACROS, '({{ r.times("dp") }} - delta', "(dp - delta", KERNELS),
    Mutation(FORWARD, "acc = {{ k.total }}", "acc = {{ k.total }} * 0.9", KERNELS),
    Mutation(MIXED, "(*factors, MINUS)", "factors", MIXTURES),
    Mutation(MIXED, "if not alone:", "if True:", MIXTURES),
    Mutation("runtime/launch.py", "[by * product[..., None]", "[product[..., None]", MIXTURES),
    Mutation(
        "runtime/cpu.py", "weights.append(_times(by, weight))", "weights.append(weight)", MIXTURES
    ),
    # what specs are timed beside
    Mutation("runtime/peer_form.py", '"sub": (1, -1)}', '"sub": (1, 1)}', PEERS),
    Mutation(
        "runtime/peer_scores.py",
        "row if own is None else self._from(",
        "row if True else self._from(",
        PEERS,
    ),
    Mutation("runtime/peer_task.py", "if found.name in self.changing:", "if False:", PEERS),
    Mutation("runtime/peers.py", ".masked_fill(hidden, -torch.inf)\n\n", "\n\n", PEERS),
    # running sums
    Mutation(RUNS_ALONG, "before + last + more, own", "before + more, own", KERNELS),
    Mutation(RUNS_ALONG, "x = tl.where(place < end, x, 0.0)", "x = x + 0.0", KERNELS),
    Mutation(RUNS_ALONG, "_joined, reverse=after)", "_joined)", KERNELS),
    Mutation(MACROS, "tl.where(d_{{ scan.name }} == 0.0, 0.0, {{ g.more", "({{ g.more", KERNELS),
    Mutation(ALONG, "x = x.flip(-1) if after else x", "x = x", RUNNING),
    Mutation(ALONG, "if not own:", "if own:", RUNNING),
    Mutation("runtime/cpu_tiles.py", "(low // BLOCK * BLOCK, ", "(low, ", RUNNING),
    Mutation("runtime/cpu.py", "d_score != 0 if plan.scans else keep", "keep", RUNNING),
    Mutation("runtime/cpu.py", "not scan.after, scan.own)", "scan.after, scan.own)", RUNNING),
    Mutation("runtime/cpu.py", "reversed(plan.scans)", "plan.scans", RUNNING),
    Mutation("codegen/running.py", '"le": "ge"', '"le": "gt"', RUNNING),
    Mutation("codegen/running.py", "run != side and side in read", "False", RUNNING),
    Mutation(
        "codegen/rewrite_products.py", "not prover.positive(node.body, known)", "False", RUNNING
    ),
    # the definition in blocks
    Mutation(IN_BLOCKS, "windows[axis] - self.start(axis)", "windows[axis]", BLOCKED),
    Mutation(IN_BLOCKS, "if not own.isdisjoint(self.windows):", "if False:", BLOCKED),
    Mutation(IN_BLOCKS, "taken = taken & keep.over(dims)", "pass", BLOCKED),
    Mutation(IN_BLOCKS, "        self.sizes = before\n", "", BLOCKED),
    Mutation(BLOCKED_AXES, "body=inner, where=None, mask", "body=inner, mask", BLOCKED),
    Mutation(BLOCKED_AXES, "| (own & expr.free)", "", BLOCKED),
    Mutation(IN_BLOCKS, "parts - whole, free & whole", "free & whole, parts", BLOCKED),
    Mutation(IN_BLOCKS, "and there._is_large(expr)", "and False", BLOCKED),
    Mutation(
        IN_BLOCKS,
        "self.with_sink(self.value(total, NOWHERE), weight.sink)",
        "self.value(total, NOWHERE)",
        BLOCKED,
    ),
    Mutation(IN_BLOCKS, "torch.unique(at)", "torch.unique(at) * 0", BLOCKED),
    Mutation("runtime/pointwise.py", "if again:  # elsewhere", "if False:  # elsewhere", BLOCKED),
    Mutation("codegen/host.py", 'op == "mul" and self.overflows', 'op == "" and self', REGRESSIONS),
    Mutation(HOST_SUMS, "if host.overflows(expr.left, expr.right):", "if False:", REGRESSIONS),
    Mutation(
        REWRITE,
        "[self._of_something(node, f) for f in factors_in(node.body)]",
        "factors_in(node.body)",
        REGRESSIONS,
    ),
    Mutation(
        REWRITE, "outside = [self._of_something(node, f) for f in outside]", "pass", REGRESSIONS
    ),
    Mutation("runtime/kept.py", "plan, call.device, on", 'plan, torch.device("cpu"), on', KEPT),
    Mutation("runtime/kept.py", "(x.data_ptr(), place.lie[n]): (n", "place.lie[n]: (n", KEPT),
    Mutation("runtime/memo.py", "if key not in self and len", "if len", KEPT),
)
