"""What each side keeps of a sequence: taken back, measured, and advanced together with others, for every class."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from dtufc.models.sequence_cache import SequenceCache
from dtufc.models.split import Back, Front, read_config
from dtufc_research.evaluation.cuts import DECODERS, save_decoder

CPU = torch.device("cpu")
SPLIT = 3
STATES = {"Qwen3Next", "Qwen3_5Text"}  # a linear attention's state cannot be taken back
WINDOWS = {
    *("Mistral", "Gemma2", "Gemma3Text", "Phi3", "Mixtral", "Olmo3", "Cohere2", "Starcoder2", "Phimoe", "GptOss"),
    *("Exaone4", "VaultGemma", "Ministral3"),
}


def assert_close(found: Tensor, expected: Tensor) -> None:
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)


@pytest.fixture(params=DECODERS)
def named(request: pytest.FixtureRequest, tmp_path: Path) -> tuple[str, Front, Back]:
    save_decoder(request.param, tmp_path / "model")
    config = read_config(tmp_path / "model")
    where = tmp_path / "model", config, SPLIT, CPU, torch.float32
    return request.param, Front(*where), Back(*where)


def random_ids(count: int, seed: int = 1) -> Tensor:
    return torch.randint(3, 90, (1, count), generator=torch.Generator().manual_seed(seed))


class Whole:
    """Both parts, one sequence."""

    def __init__(self, front: Front, back: Back) -> None:
        self.parts = front, back
        self.caches: tuple[SequenceCache, SequenceCache] = (front.new_cache(), back.new_cache())

    @torch.inference_mode()
    def logits(self, ids: Tensor) -> Tensor:
        (front, back), (at_edge, at_cloud) = self.parts, self.caches
        logits: Any = back.output(front.features(at_edge, input_ids=ids), at_cloud, input_ids=ids * 0).logits
        return logits[0]

    def rewind(self, num_tokens: int) -> list[bool]:
        return [cache.rewind(num_tokens) for cache in self.caches]


def test_tokens_that_are_taken_back_leave_no_trace(named: tuple[str, Front, Back]) -> None:
    """Also beyond a sliding window, which is 8 tokens here."""
    name, front, back = named
    ids = random_ids(40)
    straight, rewound = Whole(front, back), Whole(front, back)
    for start, stop in ((0, 20), (20, 21), (21, 24)):
        straight.logits(ids[:, start:stop])
        rewound.logits(ids[:, start:stop])
    rewound.logits(random_ids(5, seed=2))
    if name in STATES:
        assert rewound.rewind(24) == [False, False]
        assert [cache.num_tokens for cache in rewound.caches] == [29, 29]
        return
    assert rewound.rewind(24) == [True, True]
    expected = straight.logits(ids[:, 24:30])
    assert_close(rewound.logits(ids[:, 24:30]), expected)
    assert rewound.rewind(26) == [True, True]
    assert_close(rewound.logits(ids[:, 26:30]), expected[2:])


def test_tokens_are_taken_back_twice_or_it_says_that_they_cannot(named: tuple[str, Front, Back]) -> None:
    name, front, back = named
    if name in STATES:
        pytest.skip("it never can")
    ids = random_ids(30)
    straight, rewound = Whole(front, back), Whole(front, back)
    for whole in (straight, rewound):
        whole.logits(ids[:, :20])
        whole.logits(ids[:, 20:21])
    rewound.logits(random_ids(5, seed=2))
    assert rewound.rewind(24) == [True, True]
    could = rewound.rewind(22)
    assert all(could) == (name not in WINDOWS)
    if all(could):
        rewound.rewind(21)
        assert_close(rewound.logits(ids[:, 21:25]), straight.logits(ids[:, 21:25]))


def test_a_window_that_has_moved_on_says_that_it_cannot_go_back(named: tuple[str, Front, Back]) -> None:
    name, front, back = named
    if name in STATES:
        pytest.skip("it never can")
    ids = random_ids(30)
    one = Whole(front, back)
    for start in range(0, 30, 3):
        one.logits(ids[:, start : start + 3])
    could = one.rewind(5)
    assert all(could) == (name not in WINDOWS)
    if all(could):
        expected = Whole(front, back).logits(ids)[5:]
        assert_close(one.logits(ids[:, 5:]), expected)


def test_sequences_of_other_lengths_share_a_pass(named: tuple[str, Front, Back]) -> None:
    name, front, back = named
    assert front.can_share() == back.can_share() == (name not in STATES | WINDOWS)
    if not back.can_share():
        return
    alone, shared = ([Whole(front, back) for _ in range(3)] for _ in range(2))
    for wholes in (alone, shared):
        for index, whole in enumerate(wholes):
            whole.logits(random_ids(4 + 5 * index, seed=index))
    with torch.inference_mode():
        for seed in range(10, 14):
            ids = random_ids(3, seed=seed).T
            expected = torch.cat([whole.logits(ids[index : index + 1]) for index, whole in enumerate(alone)])
            features = front.features_together([whole.caches[0] for whole in shared], ids)
            output = back.output_together(list(features), [whole.caches[1] for whole in shared])
            assert_close(output.logits[:, 0], expected)
    assert [whole.caches[1].num_tokens for whole in shared] == [8, 13, 18]


def test_no_sequence_takes_more_memory_than_was_said(named: tuple[str, Front, Back]) -> None:
    _, front, back = named
    one = Whole(front, back)
    one.logits(random_ids(30))
    for part, cache in zip((front, back), one.caches, strict=True):
        assert 0 < cache.num_bytes <= part.cache_bytes(30)
