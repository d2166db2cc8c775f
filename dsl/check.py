"""The semantic checker: from the surface tree to a checked spec.

`check` elaborates every statement (`check_names`, `check_decl`, `check_definitions`, `check_expr`
and their helpers). On which side the tokens of a name over `n` lie and what kind a state holds
follow from how they are used, so a spec is elaborated until its own reads confirm what was
assumed. On the finished spec it then proves what a kernel relies on: indices and domains
(`check_domain`), the mask and `causal` (`check_mask`), the order of recurrences (`check_steps`),
and it warns of what can hardly be meant (`check_gradient`, `check_unused`).

Codes: A101 unknown name, A102 defined twice, A103 reserved word, A104 axis not bound, A105 type,
A106 arguments, A107 indices, A108 channel axes, A109 cycle, A110 too large, A111 declaration,
A112 a name of another sort, A113 state and step, A114 gate not applied, A115 mask not clear;
A201 index, A202 domain, A203 empty mask, A204 causal; W301 removed by softmax, W302 param without
gradient, W303 unused, W304 may leave its domain.
"""

from __future__ import annotations

from attnspec.dsl import syntax as s
from attnspec.dsl.ast import Spec
from attnspec.dsl.check_definitions import Guess, elaborate
from attnspec.dsl.check_domain import check_domain
from attnspec.dsl.check_gradient import check_gradients
from attnspec.dsl.check_mask import check_mask
from attnspec.dsl.check_names import collect
from attnspec.dsl.check_prover import Prover
from attnspec.dsl.check_report import Report
from attnspec.dsl.check_sides import next_guess
from attnspec.dsl.check_size import check_known_sizes, check_sizes
from attnspec.dsl.check_spec import assemble
from attnspec.dsl.check_steps import check_steps
from attnspec.dsl.check_unused import check_unused
from attnspec.dsl.check_usage import usage
from attnspec.dsl.diagnostics import AttnError, Diagnostic
from attnspec.dsl.span import Span

_ROUNDS = 5  # each changes the side or the kind of some name; specs settle after two or three


def check(file: s.File) -> tuple[Spec, tuple[Diagnostic, ...]]:
    """The checked spec and its warnings; AttnError with every error found."""
    named = Report()
    names = collect(file, named)
    graph = usage(names)
    guess = Guess()
    for _ in range(_ROUNDS):
        report = Report()
        for found in named.errors:
            report.add(found)
        parts = elaborate(names, graph, report, guess)
        spec = assemble(file, parts)
        following = next_guess(parts)
        if following == guess:
            break
        guess = following
    check_unused(names, graph, report)
    if spec is not None:
        _prove(spec, names.causal.span if names.causal else None, report)
    if spec is None or report.errors:
        raise _error(file, report.errors)
    return spec, report.warnings


def _prove(spec: Spec, claim: Span | None, report: Report) -> None:
    """The checks on a finished spec."""
    prover = Prover(spec)
    check_sizes(spec, report)
    check_known_sizes(spec, report)
    check_steps(spec, prover, report)
    if not report.errors:
        check_mask(spec, prover, claim, report)
        check_domain(spec, prover, report)
        check_gradients(spec, report)


def _error(file: s.File, errors: tuple[Diagnostic, ...]) -> AttnError:
    first = errors[0]
    message = f"{file.path}:{first.span.line}:{first.span.column}: {first.code}: {first.title}"
    if len(errors) > 1:
        message += f" (and {len(errors) - 1} more)"
    return AttnError(message, errors, text=file.text, path=file.path)
