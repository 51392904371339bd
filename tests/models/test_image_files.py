"""Image files of every kind, and damaged ones: the pixels that a viewer shows, or one line that says why not."""

import numpy as np
import pytest
from PIL import Image

from dtufc.errors import InputError
from dtufc.models.images import open_image, orientation
from dtufc_research.evaluation.fuzz_images import damaged_files, fuzz
from dtufc_research.evaluation.image_files import Case, cases, exif, outcome, png

CASES = cases()


@pytest.mark.parametrize("case", CASES, ids=[case.name for case in CASES])
def test_a_file_is_taken_for_what_a_viewer_shows_or_rejected(case: Case) -> None:
    found = outcome(case)
    assert found.is_right, (case.holds, found.problem, found.difference)


def test_damaged_files_are_images_or_input_errors_and_nothing_else() -> None:
    assert fuzz(damaged_files(300, seed=2)).escaped == ()


def test_more_pixels_than_pillows_own_limit_are_a_matter_of_the_setting_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    data = png(np.zeros((200, 100, 1), np.uint8), 8, 0)
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100)  # twice that many are an error of Pillow's, otherwise
    assert open_image(data, len(data), 20_000).size == (100, 200)
    with pytest.raises(InputError, match=r"100 x 200 pixels. Send 1 to 19999 pixels"):
        open_image(data, len(data), 19_999)


@pytest.mark.parametrize("value", [0, 9, 65535])
def test_an_orientation_that_means_nothing_turns_nothing(value: int) -> None:
    assert orientation(exif(value)) == 1
