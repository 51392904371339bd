"""`python -m dtufc_research.training.emoji.sample_grid`: generates 64 images, and writes them to docs/emoji.png.

The upper half are names that the shipped checkpoint was trained on, the lower half are held-out compositions.
"""

import argparse
from pathlib import Path
from textwrap import wrap
from typing import Final

import torch
from PIL import Image, ImageDraw, ImageFont
from rich.progress import track

from dtufc.models.profile import load_profile
from dtufc_research.data.extract import Sd3
from dtufc_research.training.emoji.images import HELD_OUT, TRAINED

DOCS: Final = Path(__file__).parents[4] / "docs"
_ACROSS = 16
_SIDE = 96  # pixels of an image
_CAPTION = 40  # pixels of the caption below it


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seed", type=int, default=0)
    seed = parser.parse_args().seed
    torch.set_num_threads(1)
    model = Sd3.load(load_profile("sd3-emoji"))
    prompts = [*TRAINED, *HELD_OUT]
    rows = -(-len(prompts) // _ACROSS)
    grid = Image.new("RGB", (_ACROSS * _SIDE, rows * (_SIDE + _CAPTION)), "white")
    pen, font = ImageDraw.Draw(grid), ImageFont.load_default(10)
    for index, prompt in enumerate(track(prompts, description="generating")):
        image = Image.fromarray(model.head.image(model.features(prompt, seed)))
        left, top = index % _ACROSS * _SIDE, index // _ACROSS * (_SIDE + _CAPTION)
        grid.paste(image.resize((_SIDE, _SIDE), Image.Resampling.LANCZOS), (left, top))
        pen.multiline_text((left + 2, top + _SIDE + 1), "\n".join(wrap(prompt, 17)), "black", font)
    grid.quantize(256).save(DOCS / "emoji.png", optimize=True)


if __name__ == "__main__":
    main()
