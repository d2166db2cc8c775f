"""The command line."""

from __future__ import annotations

from typing import Any

import click

from attnspec import __version__
from attnspec.codegen.commands.bench import bench
from attnspec.codegen.commands.build import build
from attnspec.codegen.commands.check import check
from attnspec.codegen.commands.explain import explain
from attnspec.codegen.commands.listing import listing
from attnspec.codegen.commands.new import new
from attnspec.codegen.commands.plot import plot
from attnspec.codegen.commands.report import print_error
from attnspec.codegen.commands.tune import tune
from attnspec.codegen.commands.verify import verify
from attnspec.dsl.diagnostics import AttnError

_NEEDS = {"torch": "torch", "triton": "torch", "hypothesis": "verify", "matplotlib": "plot"}


class _Attnspec(click.Group):
    """Turns an error of the user's making into its diagnostics and exit status 1."""

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except AttnError as error:
            print_error(error, err=True)
        except ModuleNotFoundError as error:
            if error.name not in _NEEDS:
                raise
            extra = _NEEDS[error.name]
            click.echo(f"error: this needs {error.name}: pip install 'attnspec[{extra}]'", err=True)
        raise click.exceptions.Exit(1)


@click.group(cls=_Attnspec, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="attnspec")
def main() -> None:
    """From an equation for attention to a fast, correct, differentiable GPU kernel.

    A SPEC is the path of a .attn file or the name of a library spec.
    """


for _command in (listing, check, explain, build, verify, bench, tune, plot, new):
    main.add_command(_command)


if __name__ == "__main__":
    main()
