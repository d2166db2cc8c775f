"""Random well-typed specs, as text: what takes one pass over the pairs, and what takes several.

Specs of one pass have a softmax or an element-wise weight; the others mix softmaxes, normalise over
the queries, use one sum in the next, go through learned or pooled tokens, or return statistics of
the weights. The same seed gives the same text.
"""

from __future__ import annotations

from collections.abc import Callable
from string import Formatter

from tests.pieces import WEIGHTS, Pieces

ONE_PASS = 0.6
# a weight; S is another score than `score`, C a condition, f and r numbers of a head and a row
_MIXTURES = (
    "softmax(score) - {f} * softmax({S})",
    "(1 - sigmoid({f})) * softmax(score) + sigmoid({f}) * softmax({S})",
    "(softmax(score) + softmax({S})) * sigmoid({c})",
    "softmax(score, where={C}) + tanh({r}) * softmax(score, where=not ({C}))",
    "softmax(score) - 0.5 * softmax(score, where={C})",
    "0.9 * softmax(score) + 0.1 / {count}",
    "softmax(score) + {f} * tanh({S}) / N",
    "softmax(score) - 0.1 * {pair}[i, j]",
    "softmax(score, sink={sink}) - {r} * softmax({S}) + {f} * softmax({T})",
    "{r} * softmax(score) + {f} * softmax({S}, sink={sink}) + tanh({S}) / N",
    "softmax(score) * where({C}, 1, 0.5)",
    "softmax(score, sink={sink}) * sigmoid({S})",
    "softmax(score) * softmax({S})",
    "softmax(score) * where({C}, 1 + {share}, 0.5)",
    "softmax(score) * 0.5 ** abs(i - j)",
    "softmax(score) / (1 + {received})",
    "where({dropped}, 0, softmax(score) / 0.75)",
    "softmax(score) - {f} * entmax({S})",
    "sparsemax(score) * where({C}, 1, 0.5)",
    "entmax(score, where={C}, alpha=1.1 + sigmoid({f}))",
    "entmax(score, alpha=1.2 + 0.5 * sigmoid({r})) * sigmoid({c})",
)
_DIFFERENCES = (
    "sum(j, softmax(score) * v[j]) - {f} * sum(j, softmax({S}) * v[j])",
    "0.5 * (sum(j, softmax(score) * v[j]) + {r} * sum(j, tanh({S}) * v[j]) / N)",
)
_OVER_QUERIES = (
    "softmax(score, over=i)",
    "softmax(score, over=i, sink={f})",
    "softmax(score, over=i) * sigmoid({c})",
    "{won} / max(sum(j, {won}), 0.001)",
    "softmax(score) * softmax(score, over=i)",
    "softmax(score, over=i) - {f} * softmax(score)",
    "entmax(score, over=i, alpha=1 + sigmoid({f}))",
)
_ROW_SUMS = (
    "{raw} / (0.1 + sum(j, {raw}))",
    "{raw} / max(sum(j, {raw}), 0.01)",
    "{raw} / sum(j, {raw})",
    "{raw} * rsqrt(1 + sum(j, {raw}) ** 2)",
    "{raw} / (1 + sum(i, {raw}))",
)
_POSITIVE = (
    "softplus({x})", "sigmoid({x})", "exp(-({x}) ** 2)", "1 / (1 + ({x}) ** 2)",
    "relu({x}) + 0.01", "dot(elu(q[i]) + 1, elu(k[j]) + 1)",
)  # fmt: skip
_SHARES = ("[i] = sum(j, softmax(score), where={C})", "[i] = sum(j, softmax({S}) * {c})")
# what may be returned of any weight
_READOUTS = (
    "[b, h, j] = sum(i, weight)",
    "[b, j] = mean(h, i, weight)",
    "[b, h, j] = mean(i, weight)",
    "[b, h, i] = sum(j, weight)",
    "[b, h, i] = sum(j, weight, where={C})",
    "[b, h, i] = sum(j, weight ** 2)",
    "[b, h] = sum(j, (1 - sum(i, weight)) ** 2)",
    "[b, i, j] = mean(h, weight)",
    "[b, h, i, j] = weight",
    "[b, h, j, d] = sum(i, weight * q[i])",
    "[b, h, j, e] = sum(i, weight * {u}[i])",
    "[b, h, i, e] = sum(j, weight * {v2}[j])",
    "[b, i, l] = mean(h, sum(j, weight * {member}[j]))",
    "[b, h, i, {z}] = sum(j, weight, where={place} == {z})",
    "[b, h, j, {z}] = sum(i, weight, where=({C}) and i - j == {z})",
    "[b, h, j] = logsumexp(i, score)",
    "[b, h, i] = logsumexp(j, {S}, where={C})",
    # which is largest is sure of products alone: other functions may make equal what was not
    "[b, h, i] = amax(j, {dot})",
    "[b, h, i] = amin(j, {dot}, where={C})",
    "[b, h, j] = amax(i, {dot})",
    "[b, h, i] = argmax(j, stopgrad({dot}), where={C})",
    "[b, h, d] = sum(j, k[j])",
    "[b, h, i] = {r} + 0 * q[i, 0]",
)
# of every block of keys, where no condition of the mask is given as a tensor of pairs
_BLOCK_READOUTS = (
    "[b, h, i, {part}] = amax(j, {dot}, where=j in {part})",
    "[b, h, i, {part}] = amin(j, {dot}, where=j in {part} and j % 3 != 1)",
    "[b, h, i, {part}] = logsumexp(j, {dot} / D + {c}, where=j in {part})",
    "[b, h, i, {part}] = sum(j, softmax({dot} / D), where=j in {part})",
    "[b, h, i, {part}] = mean(j, tanh({dot}) * {r}, where=j in {part} and i != j)",
    "[b, h, {part}, d] = amax(j, k[j], where=j in {part})",
)
# of numbers of pairs, lot, between 0 and 1: P is one at a token that runs, U that token, O a
# comparison with the pair's own
_RUNNING = (
    "sigmoid(score) * prod({U}, 1 - {P}, where={O})",
    "softmax(score - sum({U}, {P}, where={O}))",
    "tanh(score) * exp(-sum({U}, {P}, where={O} and {U} % 3 != 1))",
    "tanh(score) * sum({U}, {P} * {c}, where={O}) / N",
    "sigmoid(score - {f} * mean({U}, {P}, where={O})) / N",
    "softmax(score + {r} * sum({U}, 1, where={O} and {U} % 2 == 0) / N)",
    "{x} * cumsum(j, lot, where=j % 5 != 2) / N",
    "sigmoid(score) / (1 + cumsum(i, lot))",
)
# of a definition over pairs, told, which is read with its tokens changed places
_TOLD = (
    "softmax(score)", "softmax(score, over=i)", "softmax(score, sink={sink})", "sigmoid({S}) / N",
    "softmax(score, where={C})", "tanh({S}) / (1 + sum(j, sigmoid(score)))", "entmax(score) * {f}",
    "where({dropped}, 0, softmax(score))", "{pair}[i, j] - mean(j, {pair}[i, j])",
)  # fmt: skip
_TURNED = (
    "told[j, i]",
    "0.5 * (told[i, j] + told[j, i])",
    "told[i, j] * told[j, i]",
    "told[j, i] * sigmoid({c})",
    "softmax(score + told[j, i])",
    "softmax(score) - {f} * told[j, i]",
    "told[j, i] / (1 + sum(i, told[i, j] ** 2))",
)
_ENTROPY = "[b, h, i] = logsumexp(j, score) - sum(j, weight * score)"


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
        mixing = "param mixing[h, g] = 0.25"
        return self.rng.choice((
            lambda: [f"weight = softmax(score + {key}[j])"],
            lambda: [f"weight = softmax(score * tanh({key}[j] + {query}[i]), sink={self.sink()})"],
            lambda: [f"weight = sigmoid(score + {key}[j]) * tanh({query}[i] - {key}[j]) / N"],
            lambda: [f"weight = softmax(score - abs(i - j) * sigmoid({key}[j]), over=i)"],
            lambda: ["let told[i, j] = softmax(score)",
                     f"weight = sum(g, {self.talk(mixing)} * told[i, j, h=g])"],
            lambda: ["let told[i, j] = tanh(score) / N",
                     f"weight = sum(g, {self.talk(mixing)} * told[i, j, h=g])"],
        ))()  # fmt: skip

    def talk(self, declared: str) -> str:
        """Numbers for every two heads."""
        self.once("index g = h")
        return self.once(declared)

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
            return [f"output = {self.filled(_DIFFERENCES)}"]
        return [f"weight = {self.filled(_MIXTURES)}", *self.rest()]

    def over_queries(self) -> list[str]:
        return [f"weight = {self.filled(_OVER_QUERIES)}", *self.rest()]

    def row_sums(self) -> list[str]:
        """Weights that are divided by a sum of themselves."""
        return [f"weight = {self.filled(_ROW_SUMS)}", *self.rest()]

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
            clauses.append(f"return entropy{_ENTROPY}")
        elif self.rng.random() < 0.4:
            clauses.append(self.returned())
        return clauses + self.rest()

    def running(self) -> list[str]:
        """Weights that depend on the tokens on one side of a pair's own."""
        run, own, at = self.rng.choice((("back", "j", "lot[i, back]"), ("up", "i", "lot[up, j]")))
        self.once(f"index {run} = {own}")
        order = f"{run} {self.rng.choice(('<', '<=', '>', '>='))} {own}"
        lot = self.filled(("sigmoid(score)", "sigmoid({S})", "where({C}, sigmoid({S}), 0)"))
        weight = self.filled(_RUNNING, U=run, P=at, O=order)
        return [f"let lot[i, j] = {lot}", f"weight = {weight}", *self.rest()]

    def turned(self) -> list[str]:
        """Weights that read those of the pair with its tokens changed places."""
        self.once("require M == N")
        told, weight = self.filled(_TOLD), self.filled(_TURNED)
        return [f"let told[i, j] = {told}", f"weight = {weight}", *self.rest()]

    def map(self) -> list[str]:
        """The weights are the result."""
        weight = self.rng.choice((
            "softmax(score)", "softmax(score)", self.filled(_OVER_QUERIES), self.filled(WEIGHTS),
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
        forms = _READOUTS if given or self.rng.random() < 0.8 else _BLOCK_READOUTS
        return f"return found{self.count}{self.filled(forms)}"

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
            "dropped": self.dropped,
            "pair": lambda: self.tensor("input", "pair", ("b", "h", "i, j")),
            "count": lambda: self.once("let count[i] = max(1, sum(j, 1))"),
            "share": lambda: self.declare("let", "share", self.filled(_SHARES)) + "[i]",
            "received": lambda: self.once("let received[j] = sum(i, softmax(score))") + "[j]",
            "won": lambda: self.once("let won = softmax(score, over=i) + 0.01"),
            "raw": lambda: self.declare("let", "raw", f" = {self.filled(_POSITIVE)}"),
            "u": lambda: self.once("query u[e]"),
            "v2": lambda: self.once("value v2[e]"),
            "member": self.member,
            "place": self.place,
            "part": lambda: self.once("blocks part = j // 5"),
            "z": lambda: self.once("axis z = 12"),
        }
        used = [name for _, name, _, _ in Formatter().parse(form) if name]
        made = {name: parts[name]() for name in dict.fromkeys(used) if name not in given}
        return form.format(**made, **given)


def generate(seed: int) -> str:
    """The text of a random spec."""
    return _Spec(seed).text()
