"""Small random arguments for a spec that satisfy everything it asks for."""

from __future__ import annotations

import random
from collections.abc import Mapping

import torch
from torch import Tensor

from attnspec.dsl import ast
from attnspec.dsl.diagnostics import AttnError
from attnspec.runtime.bind import Bound, bind
from attnspec.runtime.facts_check import facts_hold
from attnspec.runtime.named import Named
from attnspec.runtime.reference import Evaluator, initial
from attnspec.runtime.sample_sizes import Drawn, draw_sizes
from attnspec.runtime.signature import Argument, Signature
from attnspec.runtime.signature_of import signature

TRIES = 20
REDRAWS = 60


def sample(
    spec: ast.Spec,
    generator: torch.Generator,
    sizes: Mapping[str, int] | None = None,
    *,
    dtype: torch.dtype = torch.float32,
    device: torch.device | str = "cpu",
    q_start: int = 0,
    k_start: int = 0,
    scale: float = 1.0,
    requires_grad: bool = False,
) -> Bound:
    """Arguments for one call: kinds, shapes, `where` and `require` facts hold.

    `sizes` fixes sizes by axis ("b", "h", "i", "j", "d", "i.y", ...; "heads" is Hkv, and
    "value_heads" that of values where it is another), the others are drawn. Floats without bounds
    are normal with deviation `scale`. AttnError when no arguments are found.
    """
    called = signature(spec)
    rng = random.Random(int(torch.randint(1 << 62, (), generator=generator)))
    starts = {"i": q_start, "j": k_start}
    failed: AttnError | None = None
    for _ in range(TRIES):
        drawn = draw_sizes(spec, called, rng, sizes or {}, starts)
        try:
            bound = _Draw(spec, called, generator, rng, drawn, starts, dtype, scale).arguments()
            facts_hold(spec, bound)
        except AttnError as error:
            failed = error
            continue
        return _placed(spec, called, bound, torch.device(device), requires_grad)
    assert failed is not None
    raise failed


def keywords(called: Signature, bound: Bound) -> dict[str, object]:
    """`bound` as the keyword arguments of a call."""
    out: dict[str, object] = {**bound.tensors, **bound.scalars}
    for grid in called.grids:
        for name, keyword in zip(grid.names, grid.sizes, strict=True):
            out[keyword] = bound.sizes[f"{grid.side}.{name}"]
    return out | {"q_start": bound.q_start, "k_start": bound.k_start}


def _placed(
    spec: ast.Spec, called: Signature, bound: Bound, device: torch.device, grad: bool
) -> Bound:
    """`bound` on `device`, float tensors as leaves."""

    def place(tensor: Tensor) -> Tensor:
        moved = tensor.to(device).detach()
        return moved.requires_grad_(grad and moved.is_floating_point())

    values = keywords(called, bound)
    for name, value in values.items():
        if isinstance(value, tuple):
            whole = place(value[0])
            values[name] = (whole, whole if value[1] is value[0] else place(value[1]))
        elif isinstance(value, Tensor):
            values[name] = place(value)
    return bind(called, (), values, lambda name, so_far: initial(spec, name, so_far))


