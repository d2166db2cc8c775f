"""Random pieces of a spec for `tests.generator`: declarations, scores, weights, values, gates.

Every operation stays inside its domain by construction, so the checker must accept what comes out.
"""

from __future__ import annotations

from collections.abc import Callable
from random import Random

from tests.masks import GRIDS, Conditions

ON_A_GRID = 0.2
# x stands for any real number
_FUNCTIONS = (
    "tanh({x})", "sigmoid({x})", "softplus({x})", "logsigmoid({x})", "relu({x})",
    "leaky_relu({x})", "leaky_relu({x}, 0.2)", "elu({x})", "silu({x})", "gelu({x})", "erf({x})",
    "sin({x})", "cos({x})", "atan({x})", "abs({x})", "log1p(abs({x}))", "sqrt(1 + {x} ** 2)",
    "rsqrt(1 + {x} ** 2)", "exp(-abs({x}))", "exp2(-abs({x}))", "log(1 + {x} ** 2)",
    "log2(2 + abs({x}))", "1 / (1 + {x} ** 2)", "{x} / (1 + abs({x}))", "0.1 * {x} ** 3",
    "min({x}, 1.5)", "max({x}, -0.5)", "clamp({x}, -2, 2)", "where(i > j, {x}, 0.5 * {x})",
    "3 * tanh({x} / 3)", "max({x}, 0.3 * {x})", "(1 + abs({x})) ** 0.5", "stopgrad({x})",
    "min({x}, 1, 2 * {x})", "2 ** -abs({x})",
)  # fmt: skip
_INSIDE = ("tanh", "sigmoid", "leaky_relu", "silu", "sin")  # a sum over channels
WEIGHTS = (
    "sigmoid({x})", "relu({x}) ** 2 / N", "tanh({x})", "relu({x})", "silu({x}) / N",
    "exp(-({x}) ** 2)", "softplus({x}) / N", "gelu({x})", "sigmoid({x} - log(N))",
    "1 / (1 + ({x}) ** 2)", "abs({x}) / M", "({x})",
    "(1 + erf({x} - 1)) / 2",
)  # fmt: skip


