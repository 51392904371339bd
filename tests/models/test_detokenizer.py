"""The texts of a reply's tokens together are what all of them decode to; a long reply's tokens cost no more."""

import json
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from tokenizers import decoders
from transformers import CTRLTokenizer

from dtufc_edge.backbones.decoder import DecoderBackbone
from dtufc_edge.detokenizer import Detokenizer, open_ids
from tests.models.test_zoo import profile_of
from tests.models.tokens import SPACE, TOKENIZERS, llama, save_tiny, tokenizer_of

CUT = "\N{REPLACEMENT CHARACTER}"
FAMILY = "\U0001f468\u200d\U0001f469\u200d\U0001f467"  # one emoji of three, with joiners
SCRIPTS = [
    "e\u0301 n\u0303o",
    "สวัสดีชาวโลก",
    "مرحبا بالعالم",
    "中文。日本語",
    "हिन्दी",
    FAMILY,
    "  the cat\n\n",
    CUT,
    "don't, do n't .",
]


class Decoder:
    """What a backbone has for a detokenizer; counts the tokens that it decodes."""

    def __init__(self, tokenizer: Any) -> None:
        self._tokenizer = tokenizer
        self._open = open_ids(tokenizer)
        self.num_decoded = 0

    def decode(self, ids: list[int]) -> str:
        self.num_decoded += len(ids)
        return str(self._tokenizer.decode(ids, clean_up_tokenization_spaces=False))

    def is_open(self, token_id: int) -> bool:
        return self._open is None or token_id in self._open


@lru_cache
def decoder_of(name: str) -> Decoder:
    return Decoder(tokenizer_of(name))


def streamed(decoder: Any, ids: Sequence[int]) -> list[str]:
    detokenizer = Detokenizer(decoder.decode, decoder.is_open)
    return [*(detokenizer.add(token_id) for token_id in ids), detokenizer.finish()]


def pieces(name: str, *tokens: str) -> list[int]:
    ids = tokenizer_of(name).convert_tokens_to_ids(list(tokens))
    assert None not in ids
    return list(ids)


@pytest.mark.parametrize("name", TOKENIZERS)
@settings(max_examples=60)
@given(data=st.data())
def test_any_tokens_in_any_order_give_their_whole_text(name: str, data: st.DataObject) -> None:
    """Many are bytes that are no character; some lie behind the vocabulary."""
    size = len(tokenizer_of(name))
    near = st.integers(0, min(size, 300))
    ids = data.draw(st.lists(st.one_of(near, st.integers(0, size + 2)), max_size=40))
    decoder = decoder_of(name)
    assert "".join(streamed(decoder, ids)) == decoder.decode(ids)


@pytest.mark.parametrize("name", TOKENIZERS)
@settings(max_examples=40)
@given(parts=st.lists(st.one_of(st.sampled_from(SCRIPTS), st.text(max_size=5)), max_size=6), cut=st.integers(0, 3))
@example(parts=SCRIPTS, cut=0)
@example(parts=[FAMILY, CUT, FAMILY], cut=1)
def test_texts_of_all_scripts_come_whole_even_if_the_reply_ends_in_a_character(
    name: str, parts: list[str], cut: int
) -> None:
    ids = tokenizer_of(name)(" ".join(parts))["input_ids"]
    ids = ids[: len(ids) - cut]
    decoder = decoder_of(name)
    assert "".join(streamed(decoder, ids)) == decoder.decode(ids)


@pytest.mark.parametrize("name", ["llama", "byte-level", "unigram"])
@settings(max_examples=60)
@given(data=st.data())
def test_spaces_bytes_and_control_tokens_in_any_order_give_their_whole_text(name: str, data: st.DataObject) -> None:
    vocabulary = {
        "llama": ["\u2581", "\u2581\u2581", "\u2581the", "a", "</s>", "\n\n", "<0x0A>", "<0xE4>", "<0xB8>", "<0xAD>"],
        "byte-level": ["Ġ", "the", "</s>", "Ċ", "ä", "\N{CEDILLA}", "Ń", "ï", "¿", "½", "ð", "Ł", "ĺ", "Ģ"],
        "unigram": ["\u2581", "\u2581the", "a", "</s>", "<unk>"],
    }
    ids = pieces(name, *data.draw(st.lists(st.sampled_from(vocabulary[name]), max_size=24)))
    decoder = decoder_of(name)
    assert "".join(streamed(decoder, ids)) == decoder.decode(ids)


