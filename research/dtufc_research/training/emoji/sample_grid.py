"""`python -m dtufc_research.training.emoji.sheet`: draws 64 prompts with the shipped checkpoint, and writes docs/emoji.png.

The upper half are names that it was trained on, the lower half compositions that no training picture has.
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
from dtufc_research.training.emoji.pictures import SEEN, UNSEEN

DOCS: Final = Path(__file__).parents[4] / "docs"
_ACROSS = 16
_SHOWN = 96  # pixels of a picture
_CAPTION = 40  # pixels below it


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seed", type=int, default=0)
    seed = parser.parse_args().seed
    torch.set_num_threads(1)
    model = Sd3.load(load_profile("sd3-emoji"))
    prompts = [*SEEN, *UNSEEN]
    rows = -(-len(prompts) // _ACROSS)
    sheet = Image.new("RGB", (_ACROSS * _SHOWN, rows * (_SHOWN + _CAPTION)), "white")
    pen, font = ImageDraw.Draw(sheet), ImageFont.load_default(10)
    for index, prompt in enumerate(track(prompts, description="drawing")):
        picture = Image.fromarray(model.head.picture(model.features(prompt, seed)))
        left, top = index % _ACROSS * _SHOWN, index // _ACROSS * (_SHOWN + _CAPTION)
        sheet.paste(picture.resize((_SHOWN, _SHOWN), Image.Resampling.LANCZOS), (left, top))
        pen.multiline_text((left + 2, top + _SHOWN + 1), "\n".join(wrap(prompt, 17)), "black", font)
    sheet.quantize(256).save(DOCS / "emoji.png", optimize=True)


if __name__ == "__main__":
    main()
