"""Sampling: what is rejected, which tokens are kept, and that a token depends on nothing but what it should."""

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from transformers.generation.logits_process import (
    LogitsProcessorList,
    MinPLogitsWarper,
    RepetitionPenaltyLogitsProcessor,
    TemperatureLogitsWarper,
    TopKLogitsWarper,
    TopPLogitsWarper,
)

from dtufc.coding.arrays import Array
from dtufc.errors import InputError
from dtufc.serving.limits import MAX_LOGIT_BIASES, MAX_STOP_TOKEN_IDS, MAX_TOP_LOG_PROBABILITIES
from dtufc.serving.sampling import check_sampling
from dtufc.v1.head_pb2 import Sampling
from dtufc_cloud.sampling import Sampler, kept_weights, uniform

VOCABULARY = 300
NOT_IN_A_RANGE = {
    "temperature": (-0.1, 2.1),
    "top_p": (-0.1, 0.0, 1.1),
    "min_p": (-0.1, 1.1),
    "repetition_penalty": (-1.0, 0.0, 0.009, 101.0),
    "presence_penalty": (-2.1, 2.1),
    "frequency_penalty": (-2.1, 2.1),
}
NO_NUMBERS = (math.nan, math.inf, -math.inf)


def tensor(scores: Array | list[float]) -> torch.Tensor:
    return torch.tensor(np.asarray(scores), dtype=torch.float32)


def sampled(sampling: Sampling, logits: torch.Tensor, num: int) -> list[int]:
    """The token of each number from 0, of the same logits."""
    sampler = Sampler(sampling, [], len(logits))
    return [sampler.sample(logits, range(number)).token_id for number in range(num)]


def by_transformers(scores: Array, sampling: Sampling) -> torch.Tensor:
    """The scores that its warpers leave, in its order; -inf where a token is not kept."""
    warpers: list[Any] = [TemperatureLogitsWarper(sampling.temperature)]
    if sampling.top_k:
        warpers.append(TopKLogitsWarper(sampling.top_k))
    if sampling.HasField("top_p"):
        warpers.append(TopPLogitsWarper(sampling.top_p))
    if sampling.min_p:
        warpers.append(MinPLogitsWarper(sampling.min_p))
    blank = torch.zeros(1, 1, dtype=torch.long)
    return LogitsProcessorList(warpers)(blank, torch.from_numpy(scores)[None])[0]


@pytest.mark.parametrize(("field", "values"), NOT_IN_A_RANGE.items())
def test_a_number_out_of_its_range_is_rejected(field: str, values: tuple[float, ...]) -> None:
    for value in (*values, *NO_NUMBERS):
        sampling = Sampling()
        setattr(sampling, field, value)
        with pytest.raises(InputError) as caught:
            check_sampling(sampling)
        assert caught.value.context["field"] == field


@pytest.mark.parametrize("bias", [-100.1, 100.1, *NO_NUMBERS])
def test_a_bias_out_of_its_range_is_rejected(bias: float) -> None:
    with pytest.raises(InputError, match=r"logit_bias.*token 3"):
        check_sampling(Sampling(logit_bias={2: 1.0, 3: bias}))


@pytest.mark.parametrize(
    ("field", "sampling"),
    [
        ("logit_bias", Sampling(logit_bias=dict.fromkeys(range(MAX_LOGIT_BIASES + 1), 1.0))),
        ("stop_token_ids", Sampling(stop_token_ids=range(MAX_STOP_TOKEN_IDS + 1))),
        ("top_log_probabilities", Sampling(log_probabilities=True, top_log_probabilities=21)),
        ("top_log_probabilities", Sampling(top_log_probabilities=1)),
    ],
)
def test_more_than_the_limits_is_rejected(field: str, sampling: Sampling) -> None:
    with pytest.raises(InputError) as caught:
        check_sampling(sampling)
    assert caught.value.context["field"] == field


