"""How the shipped text-to-image checkpoint is trained: its images, its captions, and an interrupted training."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers import StableDiffusion3Pipeline
from numpy.typing import NDArray

from dtufc.errors import InputError
from dtufc_research.training.emoji.denoiser import NUM_TOKENS, generate_images, new_tokenizer
from dtufc_research.training.emoji.images import (
    COLOURS,
    HELD_OUT,
    SIDE,
    Emoji,
    compositions,
    originals,
    read_emoji,
    recoloured,
)
from dtufc_research.training.emoji.train import run_folder, save, train_autoencoder, train_denoiser
from tests.research.lightning import EXPECTED

pytestmark = EXPECTED


def disc(colour: tuple[int, int, int], leaf: tuple[int, int, int] = (0, 160, 0)) -> NDArray[np.uint8]:
    """A disc with a small leaf, on a transparent background."""
    y, x = np.mgrid[:SIDE, :SIDE] - SIDE // 2
    image = np.zeros((SIDE, SIDE, 4), np.uint8)
    image[x * x + y * y < 24**2] = (*colour, 255)
    image[(abs(x) < 5) & (y < -20)] = (*leaf, 255)
    return image


def item(name: str, colour: tuple[int, int, int], *, is_person: bool = False) -> Emoji:
    return Emoji(names=(name,), image=disc(colour), weight=1.0, is_flag=False, is_person=is_person)


ITEMS = [item("red apple", (220, 30, 30)), item("pizza", (230, 160, 40)), item("chef", (240, 200, 60), is_person=True)]


@pytest.mark.parametrize("colour", ["blue", "green", "purple", "pink"])
def test_a_colour_changes_what_was_of_the_main_colour_and_nothing_else(colour: str) -> None:
    made = recoloured(ITEMS[0], colour)
    middle, leaf = made[SIDE // 2, SIDE // 2, :3].astype(int), made[SIDE // 2 - 22, SIDE // 2, :3]
    assert np.abs(middle - COLOURS[colour]).max() <= 2
    assert tuple(leaf) == (0, 160, 0)
    np.testing.assert_array_equal(made[..., 3], ITEMS[0].image[..., 3])


def test_no_composition_has_a_caption_that_is_held_out_and_people_keep_their_colours() -> None:
    made = compositions(ITEMS)
    captions = {caption for composition in made for caption in composition.captions}
    assert {"blue apple", "pizza on a blue background"} <= set(HELD_OUT)
    assert captions.isdisjoint(HELD_OUT)
    assert {"green apple", "pizza on a green background"} <= captions
    assert "blue pizza" in captions
    assert captions.isdisjoint(f"{colour} chef" for colour in COLOURS)
    assert any(caption.startswith("chef on a") for caption in captions)
    assert all(composition.image.shape == (SIDE, SIDE, 3) for composition in made)


def test_a_font_that_is_missing_is_named_with_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="fonts-noto-color-emoji"):
        read_emoji(tmp_path / "none.ttf")


def test_the_tokenizer_takes_any_text_and_marks_where_it_starts_and_ends() -> None:
    tokenizer = new_tokenizer(["red apple", "blue apple", "red heart"] * 3)
    for text in ("Red  apple", "ZÜRICH \N{SNOWMAN}", "", "x" * 200):
        ids = tokenizer(text, padding="max_length", truncation=True).input_ids
        assert len(ids) == NUM_TOKENS
        assert ids[0] == tokenizer.bos_token_id
        assert tokenizer.eos_token_id in ids
        assert max(ids) < len(tokenizer)
    assert len(tokenizer.tokenize("red apple")) == 2
    assert tokenizer("Red  apple").input_ids == tokenizer("red apple").input_ids


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    monkeypatch.setenv("DTUFC_CACHE", str(tmp_path / "cache"))
    threads = torch.get_num_threads()
    yield tmp_path
    torch.set_num_threads(threads)


@pytest.mark.slow
def test_an_interrupted_training_resumes_and_ends_as_a_pipeline(cache: Path) -> None:
    images = [*originals(ITEMS), *compositions(ITEMS)[:40]]
    autoencoder = train_autoencoder(images, num_steps=2)
    train_denoiser(images, autoencoder, num_originals=len(ITEMS), num_steps=2)
    pipeline = train_denoiser(images, autoencoder, num_originals=len(ITEMS), num_steps=4)
    checkpoint = torch.load(run_folder("denoiser") / "last.ckpt", weights_only=False)
    assert checkpoint["global_step"] == 4
    written = (run_folder("denoiser") / "last.ckpt").stat().st_mtime_ns
    train_denoiser(images, autoencoder, num_originals=len(ITEMS), num_steps=4)
    assert (run_folder("denoiser") / "last.ckpt").stat().st_mtime_ns == written  # there was nothing left to do
    assert list(run_folder("denoiser").glob("events.*"))
    save(pipeline, cache / "saved")
    loaded = StableDiffusion3Pipeline.from_pretrained(
        cache / "saved", dtype=torch.float32, text_encoder_3=None, tokenizer_3=None
    )
    loaded.set_progress_bar_config(disable=True)
    first, second = generate_images(loaded, ["red apple", "pizza"])
    assert first.size == (SIDE, SIDE)
    assert np.asarray(first).std() > 0
    assert first != second
