"""Emoji as images with captions, and compositions of them: other colours, other backgrounds, two side by side.

    emoji package --names--> captions       font --glyphs--> 64 x 64 images on white

The compositions teach the meaning of colour names. Those in HELD_OUT are not in the training set: images that are
generated from them show whether the model generalizes.
"""

import re
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Final

import emoji
import numpy as np
from PIL import Image, ImageDraw, ImageFont
from skimage.color import hsv2rgb, rgb2hsv

from dtufc.coding.arrays import Array
from dtufc.errors import InputError

SIDE: Final = 64
FONT: Final = Path("/usr/share/fonts/truetype/noto/NotoColorEmoji.ttf")  # where Debian's package puts it
COLOURS: Final = {
    "red": (221, 46, 68),
    "orange": (244, 144, 12),
    "yellow": (253, 203, 88),
    "green": (120, 177, 89),
    "blue": (60, 130, 220),
    "purple": (140, 90, 200),
    "pink": (244, 140, 190),
    "brown": (140, 90, 50),
    "black": (45, 45, 50),
    "white": (240, 240, 240),
}
TRAINED: Final = (
    *("red apple", "green apple", "banana", "strawberry", "pizza", "hamburger", "grinning cat", "dog face"),
    *("panda", "penguin", "octopus", "butterfly", "sunflower", "rose", "cactus", "christmas tree"),
    *("blue heart", "red heart", "flag", "flag of japan", "flag of germany", "rocket", "airplane", "automobile"),
    *("bicycle", "house", "snowman", "sun with face", "crescent moon", "guitar", "crown", "soccer ball"),
)
HELD_OUT: Final = (
    *("blue apple", "purple banana", "pink strawberry", "blue lemon", "green cat face", "blue fox", "pink frog"),
    *("purple crab", "yellow octopus", "red guitar", "green rose", "blue sunflower", "pink crown", "red duck"),
    *("rocket on a black background", "pizza on a blue background", "panda on a pink background"),
    *("crown on a purple background", "red heart on a yellow background", "flag of japan on a green background"),
    *("snowman on a red background", "soccer ball on an orange background", "apple and banana", "rocket and pizza"),
    *("red heart and blue heart", "crown and guitar", "penguin and octopus", "sunflower and rose"),
    *("dog face and cat face", "hamburger and pizza", "airplane and rocket", "house and automobile"),
)
_GLYPH_SIZE = 109  # the only one that the font has
_GLYPH = (136, 128)
_PEOPLE: Final = frozenset({"man", "men", "woman", "women", "person", "people", "family", "boy", "girl", "baby"})
_SKIN_TONE = re.compile("[\U0001f3fb-\U0001f3ff]")
_REGION = re.compile("[\U0001f1e6-\U0001f1ff]")
_COLOURFUL: Final = 0.35  # saturation from which a pixel has a hue
_SAME_HUE: Final = 0.08  # distance on the circle of hues within which two are one colour


@dataclass(frozen=True, kw_only=True)
class Emoji:
    """One emoji.

    Attributes:
        names: its names, the Unicode name first.
        image: uint8[64, 64, 4], RGBA.
        weight: its relative frequency in training; the variants of one person share one weight.
        is_person: people and their hands keep their colours.
    """

    names: tuple[str, ...]
    image: Array
    weight: float
    is_flag: bool
    is_person: bool

    @cached_property
    def hue(self) -> float | None:
        """The hue of most of its colourful pixels, from 0 to 1; None if it has no such colour."""
        hsv = rgb2hsv(self.image[..., :3])[self.image[..., 3] > 128]
        colourful = hsv[(hsv[:, 1] > _COLOURFUL) & (hsv[:, 2] > 0.3)]
        if len(colourful) < 0.3 * len(hsv) or not len(hsv):
            return None
        counts, edges = np.histogram(colourful[:, 0], bins=24, range=(0, 1))
        hue = float(edges[counts.argmax()] + edges[1] / 2)
        share = (_hue_distance(colourful[:, 0], hue) < _SAME_HUE).mean()
        return hue if share > 0.5 else None


def _hue_distance(hues: Array, hue: float) -> Array:
    return np.abs((hues - hue + 0.5) % 1 - 0.5)


def read_emoji(font: Path = FONT) -> list[Emoji]:
    """Every emoji that is in the font and in the package `emoji`.

    Raises InputError if the font is missing.
    """
    if not font.is_file():
        remedy = "Install it (Debian: apt install fonts-noto-color-emoji) or give its path"
        raise InputError(field="font", problem=f"no {font}", remedy=remedy)
    face = ImageFont.truetype(str(font), _GLYPH_SIZE, layout_engine=ImageFont.Layout.RAQM)
    entries = {
        text: entry
        for text, entry in emoji.EMOJI_DATA.items()
        if entry["status"] == emoji.STATUS["fully_qualified"] and round(face.getlength(text)) == _GLYPH[0]
    }
    variants = Counter(_SKIN_TONE.sub("", text) for text in entries)
    return [_read(face, text, entry, variants[_SKIN_TONE.sub("", text)]) for text, entry in entries.items()]


