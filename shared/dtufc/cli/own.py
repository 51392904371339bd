"""A model of one's own: init, fit, evaluate."""

import json
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from dtufc.cli.options import Json, Split
from dtufc.cli.output import errors, evaluation_facts, load_features, show, warn
from dtufc.cli.progress import Bars
from dtufc.coding.evaluation import QUALITIES
from dtufc.coding.feature_codec import FeatureCodec
from dtufc.errors import InputError
from dtufc.models.fitting import NUM_HELD_OUT, NUM_SAMPLES, fit, gradients_of
from dtufc.models.plugins import completed, prove_cut
from dtufc.models.profile import NO_MODEL, Profile, load_profile, shipped_profiles

app = typer.Typer()

Dtype = Annotated[
    Literal["auto", "float32", "bfloat16", "float16"],
    typer.Option(help="That the model runs in. auto: bfloat16 where its weights have 16 bits."),
]


@app.command()
def init(
    source: Annotated[str, typer.Argument(help="A folder of a model, a .gguf file, or org/name of the hub.")],
    output: Annotated[Path, typer.Option("--output", "-o", help="A new folder for the profile.")],
    split: Annotated[int | None, typer.Option(help="Layers on the edge. Default: half of them.")] = None,
    name: Annotated[str, typer.Option(help="Of the profile. Default: that of the folder.")] = "",
    as_json: Json = False,
) -> None:
    """Writes the profile of a model from its configuration, and proves that split equals whole."""
    with errors():
        from dtufc.models.drafting import draft_profile  # and with it transformers, which takes seconds

        if (output / "profile.yaml").exists():
            raise InputError(field="output", problem=f"{output} holds a profile", remedy="Name a new folder")
        chosen = name or output.resolve().name
        if {chosen, str(output)} & set(shipped_profiles()):
            problem = f"{chosen} is the name of a profile that comes with the package"
            raise InputError(field="name", problem=problem, remedy="Name another folder, or give --name")
        profile = draft_profile(source, split, name=chosen)
        proof = "split equals whole" if prove_cut(profile) else "nothing to prove: modules that run one after the other"
        profile.save(output)
        spec = profile.spec
        facts = {"profile": str(output), "family": spec.family, "split": profile.split, "tasks": ", ".join(spec.tasks)}
        show({**facts, "layout": profile.layout.describe(), "proof": proof}, as_json)
        if not as_json:
            print(f"next: dtufc fit {output} FILES   (texts or images, about twenty)")


@app.command(name="fit")
def fit_command(
    profile: Annotated[str, typer.Argument(help="A profile to fit, or with .npy files a new folder for one.")],
    inputs: Annotated[list[Path], typer.Argument(help="Texts, images, folders of them; or .npy files of features.")],
    output: Annotated[Path | None, typer.Option("--output", "-o", help="Default: the profile's own folder.")] = None,
    split: Split = None,
    samples: Annotated[int, typer.Option(min=1, help="To fit to, at most.")] = NUM_SAMPLES,
    held_out: Annotated[int, typer.Option(min=1, help="To evaluate on, at most.")] = NUM_HELD_OUT,
    gradients: Annotated[
        bool, typer.Option(help="Spend bits where the result depends on them: a backward pass for each sample.")
    ] = True,
    dtype: Dtype = "auto",
    layout: Annotated[
        str | None, typer.Option(help="Of .npy files of no model: llm, vit, latent or cnn. Default: llm.")
    ] = None,
    axes: Annotated[
        str | None, typer.Option(help="Of .npy files, instead of a layout: the axes by name, as NHWC or CT.")
    ] = None,
    prefix: Annotated[int, typer.Option(help="Of .npy files of layout vit: tokens before the grid.")] = 0,
    as_json: Json = False,
) -> None:
    """Fits the codecs of a profile to about twenty inputs, or to features, and shows what they cost on others."""
    with errors():
        is_features = {path.suffix == ".npy" for path in inputs}
        if len(is_features) == 2:
            raise InputError(field="inputs", problem=".npy files and others", remedy="Give one kind")
        base = _known(profile, split)
        folder = _output(profile, output)
        if is_features == {True}:
            wanted = {"layout": layout, "axes": axes, "prefix": prefix}
            _fit_to_features(base or profile, inputs, folder, wanted, gradients=gradients, dtype=dtype, as_json=as_json)
        elif base is None:
            raise InputError(field="profile", problem=f"there is no {profile}", remedy="Write it with `dtufc init`")
        else:
            sizes = samples, held_out
            _fit_to_inputs(base, inputs, folder, sizes, gradients=gradients, dtype=dtype, as_json=as_json)