@pytest.mark.parametrize("end", [0, 1])
def test_the_ends_of_every_range_are_taken(end: int) -> None:
    sampling = Sampling(
        temperature=(0, 2)[end],
        top_p=(1e-9, 1)[end],
        top_k=(0, 2**32 - 1)[end],
        min_p=(0, 1)[end],
        repetition_penalty=(0.01, 100)[end],
        presence_penalty=(-2, 2)[end],
        frequency_penalty=(-2, 2)[end],
        seed=(0, 2**64 - 1)[end],
        logit_bias=dict.fromkeys(range(MAX_LOGIT_BIASES), (-100, 100)[end]),
        log_probabilities=True,
        top_log_probabilities=MAX_TOP_LOG_PROBABILITIES,
        stop_token_ids=range(MAX_STOP_TOKEN_IDS),
    )
    check_sampling(sampling)
    logits = torch.linspace(-5, 5, VOCABULARY)
    assert len(Sampler(sampling, [1, 2], VOCABULARY).sample(logits, [2, 3]).top) == MAX_TOP_LOG_PROBABILITIES


@pytest.mark.parametrize(
    ("field", "sampling", "prompt_ids"),
    [
        ("prompt_ids", Sampling(), [1, 10]),
        ("logit_bias", Sampling(logit_bias={10: 1.0}), []),
        ("stop_token_ids", Sampling(stop_token_ids=[3, 10]), []),
        ("seed", Sampling(temperature=1), []),
    ],
)
def test_what_the_model_does_not_have_and_a_missing_seed_are_rejected(
    field: str, sampling: Sampling, prompt_ids: list[int]
) -> None:
    with pytest.raises(InputError) as caught:
        Sampler(sampling, prompt_ids, 10)
    assert caught.value.context["field"] == field
    sampling.seed = 1
    Sampler(sampling, [id_ for id_ in prompt_ids if id_ < 10], 11)


def test_the_kept_tokens_and_their_probabilities_are_those_of_transformers(rng: np.random.Generator) -> None:
    sizes = set()
    for _ in range(300):
        sampling = Sampling(temperature=rng.uniform(0.1, 2))
        if rng.random() < 0.5:
            sampling.top_k = int(rng.integers(1, VOCABULARY + 50))
        if rng.random() < 0.7:
            sampling.top_p = rng.uniform(0.01, 1)
        if rng.random() < 0.5:
            sampling.min_p = 10 ** rng.uniform(-4, 0)
        scores = rng.normal(size=VOCABULARY) * rng.uniform(0.1, 4)
        expected = by_transformers(scores, sampling)
        weights = kept_weights(scores, sampling)
        assert np.array_equal(weights > 0, expected.isfinite().numpy())
        np.testing.assert_allclose(weights / weights.sum(), expected.softmax(0).numpy(), rtol=1e-9)
        sizes.add(int((weights > 0).sum()))
    assert len(sizes) > 50


def test_equals_of_the_kth_token_are_kept_as_in_transformers(rng: np.random.Generator) -> None:
    more = 0
    for top_k in range(1, 60):
        scores = rng.integers(-8, 8, VOCABULARY) / 4.0
        sampling = Sampling(temperature=1, top_k=top_k)
        kept = kept_weights(scores, sampling) > 0
        assert np.array_equal(kept, by_transformers(scores, sampling).isfinite().numpy())
        more += int(kept.sum() > top_k)
    assert more > 30


def test_of_equals_at_the_end_of_top_p_the_lower_ids_are_kept() -> None:
    scores = np.array([0.0, 1.0, 0.0, 1.0, 0.0, 0.0])
    first = 1 / (2 + 4 / math.e)  # of each of the two better ones
    for num_equals in range(1, 5):
        top_p = 2 * first + (num_equals - 0.5) * first / math.e
        kept = np.flatnonzero(kept_weights(scores, Sampling(temperature=1, top_p=top_p)))
        assert kept.tolist() == sorted([1, 3, *[0, 2, 4, 5][:num_equals]])


@pytest.mark.parametrize(
    "sampling",
    [
        Sampling(temperature=2, top_p=1e-300),
        Sampling(temperature=2, min_p=1),
        Sampling(temperature=2, top_k=1),
        Sampling(temperature=5e-324),
    ],
)
def test_the_most_probable_token_always_stays(sampling: Sampling, rng: np.random.Generator) -> None:
    scores = rng.normal(size=VOCABULARY)
    assert np.flatnonzero(kept_weights(scores, sampling)).tolist() == [scores.argmax()]


