"""Profiles and their weights: models, fetch, prove."""

import json
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Column, Table

from dtufc.cli.options import Json, Split
from dtufc.cli.output import errors, show, warn
from dtufc.errors import InputError
from dtufc.models import plugins
from dtufc.models.plugins import prove_cut
from dtufc.models.profile import Profile, default_profiles, load_profile, shipped_profiles
from dtufc.models.zoo import is_fetched, weights_folder

app = typer.Typer()
_console = Console()


@app.command()
def models(as_json: Json = False) -> None:
    """Lists the profiles that come with the package, and the families and tasks that are installed."""
    rows: list[dict[str, Any]] = []
    for name in shipped_profiles():
        profile = load_profile(name)
        rows.append(
            {
                "profile": name,
                "family": profile.spec.family,
                "tasks": list(profile.spec.tasks),
                "split": profile.split,
                "fitted_splits": sorted(profile.spec.calibrations),
                "fetched": _is_fetched(profile),
                "digest": profile.digest.hex(),
            }
        )
    if as_json:
        print(json.dumps(rows))
        return
    table = Table(Column("profile", no_wrap=True), "family", "tasks", "split", "fitted at", "weights", "digest")
    for row in rows:
        fetched = "here" if row["fetched"] else "not fetched yet"
        fitted = ", ".join(map(str, row["fitted_splits"])) or "none"
        cells = (row["family"], ", ".join(row["tasks"]), str(row["split"]), fitted, fetched, row["digest"][:8])
        table.add_row(row["profile"], *cells)
    _console.print(table)
    for group, what in ((plugins.BACKBONES, "families"), (plugins.EDGE_TASKS, "tasks")):
        print(f"{what}: {', '.join(plugins.names(group))}")
    print("decoder is any language model of transformers whose layers are one list; vit: transformers for images;")
    print("cnn: ResNet and EfficientNet; sd3: Stable Diffusion 3. A service serves no cut that differs from the whole.")


def _is_fetched(profile: Profile) -> bool:
    try:
        return is_fetched(profile.spec)
    except InputError as error:  # it is there, and this user may not read it
        warn(str(error))
        return False


@app.command()
def fetch(
    profiles: Annotated[list[str] | None, typer.Argument(help="Default: those that are served by default.")] = None,
    as_json: Json = False,
) -> None:
    """Fetches the weights of profiles, and proves their cuts: services then start without a network, and soon.

    What is there already is read and compared with its SHA-256; what is damaged is fetched or converted anew.
    """
    with errors():
        folders: dict[str, str] = {}
        for loaded in map(load_profile, profiles or default_profiles()):
            folders[loaded.name] = str(weights_folder(loaded.spec, is_read=True))
            prove_cut(loaded)
        show(folders, as_json)


@app.command()
def prove(
    profile: Annotated[str, typer.Argument(help="A name that `dtufc models` lists, or a folder with a profile.yaml.")],
    split: Split = None,
    as_json: Json = False,
) -> None:
    """Compares a model cut in two with the whole, as a service does before it serves the model; of any size."""
    with errors():
        loaded = load_profile(profile, split)
        proof = "split equals whole" if prove_cut(loaded) else "nothing to prove: modules that run one after the other"
        show({"profile": loaded.name, "split": loaded.split, "proof": proof}, as_json)
