"""`python -m dtufc_research.paper.generated_images`: rate against the quality of generated images, to docs/results.

It compares the images of original and of decoded latents, of names that no codec was fitted on: PSNR and SSIM by image,
and the Frechet distance between both sets of images in DINOv2's features.
"""

import argparse
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

import matplotlib as mpl
import numpy as np
import torch
from matplotlib import pyplot as plt
from PIL import Image
from rich.progress import track
from torch.nn import functional as F
from transformers import Dinov2Model

import dtufc
from dtufc.coding.arrays import Array
from dtufc.coding.feature_codec import FeatureCodec
from dtufc.models.profile import Profile, load_profile
from dtufc.models.zoo import weights_folder
from dtufc_research.data.extract import Sd3, fitting_set
from dtufc_research.data.sources import prompts
from dtufc_research.evaluation.samples import ssim
from dtufc_research.paper.__main__ import RESULTS
from dtufc_research.paper.measure import ALL_QUALITIES, every_setting
from dtufc_research.training.fit_profiles import FITS

PROFILE: Final = "sd3-emoji"
NUM_PROMPTS: Final = 64
SEEDS: Final = (0, 1)
_WHOLE_GRID: Final = "klt, DCT over the whole grid"
_NUM_SHOWN: Final = 8  # images in a row of the sample grid
_INPUT_SIDE: Final = 140  # pixels of DINOv2's input: ten patches
_GOAL: Final = (30.0, 1.0)  # dB, BPFP


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One codec at one setting of its own; means over the images."""

    codec: str
    setting: float | None
    bpfp: float
    bytes: float
    psnr: float
    ssim: float
    distance: float


def main() -> int:
    argparse.ArgumentParser(description=__doc__).parse_args()
    torch.set_num_threads(1)
    profile = load_profile(PROFILE)
    model, codec = Sd3.load(profile), FeatureCodec(profile)
    inputs = [(prompt, seed) for seed in SEEDS for prompt in prompts("test")[:NUM_PROMPTS]]
    latents = [model.features(*one).numpy() for one in track(inputs, description="generating")]
    originals, embed = _images(model, latents), _embedding()
    embedded = embed(originals)
    between_seeds = frechet_distance(*np.split(embedded, len(SEEDS)))
    settings = [(name, codec, name, setting) for name, setting in every_setting(codec)]
    whole_grid = _on_whole_grid(profile)
    settings += [(_WHOLE_GRID, whole_grid, "klt", setting) for setting in ALL_QUALITIES]
    rows, grid = [], [originals[:_NUM_SHOWN]]
    for label, coder, name, setting in track(settings, description="coding"):
        frames = [coder.encoder(latent, codec=name)(setting or 0.0) for latent in latents]
        decoded = _images(model, [coder.decode(frame) for frame in frames])
        distance = frechet_distance(embedded, embed(decoded))
        rows.append(_row(label, setting, latents[0].size, frames, originals, decoded, distance))
        if label == codec.default_codec:
            grid.append(decoded[:_NUM_SHOWN])
    (RESULTS / "generated-images.md").write_text(page(rows, between_seeds), encoding="utf-8")
    _plot(rows, RESULTS / "generated-images.png")
    whole = np.concatenate([np.concatenate(list(line), axis=1) for line in grid])
    Image.fromarray(whole).save(RESULTS / "generated-images-klt.png")
    return 0


def _row(
    label: str,
    setting: float | None,
    num_values: int,
    frames: Sequence[bytes],
    originals: Array,
    decoded: Array,
    distance: float,
) -> Row:
    size = float(np.mean([len(frame) for frame in frames]))
    return Row(
        codec=label,
        setting=setting,
        bpfp=8 * size / num_values,
        bytes=size,
        psnr=float(np.mean([_psnr(a, b) for a, b in zip(originals, decoded, strict=True)])),
        ssim=float(np.mean([ssim(a, b) for a, b in zip(originals, decoded, strict=True)])),
        distance=distance,
    )


def _on_whole_grid(profile: Profile) -> FeatureCodec:
    """The same features fitted without patches, for comparison."""
    spec = profile.spec
    unpatched = replace(profile, spec=spec.model_copy(update={"layout": spec.layout.model_copy(update={"patch": 1})}))
    samples, gradients = fitting_set(unpatched, next(count for name, _, count in FITS if name == spec.name))
    return dtufc.fit(samples, gradients=gradients, profile=unpatched)


def _images(model: Sd3, latents: Sequence[Array]) -> Array:
    """uint8[N, H, W, 3]"""
    return np.stack([model.head.image(torch.from_numpy(latent)) for latent in latents])


def _psnr(a: Array, b: Array) -> float:
    """dB, of 8-bit colours; at most that of a rounding error, so that it is finite for equal images."""
    error = np.mean((a.astype(np.float64) - b) ** 2)
    return float(10 * np.log10(255**2 / max(error, 1 / 12)))


def frechet_distance(a: Array, b: Array) -> float:
    """Between the normal distributions with the means and covariances of two sets of features [N, d]."""
    mean = np.sum((a.mean(axis=0) - b.mean(axis=0)) ** 2)
    first, second = np.cov(a, rowvar=False), np.cov(b, rowvar=False)
    eigenvalues = np.linalg.eigvals(first @ second).real  # those of a product of covariances are not negative
    spread = np.trace(first) + np.trace(second) - 2 * np.sqrt(np.maximum(eigenvalues, 0)).sum()
    return float(max(mean + spread, 0.0))  # negative only by rounding


def _embedding() -> Callable[[Array], Array]:
    """Images uint8[N, H, W, 3] -> the class token of DINOv2 ViT-S/14, [N, 384]."""
    model = Dinov2Model.from_pretrained(weights_folder(load_profile("dinov2-small").spec)).eval()
    mean, std = (torch.tensor(x)[None, :, None, None] for x in ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)))

    @torch.inference_mode()
    def embed(images: Array) -> Array:
        colours = torch.from_numpy(images).permute(0, 3, 1, 2) / 255
        large = F.interpolate(colours, size=(_INPUT_SIDE, _INPUT_SIDE), mode="bicubic", antialias=True)
        tokens = [model(batch).pooler_output for batch in ((large - mean) / std).split(32)]
        return torch.cat(tokens).double().numpy()

    return embed


def page(rows: Sequence[Row], between_seeds: float) -> str:
    """The page of docs/results."""
    goal_db, goal_bpfp = _GOAL
    good = sorted((row for row in rows if row.psnr >= goal_db), key=lambda row: row.bpfp)
    best = good[0] if good else max(rows, key=lambda row: row.psnr)
    verdict = "**yes**" if best.psnr >= goal_db and best.bpfp <= goal_bpfp else "**no**"
    lines = [
        "# Rate against quality of generated images",
        "",
        f"`python -m dtufc_research.paper.generated_images`. {len(SEEDS) * NUM_PROMPTS} images of `{PROFILE}`: "
        f"{NUM_PROMPTS} names of emoji that no codec was fitted on, two seeds each. The reference is the image of the "
        "original latent. BPFP is of whole frames. FD-DINOv2 is the Frechet distance between both sets of images in "
        f"the class token of DINOv2 ViT-S/14 at {_INPUT_SIDE} pixels; between the images of the two seeds it is "
        f"{between_seeds:.0f}.",
        "",
        f"PSNR of {goal_db:g} dB at {goal_bpfp:g} BPFP or less: {verdict}, {best.psnr:.1f} dB at {best.bpfp:.2f} BPFP"
        f" ({best.codec}).",
        "",
        "| codec | setting | bytes | BPFP | PSNR | SSIM | FD-DINOv2 |",
        "|---|---:|---:|---:|---:|---:|---:|",
    ]
    for row in rows:
        setting = "" if row.setting is None else f"{row.setting:g}"
        lines.append(
            f"| {row.codec} | {setting} | {row.bytes:.0f} | {row.bpfp:.3f} | {row.psnr:.1f} | {row.ssim:.3f} "
            f"| {row.distance:.1f} |"
        )
    lines += ["", "![PSNR, SSIM and FD-DINOv2 against rate](generated-images.png)", ""]
    qualities = ", ".join(f"{quality:g}" for quality in ALL_QUALITIES)
    lines += [
        "Originals, and below them decoded from `klt` at quality " + qualities + ":",
        "",
        "![Generated images](generated-images-klt.png)",
        "",
    ]
    return "\n".join(lines)


def _plot(rows: Sequence[Row], path: Path) -> None:
    mpl.use("Agg")
    figure, axes = plt.subplots(1, 3, figsize=(13, 4), layout="constrained")
    for axis, (title, value) in zip(
        axes,
        (
            ("PSNR, dB", lambda row: row.psnr),
            ("SSIM", lambda row: row.ssim),
            ("FD-DINOv2", lambda row: row.distance),
        ),
        strict=True,
    ):
        for name in dict.fromkeys(row.codec for row in rows):
            curve = [row for row in rows if row.codec == name]
            axis.plot([row.bpfp for row in curve], [value(row) for row in curve], "o-", label=name, markersize=4)
        axis.set(xscale="log", xlabel="BPFP, whole frames", title=title)
        axis.grid(alpha=0.3)
    axes[2].legend(fontsize=8)
    figure.savefig(path, dpi=110)
    plt.close(figure)


if __name__ == "__main__":
    sys.exit(main())
