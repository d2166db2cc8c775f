"""Elaboration: what the surface says becomes the index notation that is meant."""

from __future__ import annotations

import pytest

from attnspec.dsl.ast import (
    Apply,
    Contract,
    Coord,
    Decl,
    Def,
    Expr,
    GridIndex,
    Index,
    Kind,
    Last,
    Literal,
    Normalize,
    Rank,
    Read,
    Reduce,
    Role,
    Size,
    Spec,
    State,
    walk,
)
from attnspec.dsl.check import check
from attnspec.dsl.diagnostics import AttnError
from attnspec.dsl.parse import parse


def spec_of(body: str) -> Spec:
    return check(parse(f"attention x\n{body}\n", path="x.attn"))[0]


def codes(body: str) -> list[str]:
    """The codes of the errors and warnings of a spec, in order."""
    try:
        found = check(parse(f"attention x\n{body}\n", path="x.attn"))[1]
    except AttnError as error:
        found = error.diagnostics
    return [diagnostic.code for diagnostic in found]


def definition(spec: Spec, name: str) -> Def:
    found = spec.definition(name)
    assert found is not None
    return found


def declaration(spec: Spec, name: str) -> Decl:
    found = spec.decl(name)
    assert found is not None
    return found


def state(spec: Spec, name: str) -> State:
    found = spec.state(name)
    assert found is not None
    return found


def reads(expr: Expr, name: str) -> list[Read]:
    return [node for node in walk(expr) if isinstance(node, Read) and node.name == name]


def masks(expr: Expr) -> list[tuple[str, str] | None]:
    return [node.mask for node in walk(expr) if isinstance(node, Reduce | Normalize)]


def test_example_checks_without_a_warning(example: tuple[str, str]) -> None:
    title, text = example
    spec, warnings = check(parse(text, path=f"{title}.attn"))
    assert not warnings
    for expr in expressions(spec):
        for node in walk(expr):
            assert node.span.end > 0, f"{node} has no place"


def test_example_is_closed(example: tuple[str, str]) -> None:
    """Every read names something and every definition lists exactly what it depends on."""
    title, text = example
    spec = check(parse(text, path=f"{title}.attn"))[0]
    axes = {axis.name for axis in spec.axes}
    for expr in expressions(spec):
        for node in walk(expr):
            assert node.free <= axes
            if isinstance(node, Read):
                found = spec.decl(node.name) or spec.definition(node.name) or spec.state(node.name)
                assert found is not None
                assert len(node.index) == len(found.axes)
    for made in spec.defs:
        assert made.expr.free <= set(made.axes)
    for result in spec.returns:
        assert result.expr.free <= set(result.axes)
    if spec.output is not None:
        assert spec.output.free <= {"b", "h", spec.token, spec.channel}


def expressions(spec: Spec) -> list[Expr]:
    found = [d.expr for d in spec.defs] + [r.expr for r in spec.returns] + list(spec.requires)
    found += [e for s in spec.states for e in (s.init, s.step) if s.init.span.end]
    found += [e for e in (spec.mask, spec.output) if e is not None]
    return found


def test_definitions_stand_in_dependency_order(example: tuple[str, str]) -> None:
    title, text = example
    spec = check(parse(text, path=f"{title}.attn"))[0]
    done: set[str] = set()
    names = {d.name for d in spec.defs}
    for made in spec.defs:
        used = {node.name for node in walk(made.expr) if isinstance(node, Read)}
        assert used & names <= done
        done.add(made.name)


# Defaults


def test_the_empty_spec_is_attention() -> None:
    spec = spec_of("")
    assert [d.name for d in spec.decls] == ["q", "k", "v"]
    assert [(d.name, d.axes) for d in spec.defs] == [
        ("score", ("b", "h", "i", "j")),
        ("weight", ("b", "h", "i", "j")),
        ("value", ("b", "h", "j", "e")),
    ]
    assert isinstance(spec.output, Reduce)
    assert (spec.token, spec.channel, spec.mask) == ("i", "e", None)
    assert masks(spec.output) == [None]


