"""How logits become a token: penalties, the tokens that are kept, and which of them is taken.

    logits ─► repetition, presence, frequency penalty ─► logit bias ─┬─► argmax, at temperature 0
                                                                     └─► temperature ─► top-k ─► top-p ─► min-p ─► one
    logits ─► log probabilities                                          of them, by seed and number of the token

The order, and which tokens are kept, are those of transformers' `generate`; presence and frequency penalty are those
of OpenAI's interface. A token is a function of the sampling, the prompt, the logits and the tokens before it, and
nothing is kept between two: a session that was lost and sent again, a draft that is checked, and sessions in a batch
come to the same text. Probabilities are float64. Among equally probable tokens the one with the lower id comes first.
"""

import math
from collections.abc import Iterable, Sequence

import numpy as np
import torch
from jaxtyping import Float, Float32, Float64
from torch import Tensor

from dtufc.coding.arrays import Array
from dtufc.errors import InputError
from dtufc.v1 import head_pb2

_BUCKET_SHIFT = 49  # leaves of a float64 the sign, the exponent and three bits of the mantissa


class Sampler:
    """Samples the tokens of one reply.

    Args:
        sampling: as `check_sampling` let it pass; not to be changed from now on.
        prompt_ids: the prompt's tokens, for the repetition penalty.
        vocabulary_size: the number of logits.

    Raises:
        InputError: a token that the model does not have, or a temperature above 0 without a seed.
    """

    def __init__(self, sampling: head_pb2.Sampling, prompt_ids: Iterable[int], vocabulary_size: int) -> None:
        self._prompt_ids = np.unique(np.fromiter(prompt_ids, np.int64))
        check_token_ids("prompt_ids", self._prompt_ids, vocabulary_size)
        check_token_ids("logit_bias", sampling.logit_bias, vocabulary_size)
        check_token_ids("stop_token_ids", sampling.stop_token_ids, vocabulary_size)
        if sampling.temperature > 0 and not sampling.HasField("seed"):
            raise InputError(field="seed", problem="none at a temperature above 0", remedy="Give any number")
        self._sampling = sampling
        self._vocabulary_size = vocabulary_size
        self._repetition_penalty = sampling.repetition_penalty if sampling.HasField("repetition_penalty") else 1.0
        self._biased_ids = np.fromiter(sampling.logit_bias.keys(), np.int64)
        self._biases = np.fromiter(sampling.logit_bias.values(), np.float64)

    def sample(self, logits: Float32[Tensor, " vocabulary"], new_ids: Sequence[int]) -> head_pb2.SampledToken:
        """The token that follows `new_ids`, with the log probabilities that were asked for.

        Args:
            logits: of this token; on the CPU, all finite.
            new_ids: the whole reply so far, of tokens that the model has.
        """
        assert logits.shape == (self._vocabulary_size,)
        scores = logits.numpy()
        adjusted = self.adjusted(scores, new_ids)
        if self._sampling.temperature == 0:
            token_id = int(adjusted.argmax())
        else:
            token_id = _reaching(kept_weights(adjusted, self._sampling), uniform(self._sampling.seed, len(new_ids)))
        token = head_pb2.SampledToken(token_id=token_id)
        if self._sampling.log_probabilities:
            self._add_log_probabilities(token, scores)
        return token

    def adjusted(self, scores: Float[Array, " vocabulary"], new_ids: Sequence[int]) -> Float[Array, " vocabulary"]:
        """The scores after penalties and bias: the same array where there are none, else a new one of float64."""
        sampling, penalty = self._sampling, self._repetition_penalty
        penalized = penalty != 1 or sampling.presence_penalty != 0 or sampling.frequency_penalty != 0
        if not penalized and not sampling.logit_bias:
            return scores
        adjusted = scores.astype(np.float64)
        if penalized:
            ids, counts = np.unique(np.fromiter(new_ids, np.int64), return_counts=True)
            repeated = np.union1d(self._prompt_ids, ids)
            values = adjusted[repeated]
            adjusted[repeated] = np.where(values > 0, values / penalty, values * penalty)
            adjusted[ids] -= sampling.presence_penalty + sampling.frequency_penalty * counts
        adjusted[self._biased_ids] += self._biases
        return adjusted

    def _add_log_probabilities(self, token: head_pb2.SampledToken, scores: Float[Array, " vocabulary"]) -> None:
        normalizer = float(scores.max()) + math.log(_weights(scores, 1.0).sum())
        token.log_probability = float(scores[token.token_id]) - normalizer
        if num := min(self._sampling.top_log_probabilities, len(scores)):
            ids = np.flatnonzero(scores >= _kth_largest(scores, num))
            for token_id in ids[(-scores[ids]).argsort(kind="stable")][:num]:
                token.top.add(token_id=int(token_id), log_probability=float(scores[token_id]) - normalizer)


