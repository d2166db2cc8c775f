"""Random well-typed specs, as text: what takes one pass over the pairs, and what takes several.

Specs of one pass have a softmax or an element-wise weight; the others mix softmaxes, normalise over
the queries or the heads, use one sum in the next, go through learned or pooled tokens, depend on
the tokens before or on those of a block, or return statistics of the weights. The same seed gives
the same text.
"""

from __future__ import annotations

from collections.abc import Callable
from string import Formatter

from tests.forms import (
    BLOCK_READOUTS,
    DIFFERENCES,
    ENTROPY,
    MIXTURES,
    OF_A_BLOCK,
    OTHER_SIDE,
    OVER_HEADS,
    OVER_QUERIES,
    POSITIVE,
    READOUTS,
    ROW_SUMS,
    RUNNING,
    SHARES,
    STATISTICS,
    TOLD,
    TURNED,
)
from tests.pieces import WEIGHTS, Pieces

ONE_PASS = 0.6


class _Spec(Pieces):
    """The clauses of a spec, for what `Pieces` has declared."""

    def text(self) -> str:
        mask = self.masks()
        if self.rng.random() < ONE_PASS:
            clauses = [f"score = {self.score()}", *self.one_pass()]
            if "j <= i" in mask and self.rng.random() < 0.5:
                clauses.append("causal")
        else:
            family = self.rng.choice((
                self.mixture, self.over_queries, self.row_sums, self.chain, self.other_tokens,
                self.branches, self.readouts, self.map, self.vectors, self.running, self.turned,
                self.across_heads, self.of_a_block,
            ))  # fmt: skip
            clauses = [f"score = {self.score()}", *family()]
        clauses += [f"mask {line}" for line in mask]
        self.rng.shuffle(clauses)
        head = ["attention generated"] + ([f"grid {self.grid}"] if self.grid else [])
        return "\n".join([*head, *self.lines, *clauses]) + "\n"

    # several numbers a pair

    def vectors(self) -> list[str]:
        """A weight for every channel, or a mixture over heads."""
        key, query = self.once("key of_e[e]"), self.once("query open_y[e]")
        mixing, slope = "param mixing[h, g] = 0.25", ("param", "slope", "[h] = 0.5")
        return self.rng.choice((
            lambda: [f"weight = softmax(score + {key}[j])"],
            lambda: [f"weight = softmax(score * tanh({key}[j] + {query}[i]), sink={self.sink()})"],
            lambda: [f"weight = sigmoid(score + {key}[j]) * tanh({query}[i] - {key}[j]) / N"],
            lambda: [f"weight = softmax(score - abs(i - j) * sigmoid({key}[j]), over=i)"],
            lambda: [f"let told[i, j] = softmax(score * {self.declare(*slope)})",
                     f"weight = sum(g, {self.talk(mixing)} * told[i, j, h=g])"],
            lambda: [f"let told[i, j] = tanh(score) / N * {self.declare(*slope)}",
                     f"weight = sum(g, {self.talk(mixing)} * told[i, j, h=g])"],
        ))()  # fmt: skip

    def talk(self, declared: str) -> str:
        """Numbers for every two heads."""
        self.once("index g = h")
        return self.once(declared)

    def across_heads(self) -> list[str]:
        """Weights that depend on every head's numbers of the pair; a kernel takes some heads."""
        self.once("index g = h")
        if self.rng.random() < 0.7:
            self.heads = self.heads or self.rng.choice((2, 3, 4))
            self.once(f"require H == {self.heads}")
        lot, weight = self.filled(("{dot} / 8", "{dot} / (1 + N)")), self.filled(OVER_HEADS)
        return [f"let lot[i, j] = {lot}", f"weight = {weight}", *self.rest()]

    # one pass

    def one_pass(self) -> list[str]:
        rng = self.rng
        clauses = []
        if rng.random() < 0.7:
            sink = f", sink={self.sink()}" if rng.random() < 0.3 else ""
            factor = f" * {self.factor()}" if rng.random() < 0.15 else ""
            if sink or factor or rng.random() < 0.3:
                clauses.append(f"weight = softmax(score{sink}){factor}")
            if not sink and rng.random() < 0.3:
                clauses.append("return lse[b, h, i] = logsumexp(j, score)")
        else:
            weight = rng.choice(WEIGHTS).format(x="score")
            factor = f" * {self.decay()}" if rng.random() < 0.2 else ""
            clauses.append(f"weight = {weight}{factor}")
        if rng.random() < 0.25:
            clauses.append(f"value = {self.value()}")
        if rng.random() < 0.35:
            clauses.append(f"gate = {self.gate()}")
        elif rng.random() < 0.15:
            clauses.append(f"output = {self.output()}")
        if rng.random() < 0.1:
            clauses.append(self.returned())
        return clauses

    def output(self) -> str:
        total = self.rng.choice(("sum(j, weight * value)", "sum(j, weight * v[j])"))
        return self.pick(
            lambda: f"{total} + {self.declare('param', 'shift_e', '[h, e] = 0.1')}",
            lambda: f"{self.scalar('row')} * {total}",
            lambda: f"tanh({total})",
            lambda: f"rmsnorm({total})",
            lambda: f"{total} / (1 + {self.declare('param', 'alone', ' = 0.7')} ** 2)",
            lambda: f"{total} * sigmoid({total})",
            lambda: "mean(j, weight * v[j])",
        )

    # several passes

    def mixture(self) -> list[str]:
        if self.rng.random() < 0.2:
            return [f"output = {self.filled(DIFFERENCES)}"]
        return [f"weight = {self.filled(MIXTURES)}", *self.rest()]

    def over_queries(self) -> list[str]:
        return [f"weight = {self.filled(OVER_QUERIES)}", *self.rest()]

    def row_sums(self) -> list[str]:
        """Weights that are divided by a sum of themselves."""
        return [f"weight = {self.filled(ROW_SUMS)}", *self.rest()]

    def chain(self) -> list[str]:
        """A sum over pairs that another one reads."""
        s = self.another_score()
        return self.rng.choice((
            lambda: [f"let gist[j] = sum(i, softmax({s}, over=i) * q[i])",
                     "weight = softmax(score + dot(q[i], gist[j]) / D)"],
            lambda: [f"let first[i, d] = sum(j, softmax({s}) * k[j])",
                     "weight = softmax(score + dot(first[i], k[j]) / D)"],
            lambda: [f"let first[i] = sum(j, softmax({s}) * {self.scalar('column')})",
                     "weight = sigmoid(score + first[i]) / N"],
            lambda: [f"let back[j] = sum(i, softmax({s}, over=i) * {self.once('query u[e]')}[i])",
                     "value = v[j] + back[j]"],
            lambda: [f"let read[i] = sum(j, softmax({s}) * {self.once('value v2[e]')}[j])",
                     "output = sum(j, weight * value) * sigmoid(read[i])"],
            lambda: ["let read[i] = sum(j, weight * value)",
                     "output = read[i] - 0.5 * read[i - 1, pad=0]"],
            lambda: [f"gate = where(any(j, {self.mask.any(1)}), 1, 0.5)"],
            lambda: ["let read[i] = sum(j, weight * value)",
                     f"output = read[i] + {self.once('query u[e]')}[i] * norm2(read[i])"],
        ))()  # fmt: skip

    def other_tokens(self) -> list[str]:
        """Tokens of another axis between queries and keys: learned, given, or pooled in blocks."""
        near = self.rng.choice(("", "", " + sum(j, weight * value)"))
        if self.rng.random() < 0.3:
            clauses = [
                f"blocks m = j // {self.rng.choice((4, 16, 30))}",
                "let tokens[m] = mean(j, k[j], where=j in m)",
                "let read[m] = mean(j, v[j], where=j in m)",
            ]
        else:
            self.once("axis m")
            tokens = self.once(self.rng.choice((
                "param tokens[h, m, d]", "param tokens[m, d]", "input tokens[b, h, m, d]",
            )))  # fmt: skip
            bias = self.rng.choice((0, f" + {self.tensor('param', 'bias', ('h', 'm, 1'))}[m, 0]"))
            clauses = [
                f"let far[m, j] = dot({tokens}[m], {self.key()}) / sqrt(D){bias or ''}",
                "let read[m] = sum(j, softmax(far[m, j], over=j) * v[j])",
            ]
        clauses.append(f"let near[i, m] = dot({self.query()}, tokens[m]) / sqrt(D)")
        if self.rng.random() < 0.3:  # one softmax over keys and tokens
            own = "sum(j, softmax(score, sink=logsumexp(m, near[i, m])) * v[j])"
            other = "softmax(near[i, m], over=m, sink=logsumexp(j, score))"
            return [*clauses, f"output = {own} + sum(m, {other} * read[m])"]
        return [*clauses, f"output = sum(m, softmax(near[i, m], over=m) * read[m]){near}"]

    def branches(self) -> list[str]:
        """Several sums over the keys in one output."""
        s, c = self.another_score(), self.mask.any(1)
        own, other = "sum(j, softmax(score) * v[j])", f"sum(j, softmax({s}) * v[j])"
        share = f"sigmoid({self.scalar('row')})"
        output = self.pick(
            lambda: f"{share} * {own} + (1 - {share}) * {other}",
            lambda: f"{own} + {self.scalar('head')} * sum(j, softmax(score, where={c}) * v[j])",
            lambda: (
                f"sum(j, softmax(score, sink=logsumexp(j, {s})) * v[j])"
                f" + sum(j, softmax({s}, sink=logsumexp(j, score)) * {self.once('value v2[e]')}[j])"
            ),
            lambda: f"{own} * sigmoid(sum(j, weight * {self.once('value v2[e]')}[j]))",
            lambda: f"{other} - {share} * mean(j, v[j])",
        )
        return [f"output = {output}"]

    def readouts(self) -> list[str]:
        """What is returned of the weights, besides the output."""
        softmax = self.rng.random() < 0.6
        weight = "softmax(score)" if softmax else self.rng.choice(WEIGHTS).format(x="score")
        clauses = [f"weight = {weight}", self.returned()]
        if softmax and self.rng.random() < 0.4:
            clauses.append(f"return entropy{ENTROPY}")
        elif self.rng.random() < 0.4:
            clauses.append(self.returned())
        return clauses + self.rest()

    def running(self) -> list[str]:
        """Weights that depend on the tokens on one side of a pair's own."""
        run, own, at = self.rng.choice((
            ("back", "j", "lot[i, back]"), ("fore", "i", "lot[fore, j]"),
        ))  # fmt: skip
        self.once(f"index {run} = {own}")
        order = f"{run} {self.rng.choice(('<', '<=', '>', '>='))} {own}"
        lot = self.filled(("sigmoid(score)", "sigmoid({S})", "where({C}, sigmoid({S}), 0)"))
        weight = self.filled(RUNNING, U=run, P=at, O=order)
        return [f"let lot[i, j] = {lot}", f"weight = {weight}", *self.rest()]

    def of_a_block(self) -> list[str]:
        """Weights that depend on the tokens of the block of a pair's own."""
        run, own, other, at = self.rng.choice((
            ("back", "j", "i", "lot[i, back]"), ("fore", "i", "j", "lot[fore, j]"),
        ))  # fmt: skip
        self.once(f"index {run} = {own}")
        given = any("i, j]" in line for line in self.lines)  # of which no block is laid out
        length = self.rng.choice((33, 40) if given else (2, 5, 32, 33, 40))
        block = f"{run} // {length} == {own} // {length}"
        block += self.rng.choice(("", f" and {run} % 3 != 1", f" and {run} != {other}"))
        lot = self.filled(("{dot} / 8", "{dot} / (1 + N)"))
        level = self.scalar("row" if other == "i" else "column")
        weight = self.filled(OF_A_BLOCK, U=run, P=at, O=block, r=level)
        return [f"let lot[i, j] = {lot}", f"weight = {weight}", *self.rest()]

    def turned(self) -> list[str]:
        """Weights that read those of the pair with its tokens changed places, or what is left of
        the other token."""
        self.once("require M == N")
        if self.rng.random() < 0.3:
            return [f"weight = {self.filled(OTHER_SIDE)}", *self.rest()]
        told, weight = self.filled(TOLD), self.filled(TURNED)
        return [f"let told[i, j] = {told}", f"weight = {weight}", *self.rest()]

    def map(self) -> list[str]:
        """The weights are the result."""
        weight = self.rng.choice((
            "softmax(score)", "softmax(score)", self.filled(OVER_QUERIES), self.filled(WEIGHTS),
        ))  # fmt: skip
        returned = "return map[b, h, i, j] = weight"
        more = [self.returned()] if self.rng.random() < 0.3 else []
        return [f"weight = {weight}", "output = none", returned, *more]

    # parts of these

    def rest(self) -> list[str]:
        """Perhaps a value, a gate, a readout."""
        clauses = []
        if self.rng.random() < 0.2:
            clauses.append(f"value = {self.value()}")
        if self.rng.random() < 0.2:
            clauses.append(f"gate = {self.gate()}")
        if self.rng.random() < 0.15:
            clauses.append(self.returned())
        return clauses

    def another_score(self) -> str:
        return self.pick(
            lambda: "0.5 * score",
            lambda: f"{self.scalar('head')} * score",
            lambda: f"{self.second_dot()} / sqrt(size(r))",
            lambda: f"{self.second_dot()} / sqrt(size(r)) + {self.bias()}",
            lambda: "-norm2(q[i] - k[j]) / D",
            self.undotted,
        )

    def returned(self) -> str:
        self.count += 1
        given = any("i, j]" in line for line in self.lines)
        forms = READOUTS if given or self.rng.random() < 0.8 else BLOCK_READOUTS
        return f"return found{self.count}{self.filled(forms)}"

    def part(self) -> str:
        """Blocks of keys, of one length in a spec."""
        known = [line for line in self.lines if line.startswith("blocks part")]
        return self.once(known[0] if known else f"blocks part = j // {self.rng.choice((5, 33))}")

    def member(self) -> str:
        """To which of a few classes a key belongs, and how much."""
        self.once("axis l")
        return self.once("input member[b, j, l]")

    def filled(self, forms: tuple[str, ...], **given: str) -> str:
        """One of `forms`, each of its parts `given` or made once."""
        form = self.rng.choice(forms)
        parts: dict[str, Callable[[], str]] = {
            "x": lambda: "score",
            "S": self.another_score,
            "T": self.another_score,
            "dot": lambda: self.rng.choice(("dot(q[i], k[j])", self.second_dot())),
            "C": lambda: self.mask.any(1),
            "f": lambda: self.scalar("head"),
            "r": lambda: self.scalar("row"),
            "c": lambda: self.scalar("column"),
            "sink": self.sink,
            "alone": lambda: self.declare("param", "alone", " = 0.7"),
            "dropped": self.dropped,
            "pair": lambda: self.tensor("input", "pair", ("b", "h", "i, j")),
            "count": lambda: self.once("let count[i] = max(1, sum(j, 1))"),
            "share": lambda: self.declare("let", "share", self.filled(SHARES)) + "[i]",
            "received": lambda: self.once("let received[j] = sum(i, softmax(score))"),
            "stat": lambda: self.once(f"let stat[i] = {self.filled(STATISTICS)}"),
            "won": lambda: self.once("let won = softmax(score, over=i) + 0.01"),
            "raw": lambda: self.declare("let", "raw", f" = {self.filled(POSITIVE)}"),
            "u": lambda: self.once("query u[e]"),
            "v2": lambda: self.once("value v2[e]"),
            "member": self.member,
            "place": self.place,
            "part": self.part,
            "z": lambda: self.once("axis z = 12"),
        }
        used = [name for _, name, _, _ in Formatter().parse(form) if name]
        made = {name: parts[name]() for name in dict.fromkeys(used) if name not in given}
        return form.format(**made, **given)


def generate(seed: int) -> str:
    """The text of a random spec."""
    return _Spec(seed).text()