def test_what_is_not_used_is_not_there() -> None:
    spec = spec_of("weight = 1\noutput = sum(j, weight * v[j])")
    assert [d.name for d in spec.decls] == ["v"]
    assert [d.name for d in spec.defs] == ["weight"]


def test_the_gate_multiplies_the_output() -> None:
    spec = spec_of("query g[e]\ngate = sigmoid(g[i])")
    assert isinstance(spec.output, Apply)
    assert spec.output.op == "mul"
    assert definition(spec, "gate").axes == ("b", "h", "i", "e")


def test_the_title_is_the_first_sentence() -> None:
    text = 'attention x\n"""Attention with\nlinear biases. More of it.\n\nAnd more."""\n'
    assert check(parse(text))[0].title == "Attention with linear biases"
    assert spec_of("").title == "x"


def test_call_order_is_q_k_v_then_as_declared() -> None:
    spec = spec_of("query u[e]\nkey k[e]\nquery q[e]\nscore = dot(q[i] * u[i], k[j])")
    assert [d.name for d in spec.decls] == ["q", "k", "v", "u"]
    assert declaration(spec, "k").axes == ("b", "h", "j", "e")


# Index notation


def test_dot_contracts_the_shared_channel() -> None:
    score = definition(spec_of("score = dot(q[i], k[j])"), "score").expr
    assert isinstance(score, Contract)
    assert (score.axes, score.free) == (("d",), frozenset("bhij"))


def test_a_written_channel_is_contracted_only_when_nothing_else_is() -> None:
    body = "axis c = 4\nparam w[c, d] = 0\nlet x[i, d] = normalize(q[i])\n"
    body += "let y[i, c] = w @ q[i]\nscore = dot(x[i], k[j]) * sum(c, y[i, c])"
    spec = spec_of(body)
    (x,) = [n for n in walk(definition(spec, "x").expr) if isinstance(n, Contract)]
    assert x.axes == ("d",)
    y = definition(spec, "y").expr
    assert isinstance(y, Contract)
    assert (y.axes, y.free) == (("d",), frozenset("bhic"))


def test_a_definition_lists_b_and_h_its_axes_and_its_channels() -> None:
    spec = spec_of("let kb[j] = 2 * k[j]\nlet near[i, j] = where(j <= i, 1, 0)\nscore = near * 1.0")
    assert definition(spec, "near").axes == ("i", "j")
    spec = spec_of("let kb[j] = 2 * k[j]\nscore = dot(q[i], kb[j])")
    assert definition(spec, "kb").axes == ("b", "h", "j", "d")


def test_a_written_h_is_indexed_and_an_implied_one_skipped() -> None:
    body = "index g = h\nlet p[h, i, j] = score\nparam a[h, 4] = 0\n"
    spec = spec_of(body + "weight = sum(g, a[0] * p[g, i, j])")
    weight = definition(spec, "weight").expr
    (p,), (a,) = reads(weight, "p"), reads(weight, "a")
    assert [n.axis for n in p.index if isinstance(n, Index)] == ["b", "g", "i", "j"]
    assert a.index[0] == Index("h", kind=Kind.INT)


def test_a_bare_name_stands_at_its_own_axes() -> None:
    spec = spec_of("param slope[h] = 1\nscore = dot(q[i], k[j]) - slope * (i - j)")
    (slope,) = reads(definition(spec, "score").expr, "slope")
    assert slope.index == (Index("h", kind=Kind.INT),)


def test_keywords_name_a_skipped_axis() -> None:
    spec = spec_of("score = dot(q[i], k[j, h=0])")
    (k,) = reads(definition(spec, "score").expr, "k")
    assert k.index[1] == Literal(0, kind=Kind.INT)


