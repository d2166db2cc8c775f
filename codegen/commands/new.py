"""`attnspec new`: a spec to start from."""

from __future__ import annotations

import re
from pathlib import Path

import click

from attnspec.dsl.diagnostics import AttnError

STARTER = '''\
attention {name}
"""Causal attention with a distance penalty a head.

Say here what the mechanism does and where it is from."""
# cite "arXiv:0000.00000"

# What the call gives besides q, k and v. A param is learned; here its initial value, a head h.
param slope[h] = 2 ** (-8 * (h + 1) / H)

# Which pairs of a query i and a key j take part. Several mask lines are all required.
mask j <= i

# The score of a pair. D is the size of the query's channels.
score = dot(q[i], k[j]) / sqrt(D) - slope * (i - j)

# These are the defaults; write them to change them.
# weight = softmax(score)
# value  = v[j]
# output = sum(j, weight * value)
'''


@click.command()
@click.argument("name")
def new(name: str) -> None:
    """Write NAME.attn, a commented spec to start from."""
    if not re.fullmatch(r"[a-z][a-z0-9_]{0,62}", name):
        raise click.BadParameter(
            "a spec's name is lower case letters, digits and _", param_hint="NAME"
        )
    path = Path(f"{name}.attn")
    try:
        with path.open("x", encoding="utf-8") as file:
            file.write(STARTER.format(name=name))
    except FileExistsError:
        raise AttnError(f"{path} is there already") from None
    except OSError as error:
        raise AttnError(f"{path} cannot be written: {error.strerror}") from None
    click.echo(f"{path} written; now: attnspec check {path}")