def kept_weights(scores: Float[Array, " vocabulary"], sampling: head_pb2.Sampling) -> Float64[Array, " vocabulary"]:
    """The probability of each token at a temperature above 0, but for a factor; 0 where it is not kept.

    As in transformers, all that are as probable as the k-th token pass top-k, and each of top-p and min-p goes by the
    probabilities among the tokens that are left. The most probable token always stays.
    """
    weights = _weights(scores, sampling.temperature)
    if 0 < sampling.top_k < len(scores):
        weights[scores < _kth_largest(scores, sampling.top_k)] = 0
    if sampling.HasField("top_p") and sampling.top_p < 1:
        last = _reaching(weights, sampling.top_p)
        equal = np.flatnonzero(weights == weights[last])
        weights[equal[equal > last]] = 0
        weights[weights < weights[last]] = 0
    if sampling.min_p > 0:
        weights[weights < sampling.min_p] = 0
    return weights


def _weights(scores: Float[Array, " vocabulary"], temperature: float) -> Float64[Array, " vocabulary"]:
    """The probability of each token as a share of the greatest one."""
    exponents = np.subtract(scores, scores.max(), dtype=np.float64)
    with np.errstate(over="ignore"):  # a temperature near 0: exp(-inf) is right
        exponents /= temperature
    return np.exp(exponents, out=exponents)


def _reaching(weights: Float64[Array, " vocabulary"], share: float) -> int:
    """The token with which the most probable ones, in their order, reach a share, from 0 to 1, of all weight.

    Sorts only those tokens whose weights have the same exponent and first bits of the mantissa as the one it looks
    for: to sort a whole vocabulary takes ten times as long.
    """
    buckets = weights.view(np.int64) >> _BUCKET_SHIFT  # ascending as the weights, which are not negative
    masses = np.bincount(buckets, weights)[::-1]
    sums = masses.cumsum()
    goal = share * sums[-1]
    rank = int(sums.searchsorted(goal))
    inside = np.flatnonzero(buckets == len(masses) - 1 - rank)
    inside = inside[(-weights[inside]).argsort(kind="stable")]
    rest = goal - (sums[rank - 1] if rank else 0.0)
    sums = weights[inside].cumsum()
    return int(inside[sums.searchsorted(min(rest, sums[-1]))])  # the last sum may be rounded to less than the rest


def _kth_largest(scores: Float[Array, " vocabulary"], k: int) -> float:
    return float(torch.from_numpy(scores).topk(k, sorted=False).values.min())


def uniform(seed: int, index: int) -> float:
    """A random number of [0, 1) with 53 bits: the first word of Philox4x64-10 with this key, after this counter.

    Salmon et al., "Parallel random numbers: as easy as 1, 2, 3", 2011.
    """
    return (int(np.random.Philox(key=seed, counter=index).random_raw()) >> 11) * 2.0**-53


def check_token_ids(field: str, ids: Iterable[int], vocabulary_size: int) -> None:
    """Raises InputError for a token that the model does not have."""
    for token_id in ids:
        if not 0 <= token_id < vocabulary_size:
            remedy = f"Give ids from 0 to {vocabulary_size - 1}"
            raise InputError(field=field, problem=f"the model has no token {token_id}", remedy=remedy)