def test_relabelling_asks_for_equal_sizes() -> None:
    spec = spec_of("score = dot(q[i, e], v[j])")
    assert spec.equal_sizes == (("d", "e"),)
    alias = spec_of("index c = d\nscore = dot(q[i, c], k[j, c])")
    assert alias.equal_sizes == ()


def test_a_shorter_axis_picks_channels() -> None:
    body = "axis c = 8\naxis u = 4\nkey x[c]\n"
    spec = spec_of(body + "score = sum(u, x[j, u])")
    assert spec.equal_sizes == ()
    assert codes(body.replace("u = 4", "u = 9") + "score = sum(u, x[j, u])") == ["A108"]


def test_a_result_lists_the_heads_of_the_mask() -> None:
    body = "input back[h]: int\ninput x[b, i, j]\nindex g = h\nmask i - back < j\n"
    body += "let low[i] = mean(j, x)\nlet whole[i] = sum(j, x * dot(q[i], k[j]))\n"
    for wrong in ("mean(j, x)", "low", "2 * low[0]"):
        assert "A108" in codes(f"{body}return r[b, i] = {wrong}")
    for right in (
        "[b, h, i] = low",
        "[b, i] = sum(g, whole[i, h=g])",
        "[b, h, i] = mean(j, x)",
        "[b, i] = sum(h, low)",
    ):
        assert "A108" not in codes(f"{body}return r{right}")


def test_functions_take_indices_and_expand_in_place() -> None:
    body = "grid y, x\nlet near(p, r) = abs(p.y - r.y) <= 1\nmask near(i, j)"
    mask = spec_of(body).mask
    assert mask is not None
    coords = [node for node in walk(mask) if isinstance(node, Coord)]
    assert [(c.axis, c.along, c.grid) for c in coords] == [("i", "y", "i"), ("j", "y", "i")]


def test_a_parameter_hides_an_axis() -> None:
    spec = spec_of("let f(d) = d + 1\nscore = f(i)")
    assert definition(spec, "score").expr.free == {"i"}


def test_plain_lets_see_the_scope_of_their_use() -> None:
    spec = spec_of("let s = exp(score)\nweight = s / sum(j, s)")
    weight = definition(spec, "weight").expr
    assert isinstance(weight, Apply)
    top, below = weight.args
    assert isinstance(below, Reduce)
    assert below.body is not None
    assert (top.free, below.free) == (frozenset("bhij"), frozenset("bhi"))


def test_topk_never_takes_an_excluded_index() -> None:
    spec = spec_of("mask topk(j, score, 3, where=j <= i)")
    assert isinstance(spec.mask, Apply)
    assert spec.mask.op == "and"
    where, rank = spec.mask.args
    assert isinstance(rank, Apply)
    assert isinstance(rank.args[0], Rank)
    assert rank.args[0].where == where


def test_grids_give_coordinates_sizes_and_tokens() -> None:
    body = "grid i: y, x\ngrid j: y, x\nmask i.y * GY_j <= j.y * GY_i + size(j.x)\n"
    spec = spec_of(body + "score = dot(q[i], k[y=i.y, x=i.x, pad=0])")
    assert spec.mask is not None
    sizes = [node.of for node in walk(spec.mask) if isinstance(node, Size)]
    assert sizes == ["j.y", "i.y", "j.x"]
    (k,) = reads(definition(spec, "score").expr, "k")
    assert isinstance(k.index[2], GridIndex)
    assert (k.index[2].grid, spec.shared_grid) == ("j", False)


def test_blocks_count_and_contain() -> None:
    body = "const L: int = 8\nblocks c = j // L\nlet m[c] = mean(j, k[j], where=j in c)\n"
    spec = spec_of(body + "mask dot(q[i], m[j // L]) > 0")
    axis = spec.axis("c")
    assert (axis.role, axis.base, axis.size) == (Role.BLOCK, "j", Literal(8, kind=Kind.INT))
    (mean,) = [n for n in walk(definition(spec, "m").expr) if isinstance(n, Reduce)]
    where = mean.where
    assert isinstance(where, Apply)
    assert (where.op, where.free) == ("eq", frozenset("jc"))