def test_a_share_just_below_all_is_reached_although_sums_are_rounded(rng: np.random.Generator) -> None:
    sampling = Sampling(temperature=1, top_p=math.nextafter(1, 0))
    for _ in range(200):
        scores = rng.normal(size=VOCABULARY) / 200
        assert (kept_weights(scores, sampling) > 0).sum() >= VOCABULARY - 1


def test_greedy_takes_the_most_probable_token_and_the_lowest_id_of_equals(rng: np.random.Generator) -> None:
    for _ in range(50):
        scores = rng.integers(0, 6, 40).astype(np.float32)
        token = Sampler(Sampling(), [], 40).sample(tensor(scores), [])
        assert token.token_id == min(np.flatnonzero(scores == scores.max()))
        assert not token.HasField("log_probability")
        assert not token.top


@pytest.mark.parametrize("spread", [0.01, 1.0, 5.0, 40.0])
@pytest.mark.parametrize("step", [0.0, 0.5])
def test_a_token_is_the_inverse_of_the_cumulative_distribution(
    spread: float, step: float, rng: np.random.Generator
) -> None:
    """Against a sort of all tokens; with a step, many are equal."""
    logits = rng.normal(size=2000).astype(np.float32) * np.float32(spread)
    scores = np.round(logits / step).astype(np.float32) * np.float32(step) if step else logits
    probabilities = torch.from_numpy(scores).double().softmax(0).numpy()
    order = np.lexsort((np.arange(2000), -scores.astype(np.float64)))
    sums = probabilities[order].cumsum()
    shares = [uniform(7, number) for number in range(200)]
    expected = [int(order[sums.searchsorted(share)]) for share in shares]
    assert sampled(Sampling(temperature=1, seed=7), tensor(scores), 200) == expected


def of_one_seed(sampling: Sampling, logits: torch.Tensor, num: int) -> list[int]:
    return sampled(sampling, logits, num)


def of_many_seeds(sampling: Sampling, logits: torch.Tensor, num: int) -> list[int]:
    tokens = []
    for seed in range(num):
        sampling.seed = seed
        tokens.append(Sampler(sampling, [], len(logits)).sample(logits, []).token_id)
    return tokens


@pytest.mark.parametrize("tokens_of", [of_one_seed, of_many_seeds])
@pytest.mark.parametrize("options", [{"temperature": 1.0}, {"temperature": 0.7, "top_p": 0.9, "top_k": 8}])
def test_tokens_come_as_often_as_they_are_probable(
    tokens_of: Callable[[Sampling, torch.Tensor, int], list[int]], options: dict[str, Any], rng: np.random.Generator
) -> None:
    num, scores = 4000, rng.normal(size=12).astype(np.float32)
    sampling = Sampling(seed=11, **options)
    counts = np.bincount(tokens_of(sampling, tensor(scores), num), minlength=12)
    expected = by_transformers(scores.astype(np.float64), sampling).softmax(0).numpy() * num
    kept = expected > 0
    assert counts[~kept].sum() == 0
    freedom = kept.sum() - 1
    chi_square = ((counts - expected)[kept] ** 2 / expected[kept]).sum()
    assert chi_square < freedom + 4 * math.sqrt(2 * freedom)


def test_a_token_alone_is_the_token_in_its_sequence(rng: np.random.Generator) -> None:
    options: dict[str, Any] = {"temperature": 1.2, "top_p": 0.95, "repetition_penalty": 1.3, "frequency_penalty": 0.4}
    steps, prompt = [tensor(rng.normal(size=VOCABULARY)) for _ in range(60)], [5, 6, 7]
    replies: dict[int, list[int]] = {3: [], 4: []}
    samplers = {seed: Sampler(Sampling(seed=seed, **options), prompt, VOCABULARY) for seed in replies}
    for logits in steps:
        for seed, reply in replies.items():
            reply.append(samplers[seed].sample(logits, reply).token_id)
    assert replies[3] != replies[4]
    for number in rng.permutation(len(steps)):
        again = Sampler(Sampling(seed=3, **options), prompt, VOCABULARY)
        assert again.sample(steps[number], replies[3][:number]).token_id == replies[3][number]


