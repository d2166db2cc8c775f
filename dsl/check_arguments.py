"""The arguments of a call: how many, and which options."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from attnspec.dsl import syntax as s
from attnspec.dsl.check_report import did_you_mean

if TYPE_CHECKING:
    from attnspec.dsl.check_expr import Elaborator


def count(el: Elaborator, node: s.Call, least: int, most: int, *keywords: str) -> None:
    """Refuse a wrong number of arguments and unknown keywords."""
    if not least <= len(node.args) <= most:
        number = str(least) if least == most else f"at least {least}"
        raise el.report.error(
            "A106",
            f"`{node.func}` takes {number} argument{'s' if number != '1' else ''}",
            node.span,
            f"{len(node.args)} given",
            f"write `{node.func}({', '.join('xyz'[:least])})`"
            if least < 4
            else "give the arguments that are missing",
        )
    for keyword in node.keywords:
        if keyword.name not in keywords:
            raise el.report.error(
                "A106",
                f"`{node.func}` has no option `{keyword.name}`",
                keyword.span,
                "unknown option",
                did_you_mean(
                    keyword.name,
                    keywords,
                    f"it takes {', '.join(f'`{k}=`' for k in keywords) or 'no options'}",
                ),
            )


def options(node: s.Call) -> Mapping[str, s.Expr]:
    """The keywords of a call by name."""
    return {keyword.name: keyword.value for keyword in node.keywords}