def test_scalar_constants_are_literals_and_tables_stay() -> None:
    spec = spec_of("const w = 2 ** 3\nconst span[h] = [4, w]\nmask i - j < w + span")
    assert [(d.name, d.values) for d in spec.decls[3:]] == [("span", (4, 8))]
    mixed = declaration(spec_of("param s[3] = [0, 0.5, 1]\nscore = s[0] * j"), "s").values
    assert repr(mixed) == "(0.0, 0.5, 1.0)"
    assert spec.mask is not None
    assert 8 in [node.value for node in walk(spec.mask) if isinstance(node, Literal)]


# Kinds


@pytest.mark.parametrize(
    ("expr", "kind"),
    [
        ("i - j", Kind.INT),
        ("i / 2", Kind.FLOAT),
        ("i // 2 + 0.5", Kind.FLOAT),
        ("floor(i / 3)", Kind.INT),
        ("2 ** i", Kind.INT),
        ("2 ** -1", Kind.FLOAT),
        ("max(i, 2.0)", Kind.FLOAT),
        ("sum(j, 1)", Kind.INT),
        ("mean(j, 1)", Kind.FLOAT),
        ("argmax(j, score)", Kind.INT),
        ("where(j <= i, 1, 2)", Kind.INT),
        ("where(j <= i, true, false)", Kind.BOOL),
        ("(j <= i) == (i < 4)", Kind.BOOL),
    ],
)
def test_kinds(expr: str, kind: Kind) -> None:
    spec = spec_of(
        f"let x[i, j] = {expr}\nweight = where({'x' if kind == 'bool' else 'x > 0'}, 1, 0)"
    )
    assert definition(spec, "x").expr.kind is kind


# The mask


def test_a_reduction_over_one_side_is_masked_where_the_other_is_bound() -> None:
    body = "mask j <= i\nlet total[d] = sum(j, k[j])\nlet z[i] = logsumexp(j, score)\n"
    body += "let col[j] = sum(i, weight)\nlet all_pairs[d] = sum(i, j, weight * k[j])\n"
    spec = spec_of(body + "gate = z[i] + dot(total, all_pairs)\nvalue = v[j] * col[j]")
    assert masks(definition(spec, "total").expr) == [None]
    assert masks(definition(spec, "z").expr) == [("i", "j")]
    assert masks(definition(spec, "col").expr) == [("i", "j")]
    assert masks(definition(spec, "all_pairs").expr) == [("i", "j")]
    assert masks(definition(spec, "weight").expr) == [("i", "j")]
    assert spec.output is not None
    assert masks(spec.output) == [("i", "j")]


def test_an_alias_stands_for_its_axis_in_the_mask() -> None:
    body = "index u = j\nindex r = i\nmask j <= i\nlet s[i, j] = score\n"
    spec = spec_of(
        body + "let z[i] = logsumexp(u, s[i, u])\nlet y[r] = sum(j, s[r, j])\ngate = z[i] + y[i]"
    )
    assert masks(definition(spec, "z").expr) == [("i", "u")]
    assert masks(definition(spec, "y").expr) == [("r", "j")]


def test_n_blocks_and_channels_are_never_masked() -> None:
    body = "mask j <= i\ninput doc[b, n]: int\nblocks c = j // 4\n"
    body += "let m[c, d] = amax(j, k[j], where=j in c)\n"
    body += "let s[i, j] = sum(n, 1, where=doc[n] == doc[i]) + sum(c, dot(q[i], m[c]))\n"
    spec = spec_of(body + "score = s + sum(d, q[i]) + cumsum(j, k[j, 0])")
    assert masks(definition(spec, "s").expr) == [None, None]
    assert masks(definition(spec, "score").expr) == [None]


