"""Forms of weights and returns for `tests.generator`: names in braces stand for parts of a spec."""

# a weight; S is another score than `score`, C a condition, f and r numbers of a head and a row
MIXTURES = (
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
    "softmax(score) / (1 + {received}[j])",
    "where({dropped}, 0, softmax(score) / 0.75)",
    "softmax(score) - {f} * entmax({S})",
    "sparsemax(score) * where({C}, 1, 0.5)",
    "entmax(score, where={C}, alpha=1.1 + sigmoid({f}))",
    "entmax(score, alpha=1.2 + 0.5 * sigmoid({r})) * sigmoid({c})",
)
DIFFERENCES = (
    "sum(j, softmax(score) * v[j]) - {f} * sum(j, softmax({S}) * v[j])",
    "0.5 * (sum(j, softmax(score) * v[j]) + {r} * sum(j, tanh({S}) * v[j]) / N)",
)
OVER_QUERIES = (
    "softmax(score, over=i)",
    "softmax(score, over=i, sink={f})",
    "softmax(score, over=i) * sigmoid({c})",
    "{won} / max(sum(j, {won}), 0.001)",
    "softmax(score) * softmax(score, over=i)",
    "softmax(score, over=i) - {f} * softmax(score)",
    "entmax(score, over=i, alpha=1 + sigmoid({f}))",
)
ROW_SUMS = (
    "{raw} / (0.1 + sum(j, {raw}))",
    "{raw} / max(sum(j, {raw}), 0.01)",
    "{raw} / sum(j, {raw})",
    "{raw} * rsqrt(1 + sum(j, {raw}) ** 2)",
    "{raw} / (1 + sum(i, {raw}))",
)
POSITIVE = (
    "softplus({x})", "sigmoid({x})", "exp(-({x}) ** 2)", "1 / (1 + ({x}) ** 2)",
    "relu({x}) + 0.01", "dot(elu(q[i]) + 1, elu(k[j]) + 1)",
)  # fmt: skip
SHARES = ("[i] = sum(j, softmax(score), where={C})", "[i] = sum(j, softmax({S}) * {c})")
# what may be returned of any weight
READOUTS = (
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
BLOCK_READOUTS = (
    "[b, h, i, {part}] = amax(j, {dot}, where=j in {part})",
    "[b, h, i, {part}] = amin(j, {dot}, where=j in {part} and j % 3 != 1)",
    "[b, h, i, {part}] = logsumexp(j, {dot} / 8 + {c}, where=j in {part})",
    "[b, h, i, {part}] = sum(j, softmax({dot} / 8), where=j in {part})",
    "[b, h, i, {part}] = mean(j, tanh({dot}) * {r}, where=j in {part} and i != j)",
    "[b, h, {part}, d] = amax(j, k[j], where=j in {part})",
)
# of numbers of pairs, lot, between 0 and 1: P is one at a token that runs, U that token, O a
# comparison with the pair's own
RUNNING = (
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
TOLD = (
    "softmax(score)", "softmax(score, over=i)", "softmax(score, sink={sink})", "sigmoid({S}) / N",
    "softmax(score, where={C})", "tanh({S}) / (1 + sum(j, sigmoid(score)))", "entmax(score) * {f}",
    "where({dropped}, 0, softmax(score))", "{pair}[i, j] - mean(j, {pair}[i, j])",
)  # fmt: skip
TURNED = (
    "told[j, i]",
    "0.5 * (told[i, j] + told[j, i])",
    "told[i, j] * told[j, i]",
    "told[j, i] * sigmoid({c})",
    "softmax(score + told[j, i])",
    "softmax(score) - {f} * told[j, i]",
    "told[j, i] / (1 + sum(i, told[i, j] ** 2))",
)
# of a number that a column or a row leaves, stat or received, read at the token of the other side
OTHER_SIDE = (
    "sigmoid(score - max({stat}[j], -3))",
    "softmax(score - 0.1 * max({stat}[j], -3))",
    "softmax(score) * tanh({received}[i])",
    "softmax(score) / (1 + {received}[i] * {received}[j])",
    "tanh(score) * {received}[i] / N",
)
STATISTICS = ("logsumexp(j, score)", "logsumexp(j, {S}, where={C})", "mean(j, {S})")
# of numbers of pairs, lot, at the tokens of the block of the pair's own: P, U, O as above
OF_A_BLOCK = (
    "sigmoid(score - max(logsumexp({U}, {P}, where={O}), -3))",
    "softmax(score - stopgrad(max(amax({U}, {P}, where={O}), -3)))",
    "sigmoid(score + min(amin({U}, {P}, where={O}), 3)) / N",
    "tanh(score - mean({U}, {P}, where={O})) / N",
    "softmax(score) * tanh(sum({U}, {P} * {r}, where={O}))",
    "exp(min(lot[i, j] - logsumexp({U}, {P}, where={O}), 0)) * sigmoid({S})",
)
# of numbers of pairs, lot, of every head
OVER_HEADS = (
    "softmax(score, over=h) / N",
    "softmax(score) * softmax({S}, over=h)",
    "softmax(lot, over=h, where={C}) * sigmoid({c})",
    "softmax(lot, over=h, sink={alone}) * tanh(score)",
    "softmax(4 * softmax(score), over=h)",
    "softmax(score - logsumexp(g, lot[i, j, h=g]))",
    "sigmoid(score - amax(g, lot[i, j, h=g])) / N",
    "sigmoid(score + amin(g, lot[i, j, h=g], where=g <= h)) / N",
    "softmax(score) - 0.1 * tanh(mean(g, lot[i, j, h=g]))",
    "sigmoid(sum(g, lot[i, j, h=g]) - lot[i, j]) / N",
    "sparsemax(lot, over=h) / N",
)
ENTROPY = "[b, h, i] = logsumexp(j, score) - sum(j, weight * score)"