@app.command(name="evaluate")
def evaluate_command(
    profile: Annotated[str, typer.Argument(help="A profile's folder, or a name that `dtufc models` lists.")],
    data: Annotated[list[Path], typer.Argument(help="Texts, images, .jsonl files, or folders of them.")],
    split: Split = None,
    codecs: Annotated[
        list[str] | None, typer.Option("--codec", help="May be repeated. Default: all with a rate.")
    ] = None,
    qualities: Annotated[
        list[float] | None, typer.Option("--quality", help="May be repeated. Default: 0.2, 0.4, 0.5, 0.6, 0.8.")
    ] = None,
    limit: Annotated[int | None, typer.Option(min=1, help="Of samples. Default: all.")] = None,
    dtype: Dtype = "auto",
    noise_floor: Annotated[
        bool, typer.Option("--noise-floor", help="A row of the model in float32, which is loaded beside it.")
    ] = False,
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="A folder for evaluation.json and a plot, evaluation.png.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Accuracy against bits, for each codec of a profile, on data of yours.

    A line of a .jsonl file is a question with choices and the right one, a text, or an image with a label or a mask.
    """
    with errors():
        from dtufc.models.from_inputs import evaluate_on_inputs
        from dtufc.models.inputs import read_inputs
        from dtufc.models.measuring import Pair

        if output:
            from dtufc.cli.plot import plot  # and with it matplotlib: whether it is there is told before the work

            output.mkdir(parents=True, exist_ok=True)

        base = load_profile(profile, split)
        sources = read_inputs(data)
        pair = Pair(base, dtype)
        codec = FeatureCodec(pair.profile)
        names = codecs or [name for name in codec.codecs if codec.has_rate(name)]
        with Bars() as bars:
            found = evaluate_on_inputs(
                pair,
                sources,
                bars,
                limit=limit,
                codecs=names,
                qualities=sorted(qualities or QUALITIES),
                noise_floor=noise_floor,
            )
        facts = {"profile": base.name, "split": base.split, "digest": base.digest.hex(), **evaluation_facts(found)}
        for warning in found.warnings:
            warn(warning)
        title = f"{base.name}, split {base.split}"
        print(json.dumps(facts) if as_json else f"{title}, {found.num_samples} samples:\n{found}")
        if output:
            (output / "evaluation.json").write_text(json.dumps(facts, indent=1) + "\n", encoding="utf-8")
            plot(found, title, output / "evaluation.png")


def _known(profile: str, split: int | None) -> Profile | None:
    is_there = profile in shipped_profiles() or (Path(profile) / "profile.yaml").is_file()
    return load_profile(profile, split) if is_there else None


def _output(profile: str, output: Path | None) -> Path:
    if output is None and profile in shipped_profiles():
        problem = f"{profile} comes with the package"
        raise InputError(field="output", problem=problem, remedy="Name a folder with -o")
    if profile.endswith(".npy"):
        remedy = "Name the profile first: dtufc fit PROFILE FILES"
        raise InputError(field="profile", problem=f"{profile} is a file of features", remedy=remedy)
    return output or Path(profile)


def _fit_to_features(
    base: Profile | str,
    paths: list[Path],
    folder: Path,
    wanted: dict[str, Any],
    *,
    gradients: bool,
    dtype: str,
    as_json: bool,
) -> None:
    folder.mkdir(parents=True, exist_ok=True)  # before the work, in case it cannot be
    samples = [load_features(path) for path in paths]
    slopes = None
    with Bars() as bars:
        if isinstance(base, str):
            codec = fit(samples, name=Path(base).resolve().name, **wanted, progress=bars.share("fit"))
        else:
            if base.spec.family != NO_MODEL:
                prove_cut(base)
                base = completed(base)
                if gradients:
                    chosen = "float32" if dtype == "auto" else dtype
                    slopes = list(bars.steps(gradients_of(base, samples, chosen), len(samples), "gradients"))
            codec = fit(samples, profile=base, gradients=slopes, progress=bars.share("fit"))
    codec.save(folder)
    _warn_of(codec)
    show(_facts(folder, codec), as_json)


def _fit_to_inputs(
    base: Profile,
    paths: list[Path],
    folder: Path,
    sizes: tuple[int, int],
    *,
    gradients: bool,
    dtype: str,
    as_json: bool,
) -> None:
    from dtufc.models.from_inputs import fit_to_inputs
    from dtufc.models.inputs import read_inputs
    from dtufc.models.measuring import Pair

    sources = read_inputs(paths)
    with Bars() as bars:
        fitted = fit_to_inputs(
            Pair(base, dtype), sources, folder, bars, num_samples=sizes[0], num_held_out=sizes[1], gradients=gradients
        )
    _warn_of(fitted.codec)
    facts = {"samples": fitted.num_samples, **_facts(folder, fitted.codec)}
    if as_json:
        print(json.dumps({**facts, "held_out": evaluation_facts(fitted.evaluation)}))
        return
    for warning in fitted.evaluation.warnings:
        warn(warning)
    show(facts, as_json=False)
    print(f"\non {fitted.evaluation.num_samples} samples that it was not fitted to:\n{fitted.evaluation}")


def _facts(folder: Path, codec: FeatureCodec) -> dict[str, Any]:
    facts = {"profile": str(folder), "codecs": codec.codecs, "digest": codec.profile.digest.hex()}
    return {**facts, **(asdict(codec.report) if codec.report else {})}


def _warn_of(codec: FeatureCodec) -> None:
    for warning in codec.report.warnings if codec.report else []:
        warn(warning)