def _read(font: ImageFont.FreeTypeFont, text: str, entry: dict[str, object], num_variants: int) -> Emoji:
    names = tuple(_names(text, entry))
    return Emoji(
        names=names,
        image=_render(font, text),
        weight=0.5 / (num_variants - 1) if _SKIN_TONE.search(text) else 1.0,
        is_flag=_REGION.match(text) is not None,
        is_person=num_variants > 1 or not _PEOPLE.isdisjoint(names[0].split()),
    )


def _names(text: str, entry: dict[str, object]) -> Iterator[str]:
    """The Unicode name and its aliases, in words."""
    found = [entry["en"], *entry.get("alias", [])]  # type: ignore[misc]
    words = [re.sub(r"[^\w.&]+", " ", str(name).strip(":").replace("_", " ")).strip().lower() for name in found]
    if _REGION.match(text):
        yield from (f"flag of {words[0]}", f"{words[0]} flag", "flag")
    else:
        yield from dict.fromkeys([words[0], *(alias for alias in words[1:] if len(alias) > 2)])


def _render(font: ImageFont.FreeTypeFont, text: str) -> Array:
    glyph = Image.new("RGBA", (_GLYPH[0], _GLYPH[0]))
    ImageDraw.Draw(glyph).text((0, (_GLYPH[0] - _GLYPH[1]) // 2), text, font=font, embedded_color=True)
    return np.asarray(glyph.resize((SIDE, SIDE), Image.Resampling.LANCZOS))


def on_background(image: Array, colour: Sequence[int] = (255, 255, 255)) -> Array:
    """uint8[h, w, 4] -> uint8[h, w, 3]."""
    opaque = image[..., 3:] / 255
    return np.rint(image[..., :3] * opaque + np.array(colour) * (1 - opaque)).astype(np.uint8)


def recoloured(item: Emoji, colour: str) -> Array:
    """The image with its main colour changed to the named one; shading is kept.

    Other colours are kept: an apple's leaf stays green.
    """
    assert item.hue is not None
    target = rgb2hsv(np.array(COLOURS[colour]) / 255)
    hsv = rgb2hsv(item.image[..., :3])
    main = (_hue_distance(hsv[..., 0], item.hue) < _SAME_HUE) & (hsv[..., 1] > 0.2)
    usual = np.median(hsv[main & (item.image[..., 3] > 128)], axis=0)
    hsv[main, 0] = target[0]
    hsv[main, 1:] = np.clip(hsv[main, 1:] * (target[1:] / usual[1:]), 0, 1)
    return np.dstack([np.rint(hsv2rgb(hsv) * 255).astype(np.uint8), item.image[..., 3]])


def side_by_side(left: Emoji, right: Emoji) -> Array:
    """Both at half the size, on a transparent background."""
    canvas = Image.new("RGBA", (SIDE, SIDE))
    for item, place in ((left, 0), (right, SIDE // 2)):
        small = Image.fromarray(item.image).resize((SIDE // 2, SIDE // 2), Image.Resampling.LANCZOS)
        canvas.paste(small, (place, SIDE // 4))
    return np.asarray(canvas)


@dataclass(frozen=True, slots=True)
class Captioned:
    """An image uint8[64, 64, 3], its captions, and its relative frequency in training."""

    image: Array
    captions: tuple[str, ...]
    weight: float


def originals(items: Sequence[Emoji]) -> list[Captioned]:
    """Every emoji on white."""
    return [Captioned(on_background(item.image), item.names, item.weight) for item in items]


def compositions(items: Sequence[Emoji], seed: int = 0) -> list[Captioned]:
    """Emoji in other colours, on other backgrounds and in pairs, without those in HELD_OUT."""
    made = [*_in_colours(items), *_on_backgrounds(items, seed, 5000), *_in_pairs(items, seed, 6000)]
    return [composition for composition in made if set(composition.captions).isdisjoint(HELD_OUT)]


def _in_colours(items: Sequence[Emoji]) -> Iterator[Captioned]:
    for item in items:
        if item.is_person or item.is_flag or item.hue is None:
            continue
        for colour in COLOURS:
            captions = tuple(dict.fromkeys(f"{colour} {_without_colour(name)}" for name in item.names))
            if set(captions).isdisjoint(item.names):
                yield Captioned(on_background(recoloured(item, colour)), captions, 1.0)


def _without_colour(name: str) -> str:
    """`red apple` -> `apple`."""
    return " ".join(word for word in name.split() if word not in COLOURS) or name


def _on_backgrounds(items: Sequence[Emoji], seed: int, count: int) -> Iterator[Captioned]:
    rng = np.random.default_rng([seed, 1])
    for _ in range(count):
        item, colour = items[rng.integers(len(items))], str(rng.choice(list(COLOURS)))
        article = "an" if colour == "orange" else "a"
        captions = tuple(f"{name} on {article} {colour} background" for name in item.names)
        yield Captioned(on_background(item.image, COLOURS[colour]), captions, item.weight)


def _in_pairs(items: Sequence[Emoji], seed: int, count: int) -> Iterator[Captioned]:
    rng = np.random.default_rng([seed, 2])
    simple = [item for item in items if item.weight == 1]
    for _ in range(count):
        left, right = (simple[index] for index in rng.choice(len(simple), 2, replace=False))
        captions = tuple(f"{first} and {second}" for first in left.names for second in right.names)
        yield Captioned(on_background(side_by_side(left, right)), captions, 1.0)
