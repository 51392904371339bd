"""What an image file is taken for: what a viewer shows, or nothing."""

import io
import threading
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from dtufc.errors import InputError
from dtufc.models.image_colours import as_shown
from dtufc.models.images import open_image
from dtufc.models.inputs import ImageFile
from dtufc.models.preprocess import View, cropped
from dtufc_research.evaluation.fuzz_images import damaged_files, fuzz
from dtufc_research.evaluation.image_case import Case, blocks, saved
from dtufc_research.evaluation.image_files import MAX_BYTES, cases, outcome
from dtufc_research.evaluation.images_page import write_section

_CASES = cases()
_VIEW = View(side=32, resized=36, mean=(0.5, 0.5, 0.5), std=(0.5, 0.5, 0.5))


@pytest.mark.parametrize("case", _CASES, ids=[case.name for case in _CASES])
def test_a_file_is_taken_for_what_a_viewer_shows_or_rejected(case: Case) -> None:
    found = outcome(case)
    assert found.is_right, f"{case.holds}: {found.problem or found.difference}"


def test_damaged_files_end_in_an_image_or_in_a_line_that_says_why_not() -> None:
    found = fuzz(damaged_files(300, seed=7))
    assert not found.escaped
    assert found.taken > 0
    assert found.rejected > 0
    assert found.memory_bytes < 200 << 20


@pytest.mark.parametrize(
    "mode", ["1", "L", "P", "RGB", "RGBA", "RGBX", "CMYK", "YCbCr", "HSV", "LA", "PA", "La", "RGBa"]
)
def test_an_image_of_any_mode_keeps_its_white_and_its_black(mode: str) -> None:
    source = Image.new("RGB", (4, 2), "white")
    source.paste("black", (0, 0, 2, 2))
    between = "LA" if mode in ("La", "PA") else "RGBA" if mode == "RGBa" else "RGB"
    image = source.convert(between)
    image = image.convert("RGBA").convert("PA") if mode == "PA" else image.convert(mode)
    assert image.mode == mode
    shown = np.asarray(as_shown(image))
    assert shown.shape == (2, 4, 3)
    assert np.abs(shown - np.asarray(source).astype(int)).max() <= 2


@pytest.mark.parametrize("order", ["<u2", ">u2"])
def test_grey_of_sixteen_bits_in_either_order_is_not_white(order: str) -> None:
    levels = np.array([[0, 256, 32768, 65535]], order)
    image = Image.frombytes("I;16" if order == "<u2" else "I;16B", (4, 1), levels.tobytes())
    assert np.asarray(as_shown(image))[0, :, 0].tolist() == [0, 1, 128, 255]


@pytest.mark.parametrize("mode", ["I", "F"])
def test_samples_without_a_white_are_rejected(mode: str) -> None:
    with pytest.raises(InputError, match=f"samples of kind {mode}"):
        as_shown(Image.new(mode, (2, 2)))


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP"])
def test_the_bound_of_pixels_is_the_callers_alone(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100)
    data = saved(blocks(), kind)
    assert open_image(data, MAX_BYTES, 48 * 32).size == (48, 32)
    with pytest.raises(InputError, match=r"48 x 32 pixels\. Send 1 to 1535 pixels"):
        open_image(data, MAX_BYTES, 48 * 32 - 1)
    assert Image.MAX_IMAGE_PIXELS == 100


def test_a_file_in_a_folder_has_the_same_pixels_as_one_in_a_request(tmp_path: Path) -> None:
    for case in _CASES[:20]:
        path = tmp_path / case.name
        path.write_bytes(case.data)
        assert np.array_equal(
            np.asarray(ImageFile(path=path).open()), np.asarray(open_image(case.data, 1 << 20, 1 << 20))
        )


def test_a_transparent_image_is_cropped_over_white() -> None:
    assert torch.equal(cropped(Image.new("RGBA", (40, 40)), _VIEW), torch.ones(1, 3, 32, 32))


@pytest.mark.parametrize("size", [(1, 1), (65500, 1), (1, 65500), (7, 100_000)])
def test_an_image_of_any_aspect_is_cropped(size: tuple[int, int]) -> None:
    assert torch.equal(cropped(Image.new("RGB", size, "white"), _VIEW), torch.ones(1, 3, 32, 32))


def test_images_open_in_several_threads_at_a_time() -> None:
    data, sizes = saved(blocks(), "WEBP"), []
    threads = [threading.Thread(target=lambda: sizes.append(open_image(data, 1 << 20, 1 << 20).size)) for _ in range(8)]
    limit = Image.MAX_IMAGE_PIXELS
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sizes == [(48, 32)] * 8
    assert limit == Image.MAX_IMAGE_PIXELS


def test_an_opened_image_has_nothing_left_to_apply() -> None:
    file = io.BytesIO()
    Image.new("RGBA", (3, 3)).save(file, "PNG")
    image = open_image(file.getvalue(), 1 << 20, 100)
    assert as_shown(image) is image


def test_a_section_of_the_page_is_written_beside_the_other(tmp_path: Path) -> None:
    page = tmp_path / "images.md"
    write_section("Damaged files", ["none"], page)
    write_section("Files of every kind", ["| a |"], page)
    write_section("Damaged files", ["two"], page)
    text = page.read_text(encoding="utf-8")
    assert text.endswith("## Files of every kind\n\n| a |\n\n## Damaged files\n\ntwo\n")