def test_what_the_mask_uses_is_not_masked() -> None:
    body = "let p[i, j] = softmax(score)\nlet low = amin(j, p)\nlet f(x) = sum(j, x)\n"
    spec = spec_of(body + "mask p > low and f(1) > 2\nweight = p * f(p) * low")
    assert masks(definition(spec, "p").expr) == [None]
    assert masks(definition(spec, "weight").expr) == [None, None]
    assert spec.output is not None
    assert masks(spec.output) == [("i", "j")]


def test_without_a_mask_nothing_is_masked() -> None:
    spec = spec_of("let z[i] = logsumexp(j, score)\ngate = z[i]")
    for made in spec.defs:
        assert set(masks(made.expr)) <= {None}


# Sides


@pytest.mark.parametrize(
    ("body", "axis", "paired"),
    [
        ("input x[b, n]\ngate = x[i]", "i", False),
        ("input x[b, n]\nscore = x[j]", "j", False),
        ("input x[b, n]\nscore = x[i] - x[j]", "j", True),
        ("input x[b, n]\nlet y[n] = 2 * x[n]\ngate = y[i]", "i", False),
        ("input x[b, n]\nlet y[n] = 2 * x[n]\nscore = y[i] * y[j]", "j", False),
        ("input x[b, n]\nlet f(p) = x[p]\ngate = f(i)", "i", False),
        ("input x[b, n]\nindex r = i\ngate = sum(r, x[r])", "i", False),
        ("input x[b, n]\ngate = x[i] - x[i - 1, pad=0]", "i", False),
        ("input x[b, n]\ngate = sum(n, x[n])", "j", False),
        ("input x[b, n]\ninput p[b, i]: int where 0 <= p < N\ngate = x[p[i]]", "j", False),
    ],
)
def test_the_side_of_n(body: str, axis: str, paired: bool) -> None:
    spec = spec_of(body)
    x = declaration(spec, "x")
    assert (x.axes, x.paired) == (("b", axis), paired)


def test_n_over_rows_is_an_index_of_its_own() -> None:
    spec = spec_of("input x[b, n]\nlet y[n] = 2 * x[n]\ngate = y[i]")
    assert definition(spec, "y").axes == ("b", "n.i")
    assert (spec.axis("n.i").role, spec.axis("n.i").base) == (Role.ALIAS, "i")


def test_operands_come_in_pairs_too() -> None:
    spec = spec_of("output = sum(j, weight * v[j]) * v[i]")
    assert declaration(spec, "v").paired
    assert not declaration(spec, "q").paired


# States


def test_a_bare_state_is_old_in_its_step_and_new_elsewhere() -> None:
    body = "state S[d, e]\nstate T[e]\nstep S[t] = 0.5 * S + outer(k[t], v[t])\n"
    spec = spec_of(
        body + "step T[t] = T + k[t] @ S\noutput = q[t] @ S * T\nreturn last[b, h, d, e] = S"
    )
    time, before = Index("t", kind=Kind.INT), Literal(1, kind=Kind.INT)
    old = Apply("sub", (time, before), kind=Kind.INT)
    assert reads(state(spec, "S").step, "S")[0].index[2] == old
    assert reads(state(spec, "T").step, "S")[0].index[2] == time
    assert state(spec, "S").axes == ("b", "h", "t", "d", "e")
    assert spec.output is not None
    assert reads(spec.output, "S")[0].index[2] == time
    assert reads(spec.returns[0].expr, "S")[0].index[2] == Last("t", kind=Kind.INT)
    assert spec.token == "t"


def test_a_reversed_state_reads_the_next() -> None:
    spec = spec_of("state R[d] reverse\nstep R[t] = R + k[t]\noutput = R")
    old = reads(state(spec, "R").step, "R")[0].index[2]
    assert isinstance(old, Apply)
    assert (old.op, state(spec, "R").reverse) == ("add", True)