class Pieces:
    """Declarations so far, and a source of random pieces; the methods give expressions."""

    def __init__(self, seed: int) -> None:
        self.rng = Random(seed)
        self.lines: list[str] = []
        self.count = 0
        self.heads = self.rng.choice((0, 0, 0, 1, 2, 4))  # 0: left to the call
        self.grid = self.rng.choice(GRIDS) if self.rng.random() < ON_A_GRID else ""
        self.kinds: dict[str, list[str]] = {}
        self.mask = Conditions(self, tuple(self.grid.split(", ")) if self.grid else ())

    def pick(self, *options: Callable[[], str]) -> str:
        return self.rng.choice(options)()

    def axes(self, *names: str) -> str:
        """Some of `names` in order; the last one always."""
        kept = [n for n in names[:-1] if self.rng.random() < 0.5]
        return ", ".join([*kept, names[-1]])

    def declare(self, form: str, prefix: str, rest: str) -> str:
        """A new name, or sometimes one that was declared alike before."""
        after = rest.rpartition("]")[2]  # the type, and what holds of it
        known = self.kinds.setdefault(f"{form} {prefix}{after}", [])
        if known and self.rng.random() < 0.3:
            return self.rng.choice(known)
        self.count += 1
        name = f"{prefix}{self.count}"
        self.lines.append(f"{form} {name}{rest.replace('{name}', name)}")
        known.append(name)
        return name

    def once(self, line: str) -> str:
        """The name that `line` declares, declared now or before; lines of an axis give none."""
        if line not in self.lines:
            self.lines.append(line)
        return line.split()[1].partition("[")[0]

    def tensor(self, form: str, prefix: str, axes: tuple[str, ...], rest: str = "") -> str:
        """A declaration over some of `axes`, the last one always."""
        return self.declare(form, prefix, f"[{self.axes(*axes)}]{rest}")

    # the mask

    def masks(self) -> list[str]:
        amount = self.rng.choice((0, 1, 1, 1, 2, 2, 3))
        found = [self.mask.any(2) for _ in range(amount)]
        if self.rng.random() < 0.06:
            found.append(self.ranked())
        return found

    def ranked(self) -> str:
        """A condition that chooses some of a range, or of any keys, by their rank."""
        if self.rng.random() < 0.5:
            return self.ranked_pair()
        level = self.tensor("input", "level", ("b", "h", "j"))
        width, most = self.mask.length(), self.mask.small(1, 12)
        reach = self.rng.choice(("j <= i", f"abs(i - j) <= {width}", f"i - {width} < j", "j >= i"))
        return f"topk(j, {level}[j], {most}, where={reach})"

    def ranked_pair(self) -> str:
        """A condition that chooses by the rank of what depends on both tokens."""
        axis = self.rng.choice("jjji")
        # which is largest is sure of given vectors' products, and of integers
        of = self.pick(
            lambda: "dot(q[i], k[j])",
            lambda: f"{self.tensor('input', 'pair', ('b', 'h', 'i, j'))}[i, j]",
            lambda: f"({self.rng.randint(2, 7)} * i + {self.rng.randint(2, 7)} * j) % 11",
        )
        most = self.pick(
            lambda: str(self.rng.randint(1, 12)),
            lambda: f"{self.declare('input', 'most', '[h]: int where {name} >= 0')}",
            lambda: f"({'i' if axis == 'j' else 'j'} % 5 + 1)",
        )
        where = self.pick(lambda: "", lambda: f", where={self.mask.any(2)}")
        if self.rng.random() < 0.2:
            return f"rank({axis}, {of}{where}) {self.rng.choice(('<=', '>', '!='))} {most}"
        return f"topk({axis}, {of}, {most}{where})"

    # the score

    def score(self) -> str:
        parts = [self.undotted() if self.rng.random() < 0.15 else self.scaled(self.dot())]
        for _ in range(self.rng.choice((0, 0, 1, 1, 2))):
            parts.append(self.bias())
        x = parts[0]
        for part in parts[1:]:
            x = (
                f"{x} {self.rng.choice('+-')} {part}"
                if self.rng.random() < 0.85
                else f"({x}) * {part}"
            )
        for _ in range(self.rng.choice((0, 0, 1, 1, 2))):
            x = self.rng.choice(_FUNCTIONS).format(x=f"({x})")
        return x

    def undotted(self) -> str:
        """A number of both tokens without a product of vectors."""
        return self.pick(
            lambda: f"({self.scalar('row')} + {self.scalar('column')})",
            lambda: f"{self.scalar('row')} * {self.scalar('column')}",
            lambda: f"{self.tensor('input', 'pair', ('b', 'h', 'i, j'))}[i, j]",
            lambda: f"{self.table()}[min(abs(i - j), 11)]",
            lambda: f"(i - j) ** 2 / (-1 - {self.scalar('row')} ** 2)",
            lambda: f"-0.1 * norm2(q[i] - {self.key()})",
            lambda: f"-0.2 * sum(d, abs(q[i, d] - {self.scalar('column')} * k[j, d]))",
            lambda: f"dot({self.channels()}, {self.rng.choice(_INSIDE)}({self.query()} + k[j]))",
            lambda: f"sum(d, {self.rng.choice(_INSIDE)}(q[i, d] * {self.scalar('row')} + k[j, d]))",
            lambda: f"sum(d, max(q[i, d], k[j, d]), where=d < 5) / D * {self.scalar('head')}",
            self.between,
            self.of_channels,
            self.in_order,
        )

    def of_channels(self) -> str:
        """A reduction, or a normaliser, over the channels of a pair."""
        x = self.pick(
            lambda: "(q[i] + k[j])",
            lambda: f"(q[i] * k[j] + {self.scalar('row')})",
            lambda: f"tanh(q[i] - {self.scalar('column')} * k[j])",
        )
        return self.pick(
            lambda: f"logsumexp(d, {x})",
            lambda: f"amax(d, {x})",
            lambda: f"amin(d, {x}, where=d < 5)",
            lambda: f"mean(d, {self.rng.choice(_INSIDE)}({x}))",
            lambda: f"sum(d, softmax({x}, over=d) * {self.rng.choice(_INSIDE)}(q[i] + k[j]))",
            lambda: f"dot({self.channels()}, relu(rmsnorm({x})))",
            lambda: f"dot({self.channels()}, softmax({x}, over=d))",
        )

    def in_order(self) -> str:
        """Cumulative sums, ranks and sparsemax over few channels of a pair."""
        self.once("axis few = 5")
        x, y = self.once("query few_x[few]"), self.once("key few_y[few]")
        pair = self.rng.choice((f"{x}[i] * {y}[j]", f"({x}[i] + {y}[j])"))
        where = self.rng.choice(("", ", where=few != 1", f", where={y}[j] > -0.5"))
        return self.pick(
            lambda: f"0.2 * sum(few, {self.rng.choice(_INSIDE)}(cumsum(few, {pair}{where})))",
            lambda: f"0.2 * sum(few, {x}[i], where=topk(few, {x}[i] * {y}[j], 2{where}))",
            lambda: f"0.3 * sum(few, sparsemax({pair}, over=few{where}) * {x}[i])",
        )

    def between(self) -> str:
        """A matrix between a query and another vector of a key."""
        self.once("axis c")
        matrix = self.once("param left[h, d, c]")
        return f"sum(d, c, {matrix} * q[i] * {self.once('key low[c]')}[j]) / D"

    def dot(self) -> str:
        q, k = self.query(), self.key()
        simple = f"dot({q}, {k})"
        if self.rng.random() < 0.15:
            return f"({simple} + {self.second_dot()})"
        if self.rng.random() < 0.06:
            self.once("axis c")
            left, right = self.once("param left[h, d, c]"), self.once("param right[h, d, c]")
            return f"dot({q} @ {left}, {k} @ {right}) / D"
        if self.rng.random() < 0.08:
            return f"(2 * {simple} - norm2({q}) - norm2({k}))"
        if self.rng.random() < 0.06:
            return f"({simple} + 0.3 * dot(normalize(q[i]), normalize(k[j])))"
        if self.rng.random() < 0.25:
            return self.relative(q, k)
        return simple

    def second_dot(self) -> str:
        """A dot product of operands of its own."""
        self.once("axis r")
        return f"dot({self.once('query q2[r]')}[i], {self.once('key k2[r]')}[j])"

    def relative(self, q: str, k: str) -> str:
        """Dot products with vectors that are read at an index of both tokens."""
        row = f"{self.tensor('param', 'rows', ('h', '12, d'), ' = 0.1')}[{self.place()}]"
        return self.pick(
            lambda: f"(dot({q}, {k}) + dot({q}, {row}))",
            lambda: f"(dot({q}, {k}) + dot({q}, {row}) + dot({k}, {row}))",
            lambda: f"dot({q}, {k} + {row})",
            lambda: f"dot({q} - {row}, {k} + {row})",
            lambda: f"(dot({q}, {k}) - 0.5 * dot({k}, {row} + {self.summed()}))",
            lambda: f"dot({q}, {k} + {row} + {self.summed()})",
        )

    def place(self) -> str:
        """An index from 0 to 11 of both tokens."""
        if self.grid and self.rng.random() < 0.4:
            x = self.rng.choice(self.grid.split(", "))
            return self.rng.choice((f"clamp(i.{x} - j.{x} + 5, 0, 11)", f"(i.{x} + j.{x}) % 12"))
        return self.pick(
            lambda: "clamp(i - j, 0, 11)",
            lambda: "clamp(j - i + 5, 0, 11)",
            lambda: f"min(abs(i - j) // {self.mask.small(1)}, 11)",
            lambda: "(i + 2 * j) % 12",
            lambda: "(sign(i - j) + 1) * 4",
        )

    def summed(self) -> str:
        """A vector that no two pairs of a query, and none of a key, share."""
        for side in "ij":
            self.once(f"require {side} < 200")
        return f"{self.once('param by_sum[h, 400, d] = 0.1')}[i + j]"

    def query(self) -> str:
        return self.pick(
            lambda: "q[i]", lambda: "q[i]", lambda: "q[i]",
            lambda: "normalize(q[i])",
            lambda: "rmsnorm(q[i])",
            lambda: f"(q[i] * {self.channels()})",
            lambda: f"(q[i] + {self.channels()})",
            lambda: "rope(q[i], i)",
            lambda: "tanh(q[i])",
            lambda: f"({self.scalar('row')} * q[i])",
            lambda: f"(q[i] * sigmoid({self.once('query open_q[d]')}[i]))",
            lambda: f"({self.opened('q')} * q[i])",
        )  # fmt: skip

    def key(self) -> str:
        return self.pick(
            lambda: "k[j]", lambda: "k[j]", lambda: "k[j]",
            lambda: "normalize(k[j])",
            lambda: "rmsnorm(k[j])",
            lambda: f"(k[j] * {self.channels()})",
            lambda: "rope(k[j], j)",
            lambda: "relu(k[j])",
            lambda: f"({self.scalar('column')} * k[j])",
            lambda: f"(k[j] * sigmoid({self.once('key open_k[d]')}[j]))",
            lambda: f"({self.opened('k')} * k[j])",
            lambda: "(k[j] + 0.5 * k[j - 1, pad=0])",
        )  # fmt: skip

    def opened(self, name: str) -> str:
        """A gate of every head and channel."""
        channel = "e" if name == "v" else "d"
        return f"sigmoid({self.once(f'param open_{name}{channel}[h, {channel}] = 0')})"

    def channels(self) -> str:
        return self.tensor("param", "scale_d", ("h", "d"), " = 1")

    def scaled(self, x: str) -> str:
        return self.pick(
            lambda: f"{x} / sqrt(D)",
            lambda: f"{x} / sqrt(D)",
            lambda: f"0.3 * {x}",
            lambda: f"{x} * {self.scalar('head')}",
            lambda: f"{x} / (1 + exp({self.scalar('head')}))",
            lambda: f"{x} * log(1 + N) / D",
        )

    def scalar(self, place: str) -> str:
        """A real number per row, column or head."""
        axes = {"row": ("b", "h", "i"), "column": ("b", "h", "j")}
        if place in axes:
            at = axes[place][-1]
            name = self.tensor("input", place, axes[place])
            return self.rng.choice((f"{name}[{at}]", f"{name}[{at}]", f"tanh({name}[{at}])"))
        return self.pick(
            lambda: self.declare("param", "slope", "[h] = 0.5"),
            lambda: self.declare("param", "alone", " = 0.7"),
            lambda: self.declare("input", "factor", ": float = 0.8"),
            lambda: "(h + 1) / H",
            lambda: f"{self.declare('input', 'rate', '[b, h]')}",
        )

    def bias(self) -> str:
        return self.pick(
            lambda: self.scalar("row"),
            lambda: self.scalar("column"),
            lambda: f"{self.scalar('row')} * {self.scalar('column')}",
            lambda: f"{self.scalar('head')} * (i - j)",
            lambda: f"{self.scalar('head')} * abs(i - j) / N",
            lambda: f"{self.tensor('input', 'pair', ('b', 'h', 'i, j'))}[i, j]",
            lambda: f"{self.table()}[{self.place()}]",
            lambda: f"{self.table()}[{self.place()}]",
            lambda: f"{self.table()}[{self.place()}]",
            lambda: f"{self.declare('param', 'two', '[h, 3, 4] = 0.1')}[i % 3, j % 4]",
            lambda: f"log(1 + abs(i - j)) * {self.scalar('head')}",
            lambda: f"cos(0.1 * (i - j)) * {self.scalar('row')}",
            lambda: f"where({self.mask.any(0)}, {self.scalar('column')}, 0.5)",
            lambda: f"where({self.mask.any(0)}, {self.scalar('head')}, {self.scalar('row')})",
            lambda: f"{self.declare('input', 'place', '[b, n]: int')}[i] * 0.1",
            lambda: f"floor(4 * {self.declare('input', 'row', '[b, i]')}[i]) * 0.25",
        )

    def table(self) -> str:
        return self.tensor("param", "table", ("h", "12"), " = 0.1")

    # the rest

    def sink(self) -> str:
        return self.pick(
            lambda: "0",
            lambda: self.declare("param", "slope", "[h] = 0.5"),
            lambda: self.scalar("row"),
            lambda: "log(H)",
            lambda: f"tanh({self.scalar('head')})",
            lambda: f"logsumexp(p, {self.learned()})",
        )

    def learned(self) -> str:
        """The score of a query at keys p that are learned."""
        self.once("axis p")
        return f"dot(q[i], {self.once('param learned[h, p, d]')}) / sqrt(D)"

    def factor(self) -> str:
        return self.pick(lambda: self.scalar("column"), lambda: f"sigmoid({self.scalar('column')})")

    def decay(self) -> str:
        return self.pick(
            lambda: "0.9 ** abs(i - j)",
            lambda: f"exp(-0.1 * abs(i - j) * sigmoid({self.scalar('head')}))",
            lambda: self.scalar("column"),
            lambda: f"where({self.mask.any(0)}, 1, 0.5)",
            lambda: f"where({self.dropped()}, 0, 1)",
        )

    def dropped(self) -> str:
        """Whether a pair is left out by chance; the share is exact in every dtype."""
        return f"random({self.declare('input', 'seed', ': int = 0')}) < 0.25"

    def value(self) -> str:
        return self.pick(
            lambda: "v[j]",
            lambda: f"v[j] * {self.scalar('column')}",
            lambda: "normalize(v[j])",
            lambda: f"v[j] + {self.declare('param', 'shift_e', '[h, e] = 0.1')}",
            lambda: "tanh(v[j])",
            lambda: f"{self.scalar('head')} * v[j]",
            lambda: f"v[j] * sigmoid({self.once('value open_v[e]')}[j])",
            lambda: f"v[j] * {self.opened('v')}",
            lambda: "v[j] - 0.3 * v[j - 1, pad=0]",
            lambda: "v[j] + k[j, e]",
            lambda: f"v[j] * {self.scalar('row')}",
            lambda: f"v[j] * sigmoid({self.once('query open_y[e]')}[i])",
            lambda: f"(v[j] - {self.once('query open_y[e]')}[i]) * {self.scalar('column')}",
            self.mixed_channels,
            self.relative_value,
            self.relative_value,
            lambda: f"tanh(v[j] - {self.once('query open_y[e]')}[i])",
            lambda: f"v[j] * sigmoid({self.scalar('row')} + v[j] * {self.scalar('column')})",
        )

    def relative_value(self) -> str:
        """A value with a vector that is read at an index of both tokens."""
        rows = self.tensor("param", "vectors", ("h", "12, e"), " = 0.1")
        row = f"{rows}[{self.place()}]"
        return self.pick(
            lambda: f"v[j] + {row}",
            lambda: f"v[j] * {self.scalar('column')} - {self.scalar('row')} * {row}",
            lambda: f"(v[j] + {row}) * sigmoid({self.once('query open_y[e]')}[i])",
            lambda: f"v[j] + tanh({row}) * where({self.mask.any(0)}, 1, {self.scalar('column')})",
            lambda: f"{rows}[i - j, pad=0]",
            lambda: f"v[j] + {self.once('param grid_e[3, 4, e] = 0.1')}[i % 3, (i + j) % 4]",
        )

    def mixed_channels(self) -> str:
        """A small network on the channels of a value."""
        self.once("axis s")
        up = self.once("param up[h, e, s]")
        return f"tanh(v[j] @ {up}) @ {up}"

    def gate(self) -> str:
        return self.pick(
            lambda: f"sigmoid({self.scalar('row')})",
            lambda: self.scalar("row"),
            lambda: self.scalar("head"),
            lambda: self.declare("param", "scale_e", "[h, e] = 1"),
            lambda: f"silu({self.tensor('input', 'open', ('b', 'h', 'i, e'))}[i])",
            lambda: f"sigmoid({self.once('query open_y[e]')}[i])",
            lambda: "silu(q[i, e])",
            lambda: f"softmax({self.tensor('input', 'route', ('b', 'h, i'))}[i], over=h)",
        )
