"""Files that people have -> inputs of a model: texts, questions, images with labels or masks, prompts.

A line of a .jsonl file is one input, by its fields:

    {"text": ...}                             {"question": ..., "choices": [...], "right": 0 or "A"}
    {"image": path, "label": 3 or "cat"}      {"image": path, "mask": path of a PNG}         {"prompt": ...}

Paths are relative to the file. A text file is one text; an image file one image without a label.
"""

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from string import ascii_uppercase
from typing import Any, ClassVar, Final

from PIL import Image

from dtufc.errors import InputError
from dtufc.files import read_file
from dtufc.models.images import open_image

TEXTS: Final = (".txt", ".md", ".rst")
IMAGES: Final = (".jpg", ".jpeg", ".png", ".webp")
LINES: Final = ".jsonl"
_MAX_BYTES: Final = 64 << 20  # of one file
_MAX_PIXELS: Final = 1 << 27


@dataclass(frozen=True, slots=True, kw_only=True)
class Text:
    kind: ClassVar = "text"
    text: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Prompt:
    """What an image is generated of."""

    kind: ClassVar = "prompt"
    prompt: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Question:
    """A question with its choices; `right` counts from 0."""

    kind: ClassVar = "question"
    text: str
    choices: tuple[str, ...]
    right: int


@dataclass(frozen=True, slots=True, kw_only=True)
class ImageFile:
    """An image file, and what it shows: a class by number or name, a file of a label map, or nothing known."""

    kind: ClassVar = "image"
    path: Path
    label: int | str | None = None
    mask: Path | None = None

    @property
    def is_told(self) -> bool:
        """Whether it is known what it shows."""
        return self.label is not None or self.mask is not None

    def read(self) -> bytes:
        """Raises InputError where there is no such file."""
        return read_file(self.path, _MAX_BYTES)

    def open(self) -> Image.Image:
        """Raises InputError for what is no image."""
        try:
            return open_image(self.read(), _MAX_BYTES, _MAX_PIXELS)
        except InputError as error:
            problem, remedy = error.context["problem"], "Give a whole JPEG, PNG or WebP file"
            raise InputError(field=str(self.path), problem=problem, remedy=remedy) from error


Item = Text | Prompt | Question | ImageFile


def read_inputs(paths: Sequence[Path]) -> list[list[Item]]:
    """The inputs of files and folders, by source: one list a file. Folders are searched, also below.

    Raises:
        InputError: a path that is not there, a file of another kind, a line that says no input, or nothing at all.
    """
    read = [list(_items(path)) for path in {path.resolve(): path for path in _files(paths)}.values()]
    labelled = [one for items in read for one in items if isinstance(one, ImageFile) and one.is_told]
    told = {path.resolve() for one in labelled for path in (one.path, one.mask) if path}
    found = [items for items in read if items and not _is_told_elsewhere(items, told)]
    if not found:
        kinds = ", ".join((*TEXTS, *IMAGES, LINES))
        problem = f"no input in {', '.join(map(str, paths)) or 'nothing'}"
        raise InputError(field="inputs", problem=problem, remedy=f"Give files, or folders of files: {kinds}")
    return found


def choice_prompt(question: str, choices: Sequence[str]) -> str:
    """A question with its choices by letter, for a turn of the user: the next token is the letter."""
    lettered = [f"{letter}. {text}" for letter, text in zip(ascii_uppercase, choices, strict=False)]
    return "\n".join([question, *lettered, "Answer with the letter alone."])


def _is_told_elsewhere(items: Sequence[Item], told: set[Path]) -> bool:
    """Whether these are an image file alone of which a .jsonl file says more, as in a folder of both."""
    return all(isinstance(one, ImageFile) and not one.is_told and one.path.resolve() in told for one in items)


def _files(paths: Sequence[Path]) -> Iterator[Path]:
    for path in paths:
        if path.is_dir():
            yield from sorted(one for one in path.rglob("*") if one.suffix.lower() in (*TEXTS, *IMAGES, LINES))
        elif not path.is_file():
            raise InputError(field="inputs", problem=f"there is no {path}", remedy="Name files or folders")
        else:
            yield path


def _items(path: Path) -> Iterator[Item]:
    suffix = path.suffix.lower()
    if suffix in TEXTS:
        yield Text(text=_text(path))
    elif suffix in IMAGES:
        yield ImageFile(path=path)
    elif suffix == LINES:
        for number, line in enumerate(_text(path).split("\n"), start=1):
            if line.strip():
                yield _item(line, path, number)
    else:
        remedy = f"Give {', '.join((*TEXTS, *IMAGES, LINES))}"
        raise InputError(field="inputs", problem=f"{path} is of no kind that is known", remedy=remedy)


def _item(line: str, path: Path, number: int) -> Item:
    try:
        entry = json.loads(line)
        json.dumps(entry, ensure_ascii=False).encode()  # half of a surrogate pair, from an escape, is no text
        item = _parsed(entry, path.parent) if isinstance(entry, dict) else None
    except (ValueError, KeyError, TypeError, AttributeError, OverflowError, RecursionError) as error:
        raise _bad_line(path, number, f"{type(error).__name__}: {error}") from error
    if item is None:
        raise _bad_line(path, number, "no input that is known")
    return item


def _parsed(entry: dict[str, Any], folder: Path) -> Item | None:
    match entry:
        case {"question": str(text), "choices": list(choices)}:
            letters = ascii_uppercase[: len(choices)]
            right = _place(entry["right"], letters)
            if not 2 <= len(choices) == len(letters) or right is None:
                return None
            return Question(text=text, choices=tuple(map(str, choices)), right=right)
        case {"text": str(text)}:
            return Text(text=text)
        case {"prompt": str(text)}:
            return Prompt(prompt=text)
        case {"image": str(image)}:
            label, mask = entry.get("label"), entry.get("mask")
            if not isinstance(label, int | str | None) or isinstance(label, bool) or "\0" in f"{image}{mask}":
                return None
            return ImageFile(path=folder / image, label=label, mask=None if mask is None else folder / mask)
    return None


def _place(right: Any, letters: str) -> int | None:
    """The place that a number from 0 or a letter names."""
    if isinstance(right, str):
        return letters.index(right) if len(right) == 1 and right in letters else None
    return right if isinstance(right, int) and not isinstance(right, bool) and 0 <= right < len(letters) else None


def _bad_line(path: Path, number: int, problem: str) -> InputError:
    remedy = 'Write an object with "text", "question" and "choices" and "right", "image", or "prompt"'
    return InputError(field=f"{path}:{number}", problem=problem, remedy=remedy)


def _text(path: Path) -> str:
    try:
        return read_file(path, _MAX_BYTES).decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise InputError(field=str(path), problem="is not UTF-8", remedy="Save it as UTF-8") from error