def test_a_state_over_another_axis_is_read_at_its_end() -> None:
    body = "axis s = 3\nstate f[i] over s\nstep f[s] = -logsumexp(j, score + f[s - 1])\n"
    spec = spec_of(body + "weight = exp(score + f[i])")
    (f,) = reads(definition(spec, "weight").expr, "f")
    assert f.index[2:] == (Last("s", kind=Kind.INT), Index("i", kind=Kind.INT))


@pytest.mark.parametrize(
    ("init", "step", "kind"),
    [
        ("", "c + 1", Kind.FLOAT),
        (" = 0", "c + 1", Kind.INT),
        (" = 0", "c + 0.5", Kind.FLOAT),
        (" = true", "c and t < 4", Kind.BOOL),
        (" = first", "c and t < 4", Kind.BOOL),
    ],
)
def test_the_kind_of_a_state(init: str, step: str, kind: Kind) -> None:
    declared = "input first[b]: bool\n" if "first" in init else ""
    use = "where(c, 1, 0)" if kind is Kind.BOOL else "c"
    body = f"{declared}state c[e]{init}\nstep c[t] = {step}\noutput = {use} * v[t]"
    assert state(spec_of(body), "c").kind is kind


# Proofs: what is accepted, what is refused


@pytest.mark.parametrize(
    "body",
    [
        "param w[19]\nmask abs(i - j) < 10\nscore = w[i - j + 9]",
        "param w[10]\nscore = where(0 <= i - j < 10, w[clamp(i - j, 0, 9)], 0)",
        "param w[10]\nscore = where(0 <= i - j and i - j < 10, w[i - j], 0)",
        "param w[10]\nscore = where(i - j < 0 or i - j > 9, 0, w[clamp(i - j, 0, 9)])",
        "param w[10]\nscore = where(i - j < 0 or i - j > 9, 0, w[i - j])",
        "score = where(i == j, 0, 1 / (i - j))",
        "mask i != j\nscore = dot(q[i], k[j]) / (j - i)",
        "input g: int\nmask g > 0 and i // g == j // g",
        "input g: int\nmask g <= 0 or i // g == j // g",
        "param w[4]\nscore = w[j % 4]",
        "param w[4]\nscore = w[min(abs(i - j), 3)]",
        "param w[4]\nscore = w[where(j <= i, 0, 1) + where(i == j, 2, 0)]",
        "param w[256, 256]\nrequire i < 256 and j < 256\nweight = w[i, j]",
        "input x[j]: int where 0 <= x < 10\nparam w[10]\nscore = w[x[j]]",
        "axis c\ninput x[b, c]\ninput kind[j]: int\nscore = x[clamp(kind[j], 0, size(c) - 1)]",
        "input x[b, j]\nscore = x[j - 1, pad=0]",
        "input x[b, j]\nscore = where(j > 0, x[max(j - 1, 0)], 0)",
        "grid y, x\nrequire GY % 7 == 0 and GX % 7 == 0\nparam w[49]\n"
        "score = w[j.y // (GY // 7) * 7 + j.x // (GX // 7)]",
        "score = dot(q[i], k[j]) / N + 1 / (j + 1) + log(max(i, 8) / 8)",
        "score = dot(q[i], k[j]) / (1 + exp(dot(q[i], k[j])))",
        "mask j < i\nscore = dot(q[i], k[j]) / (i - j)",
        "mask j <= i\nlet w = exp(score)\nweight = w / sum(j, w)",
        "input T: float where T > 0\nscore = dot(q[i], k[j]) / T",
        "input T: float = 1\nrequire T > 0\nscore = dot(q[i], k[j]) / T",
        "param g[h] = 0.9\nmask j <= i\nweight = g ** (i - j)",
        "mask j <= i\nlet p(x) = exp(x)\noutput = sum(j, v[j]) / sum(j, p(k[j, 0]))",
        "mask i - 3 <= j <= i\nrequire M == N\noutput = sum(j, v[j]) / sum(j, exp(k[j, 0]))",
        "state s[e]\nstep s[t] = 0.5 * s + exp(k[t, e])\noutput = v[t] / (s + 1)",
        "index u = j\nparam w[9]\nmask 0 <= i - j < 9\nlet x[i, j] = w[i - j]\n"
        "score = x - logsumexp(u, x[i, u])",
        "mask i // 4 >= j // 4 and i % 4 == j % 4\ncausal",
        "mask j <= i or j < i - 3\ncausal",
        "mask max(i - 4, 0) <= j <= i\ncausal",
        "require M <= N\nscore = dot(q[i], k[i // 2])",
        "input x[b, n]\nscore = x[i] - x[j] + x[i // 2]",
    ],
)
def test_accepted(body: str) -> None:
    assert codes(body) == []


