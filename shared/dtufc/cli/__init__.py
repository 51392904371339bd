"""`dtufc`: profiles, frames, and requests to an edge, from the shell. One module for each group of commands."""

import typer

from dtufc.cli import coding, own, profiles, requests

app = typer.Typer(
    help="Split inference with small features: profiles, frames, and requests to an edge.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    add_completion=False,
)
for group in (profiles, own, coding, requests):
    app.add_typer(group.app)
