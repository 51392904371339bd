"""`dtufc`: profiles, frames, and requests to an edge, from the shell. One module for each group of commands."""

from typing import Annotated

import typer

from dtufc.cli import coding, generation, own, profiles, requests
from dtufc.cli.environment import environment_report
from dtufc.cli.output import errors
from dtufc.serving.variables import check_variables

app = typer.Typer(no_args_is_help=True, pretty_exceptions_enable=False, add_completion=False)


def _show_version(wanted: bool) -> None:
    if wanted:
        typer.echo(environment_report())
        raise typer.Exit


@app.callback()
def main(
    version: Annotated[
        bool,
        typer.Option("--version", callback=_show_version, is_eager=True, help="Releases, platform, sizes of packages."),
    ] = False,
) -> None:
    """Split inference with small features: profiles, frames, and requests to an edge."""
    with errors():
        check_variables()


for group in (profiles, own, coding, generation, requests):
    app.add_typer(group.app)