def test_the_random_numbers_are_those_of_the_authors_of_philox() -> None:
    """Their known answer to key 0 and counter 0, to which numpy counts up from the last one; and our own, for good."""
    assert uniform(0, 2**256 - 1) == (0x16554D9ECA36314C >> 11) * 2.0**-53
    assert [uniform(*at) for at in [(0, 0), (0, 1), (1, 0), (2**64 - 1, 5)]] == [
        0.011546754286331562,
        0.5023796042735054,
        0.3035680343067586,
        0.46292535650502586,
    ]


def test_penalties_and_bias_change_scores_as_defined() -> None:
    sampling = Sampling(
        repetition_penalty=2, presence_penalty=0.5, frequency_penalty=0.25, logit_bias={1: -3.0, 4: 1.5}
    )
    sampler = Sampler(sampling, [0, 1, 1], 6)
    scores = np.array([4.0, -1.0, 3.0, -2.0, 5.0, 0.5])
    expected = [
        4.0 / 2,  # in the prompt
        -1.0 * 2 - (0.5 + 0.25) - 3.0,  # in the prompt, once in the reply, biased
        3.0 / 2 - (0.5 + 2 * 0.25),  # twice in the reply
        -2.0 * 2 - (0.5 + 0.25),  # once in the reply
        5.0 + 1.5,  # biased
        0.5,
    ]
    assert sampler.adjusted(scores, [2, 1, 3, 2]).tolist() == expected
    assert scores.tolist() == [4.0, -1.0, 3.0, -2.0, 5.0, 0.5]


def test_the_repetition_penalty_is_that_of_transformers(rng: np.random.Generator) -> None:
    for _ in range(20):
        scores, prompt, reply = rng.normal(size=50), rng.integers(50, size=9), rng.integers(50, size=6)
        penalty = rng.uniform(0.5, 2)
        ids = torch.from_numpy(np.concatenate([prompt, reply]))[None]
        expected = RepetitionPenaltyLogitsProcessor(penalty)(ids, torch.from_numpy(scores.copy())[None])[0]
        sampler = Sampler(Sampling(repetition_penalty=penalty), prompt.tolist(), 50)
        np.testing.assert_allclose(sampler.adjusted(scores, reply.tolist()), expected.numpy(), rtol=1e-12)


@pytest.mark.parametrize("temperature", [0.0, 1.5])
def test_a_bias_of_100_bans_or_forces_a_token(temperature: float) -> None:
    logits = tensor([5.0, 8.0, 6.0, -9.0])
    options: dict[str, Any] = {"temperature": temperature, "seed": 2}
    assert 1 in sampled(Sampling(**options), logits, 100)
    assert 1 not in sampled(Sampling(logit_bias={1: -100}, **options), logits, 100)
    assert set(sampled(Sampling(logit_bias={3: 100}, **options), logits, 100)) == {3}


def test_log_probabilities_are_of_the_model_before_all_changes(rng: np.random.Generator) -> None:
    logits = tensor(np.round(rng.normal(size=VOCABULARY) * 3, 1))  # some are equal
    expected = torch.log_softmax(logits.double(), dim=0).numpy()
    sampling = Sampling(
        temperature=1.7,
        seed=5,
        top_k=4,
        repetition_penalty=1.9,
        presence_penalty=2,
        logit_bias={9: 100},
        log_probabilities=True,
        top_log_probabilities=20,
    )
    token = Sampler(sampling, [1, 2], VOCABULARY).sample(logits, [3])
    assert token.token_id == 9
    assert token.log_probability == pytest.approx(expected[9], abs=1e-12)
    order = np.lexsort((np.arange(VOCABULARY), -logits.numpy()))[:20]
    assert [top.token_id for top in token.top] == order.tolist()
    assert len(np.unique(logits.numpy()[order])) < 20
    np.testing.assert_allclose([top.log_probability for top in token.top], expected[order], atol=1e-12)


def test_log_probabilities_come_without_others_beside_them() -> None:
    token = Sampler(Sampling(log_probabilities=True), [], 2).sample(tensor([0.0, 0.0]), [])
    assert token.log_probability == pytest.approx(-math.log(2))
    assert not token.top