@pytest.mark.parametrize(
    ("body", "code"),
    [
        ("param w[18]\nmask abs(i - j) < 10\nscore = w[i - j + 9]", "A201"),
        ("param w[9]\nscore = where(0 <= i - j and i - j < 10, w[i - j], 0)", "A201"),
        ("param w[255, 256]\nrequire i < 256 and j < 256\nweight = w[i, j]", "A201"),
        ("input x[j]: int where 0 <= x <= 10\nparam w[10]\nscore = w[x[j]]", "A201"),
        ("grid y, x\nmask j.y // (GY // 7) == i.x", "A202"),
        ("param w[4]\nmask w[i - j] > 0 and 0 <= i - j < 4", "A201"),
        ("let x[i, j] = 1 / (i - j)\nmask x > 0 and j < i", "A202"),
        ("param w[9]\nmask 0 <= i - j < 9\nlet x[i, j] = w[i - j]\nscore = x + x[i, 0]", "A201"),
        ("mask j < i\nlet x[i, j] = 1 / (i - j)\nscore = x\ngate = sum(j, x) + x[i, i]", "A202"),
        ("mask i - 3 <= j <= i\noutput = sum(j, v[j]) / sum(j, exp(k[j, 0]))", "W304"),
        ("param g[h] = 0.9\nweight = g ** (i - j)", "W304"),
        ("input g: int\nmask g >= 0 and i // g == 0", "A202"),
        ("param w[4]\nscore = where(j < 4, sum(j, w[j]), 0)", "A201"),
        ("score = dot(q[i], k[i // 2])", "A201"),
        ("score = dot(q[i], k[j]) / sum(j, exp(k[j, 0]), where=j > 5)", "W304"),
        ("mask i // 4 >= j // 4\ncausal", "A204"),
        ("mask j <= i or j == i + 9\ncausal", "A204"),
        ("causal", "A204"),
        ("mask i - j > 3 and j > i", "A203"),
        ("input x[b, j]: int where x > 4\nmask x[j] < 3", "A203"),
        ("param z[h] = 0\nlet a[i] = z\nscore = dot(q[i], k[j]) + a", "W301"),
        ("param z = 0\nscore = dot(q[i], k[j]) * where(z > 0, 1, 2)", "W302"),
    ],
)
def test_refused(body: str, code: str) -> None:
    assert codes(body) == [code]


@pytest.mark.parametrize(
    "body",
    [
        "param slope[h] = 1\nscore = dot(q[i], k[j]) - slope * (i - j)",
        "param z[h] = 0\nscore = dot(q[i], k[j]) + z\nweight = sigmoid(score)",
        "param z[h] = 0\nscore = dot(q[i], k[j]) + z\nreturn lse[b, h, i] = logsumexp(j, score)",
        "param z[h] = 0\nscore = dot(q[i], k[j]) + z\nweight = softmax(score, sink=0)",
        "input f[b, h, n]\nlet c[n] = cumsum(n, f[n])\nscore = dot(q[i], k[j]) + c[i] - c[j]",
    ],
)
def test_a_term_that_softmax_keeps_is_not_blamed(body: str) -> None:
    assert codes(body) == []