def test_a_token_adds_its_text_at_once_and_a_cut_character_when_it_is_whole() -> None:
    ids = pieces("byte-level", "the", "Ġ", "cat", "ð", "Ł", "ĺ", "Ģ", "!", "ä", "\N{CEDILLA}")
    assert streamed(decoder_of("byte-level"), ids) == ["the", " ", "cat", "", "", "", "😀", "!", "", "", CUT]
    ids = pieces("wordpiece", "do", "##ing", "a", ".", "</s>", "b")
    assert streamed(decoder_of("wordpiece"), ids) == ["do", "ing", " a", ".", " </s>", " b", ""]
    ids = pieces("llama", "\u2581the", "\u2581", "\u2581the", "a")
    assert streamed(decoder_of("llama"), ids) == ["the", " ", " the", "a", ""]


def test_spaces_are_not_lost_to_a_decoder_that_takes_several_from_the_beginning() -> None:
    tokenizer = llama()
    steps = [decoders.Replace(SPACE, " "), decoders.Fuse(), decoders.Strip(" ", 3, 0)]
    tokenizer.backend_tokenizer.decoder = decoders.Sequence(steps)
    assert "".join(streamed(Decoder(tokenizer), pieces("llama", "a", *[SPACE] * 7, "a"))) == f"a{' ' * 7}a"


def test_a_run_of_bytes_comes_when_it_is_over_as_its_end_decides_what_it_is() -> None:
    whole = ("<0x0A>", "<0xE4>", "<0xB8>", "<0xAD>")
    decoder = decoder_of("llama")
    assert streamed(decoder, pieces("llama", "a", *whole, "b")) == ["a", "", "", "", "", "\n中b", ""]
    assert streamed(decoder, pieces("llama", "a", *whole, "<0xF0>", "b")) == ["a", *[""] * 5, f"{CUT * 5}b", ""]
    assert streamed(decoder, pieces("llama", "a", *whole, "<0xF0>")) == ["a", *[""] * 5, CUT * 5]
    behind = len(tokenizer_of("llama")) + 5  # has no text, and ends no run
    assert streamed(decoder, [*pieces("llama", "<0x0A>"), behind, *pieces("llama", "<0x80>", "b")])[-2] == f"{CUT * 2}b"


@pytest.mark.parametrize(
    ("name", "tokens"),
    [
        ("byte-level", ["the", "Ġ"]),
        ("byte-level", ["ä"]),  # no character, ever
        ("byte-level", ["ï", "¿", "½"]),  # U+FFFD itself
        ("llama", ["\u2581"]),
        ("llama", ["<0xE4>", "<0xB8>", "<0xAD>"]),
        ("wordpiece", ["do", "##ing"]),
    ],
)
def test_the_thousandth_token_costs_no_more_than_the_hundredth(name: str, tokens: list[str]) -> None:
    def cost(num_tokens: int) -> float:
        decoder = Decoder(tokenizer_of(name))
        streamed(decoder, (pieces(name, *tokens) * num_tokens)[:num_tokens])
        return decoder.num_decoded / num_tokens

    assert cost(1000) <= cost(100) + 1
    assert cost(1000) < 20


def test_tokens_without_text_cost_no_more_the_more_there_are() -> None:
    decoder = Decoder(tokenizer_of("byte-level"))
    behind = len(tokenizer_of("byte-level")) + 5
    ids = [*pieces("byte-level", "the"), *[behind] * 1000, *pieces("byte-level", "cat")]
    assert "".join(streamed(decoder, ids)) == "thecat"
    assert decoder.num_decoded < 20 * len(ids)


def test_a_tokenizer_in_python_gives_its_text_at_the_end(tmp_path: Path) -> None:
    """This one's decoding takes back `@@` once the next token is there."""
    names = ["<unk>", "b@@", "c", "a"]
    (tmp_path / "vocab.json").write_text(json.dumps({piece: i for i, piece in enumerate(names)}), encoding="utf-8")
    (tmp_path / "merges.txt").write_text("#version: 0.2\n", encoding="utf-8")
    decoder = Decoder(CTRLTokenizer(str(tmp_path / "vocab.json"), str(tmp_path / "merges.txt")))
    assert decoder.decode([3, 1]) == "a b@@"
    assert streamed(decoder, [3, 1, 2]) == ["", "", "", "a bc"]


@pytest.mark.parametrize("name", ["llama", "wordpiece"])
def test_a_backbone_says_what_a_detokenizer_needs(name: str, tmp_path: Path) -> None:
    """Its text is local, even if the tokenizer's settings ask for spaces to be taken away afterwards."""
    folder = tmp_path / "model"
    save_tiny(name, folder)
    backbone = DecoderBackbone(folder, profile_of("decoder", folder, 1), torch.device("cpu"), torch.float32)
    tokens = {
        "llama": ["a", "<0x0A>", "<0xF0>", "a"],
        "wordpiece": ["do", "'", "s", "'", "n", "?", "the"],
    }
    ids = pieces(name, *tokens[name])
    assert "".join(streamed(backbone, ids)) == backbone.decode(ids)
    assert backbone.decode(ids) == {"llama": f"a{CUT * 2}a", "wordpiece": "do ' s ' n? the"}[name]