class _Draw:
    """Random tensors of one call, in the order of its arguments."""

    def __init__(
        self,
        spec: ast.Spec,
        called: Signature,
        generator: torch.Generator,
        rng: random.Random,
        drawn: Drawn,
        starts: Mapping[str, int],
        dtype: torch.dtype,
        scale: float,
    ) -> None:
        self.spec, self.called, self.drawn = spec, called, drawn
        self.generator, self.rng, self.scale = generator, rng, scale
        self.starts, self.dtype = starts, dtype
        self.tensors: dict[str, Tensor | tuple[Tensor, Tensor]] = {}

    def arguments(self) -> Bound:
        for argument in self.called.arguments:
            if argument.scalar:
                continue
            if argument.paired:
                queries, keys = (self._tensor(argument, own) for own in ("i", "j"))
                same = self._one_length() and self.rng.random() < 0.7
                self.tensors[argument.name] = (keys if same else queries, keys)
            else:
                self.tensors[argument.name] = self._tensor(argument, None)
        return self._bound()

    def _bound(self) -> Bound:
        starts, sizes = self.starts, self.drawn.sizes
        cpu = torch.device("cpu")
        return Bound(
            dict(self.tensors), self.drawn.scalars, sizes, starts["i"], starts["j"], self.dtype, cpu
        )

    def _one_length(self) -> bool:
        sizes = self.drawn.sizes
        return sizes["i"] == sizes["j"] and self.starts["i"] == self.starts["j"]

    def _tensor(self, argument: Argument, own: str | None) -> Tensor:
        decl = self.spec.decl(argument.name)
        assert decl is not None
        sizes = dict(self.drawn.sizes)
        axes = [own if own and a in ("i", "j") else a for a in argument.axes]
        if argument.operand:
            value = decl.form is ast.Form.VALUE
            sizes["h"] = self.drawn.value_heads if value else self.drawn.heads
        shape = [sizes[a] for a in axes]
        if argument.axes[:1] == ("b",) and argument.form == "input" and self.rng.random() < 0.2:
            shape[0] = 1
        facts = [c for f in self._facts(decl) for c in ast.conjuncts(f)]
        tensor = self._values(argument, shape, self._bounds(decl, facts, shape))
        if not facts and argument.kind != "float" and self.rng.random() < 0.3:
            # as documents follow each other, and padding the tokens
            tensor = tensor.sort(-1, descending=argument.kind == "bool").values if shape else tensor
        token = self._ordered(decl, facts)
        if token is not None:  # from 0 on, as the tokens outside are mostly said to be
            tensor = tensor.abs().sort(token).values
        for _ in range(REDRAWS):
            bad = self._broken(decl, facts, tensor, own)
            if bad is None or not bool(bad.any()):
                break
            fresh = self._values(argument, shape, self._bounds(decl, facts, shape))
            tensor = torch.where(bad, fresh, tensor)
        return tensor

    def _ordered(self, decl: ast.Decl, facts: list[ast.Expr]) -> int | None:
        """The dimension of tokens, where a fact compares one token's number with another's."""
        reads = (n for f in facts for n in ast.walk(f) if isinstance(n, ast.Read))
        places = (x for n in reads if n.name == decl.name for x in n.index)
        token = next((d for d, a in enumerate(decl.axes) if a in ("i", "j")), None)
        return token if any(not isinstance(x, ast.Index) for x in places) else None

    def _facts(self, decl: ast.Decl) -> list[ast.Expr]:
        facts = [] if decl.where is None else [decl.where]
        for fact in self.spec.requires:
            names = {n.name for n in ast.walk(fact) if isinstance(n, ast.Read)}
            if decl.name in names:
                facts.append(fact)
        return facts

    def _bounds(
        self, decl: ast.Decl, facts: list[ast.Expr], shape: list[int]
    ) -> tuple[Tensor | None, Tensor | None]:
        """The largest lower and the smallest upper bound that facts name."""
        evaluator = Evaluator(self.spec, self._bound(), torch.float64)
        low: Tensor | None = None
        high: Tensor | None = None
        for fact in facts:
            if not isinstance(fact, ast.Apply) or fact.op not in ("lt", "le", "gt", "ge"):
                continue
            for here, there, below in (
                (fact.args[0], fact.args[1], fact.op in ("lt", "le")),
                (fact.args[1], fact.args[0], fact.op in ("gt", "ge")),
            ):
                if not isinstance(here, ast.Read) or here.name != decl.name:
                    continue
                limit = self._limit(evaluator, decl, here, there, shape)
                if limit is None:
                    continue
                if decl.kind is ast.Kind.INT and fact.op in ("lt", "gt"):
                    limit = limit - 1 if below else limit + 1
                if below:
                    high = limit if high is None else torch.minimum(high, limit)
                else:
                    low = limit if low is None else torch.maximum(low, limit)
        return low, high

    def _limit(
        self,
        evaluator: Evaluator,
        decl: ast.Decl,
        here: ast.Read,
        there: ast.Expr,
        shape: list[int],
    ) -> Tensor | None:
        """A bound over the tensor's own dimensions; None when it depends on anything else."""
        names = {
            index.axis: axis
            for axis, index in zip(decl.axes, here.index, strict=True)
            if isinstance(index, ast.Index)
        }
        try:
            value = evaluator(there)
        except KeyError:  # it reads an argument that comes later
            return None
        value = value.rename(names)
        if not set(value.dims) <= set(decl.axes):
            return None
        limit = value.over(decl.axes).to(torch.float64)
        fits = all(n in (1, s) for n, s in zip(limit.shape, shape, strict=True))
        return limit.expand(shape) if fits else None

    def _values(
        self, argument: Argument, shape: list[int], bounds: tuple[Tensor | None, Tensor | None]
    ) -> Tensor:
        low, high = bounds
        uniform = torch.rand(shape, generator=self.generator, dtype=torch.float64)
        if argument.kind == "bool":
            return uniform < 0.7
        if argument.kind == "int":
            least = torch.full(shape, -1.0, dtype=torch.float64) if low is None else low
            if low is None and high is not None:
                least = high - 4
            most = (
                least + self.rng.choice((4, max(4, self.drawn.sizes["j"])))
                if high is None
                else high
            )
            return (least + (uniform * (most - least + 1)).floor()).to(torch.int64)
        normal = torch.randn(shape, generator=self.generator, dtype=torch.float64) * self.scale
        if low is not None and high is not None:
            value = low + (high - low) * (0.02 + 0.96 * uniform)
        elif low is not None:
            value = low + 0.05 + normal.abs()
        elif high is not None:
            value = high - 0.05 - normal.abs()
        else:
            value = normal
            if isinstance(argument.default, int | float) and not isinstance(argument.default, bool):
                value = argument.default + 0.5 * normal
        return value.to(self.dtype)

    def _broken(
        self, decl: ast.Decl, facts: list[ast.Expr], tensor: Tensor, own: str | None
    ) -> Tensor | None:
        """Where the facts are false for a candidate; None when that cannot be told apart."""
        if not facts:
            return None
        bound = self._bound()
        if own is None:
            bound = bound._replace(tensors={**bound.tensors, decl.name: tensor})
        else:  # both sides stand where this part does
            rows, start = bound.sizes[own], bound.start(own)
            bound = bound._replace(
                tensors={**bound.tensors, decl.name: (tensor, tensor)},
                sizes={**bound.sizes, "i": rows, "j": rows},
                q_start=start,
                k_start=start,
            )
        evaluator = Evaluator(self.spec, bound, torch.float64)
        bad = torch.zeros(tensor.shape, dtype=torch.bool)
        for fact in facts:
            try:
                value = evaluator(fact)
            except KeyError:
                continue
            if set(value.dims) <= set(decl.axes) and len(set(decl.axes)) == tensor.dim():
                broken = ~Named(value.tensor, value.dims).over(decl.axes)
                bad = bad | broken
        return bad
