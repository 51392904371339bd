"""The questions, and the arithmetic of the pages on models that are cut in several places."""

from collections import Counter

import numpy as np
import pytest

from dtufc_research.data.sources import questions
from dtufc_research.evaluation import language
from dtufc_research.evaluation.methods import bits_at, codec_method, reached
from tests.coding.contract import fitted


def test_every_question_has_four_choices_and_no_letter_is_right_more_often() -> None:
    asked = questions()
    assert len(asked) == 340
    assert len({question.text for question in asked}) == 340
    assert all(len(set(question.choices)) == 4 for question in asked)
    letters = Counter(question.right for question in asked)
    assert max(letters.values()) - min(letters.values()) <= 20


def test_bits_at_an_agreement_are_linear_between_rates_and_bounds_outside() -> None:
    curve = [(2.0, 0.9), (1.0, 0.7)]
    assert [bits_at(curve, agreement) for agreement in (0.8, 0.6, 0.95)] == ["1.50", "< 1.00", "> 2.00"]
    assert bits_at(curve, 0.8, digits=4) == "1.5000"


def test_codecs_are_compared_at_the_qualities_that_they_reach() -> None:
    codec = fitted("llm")
    assert reached(codec, "levels", (0.2, 0.6)) == [None]
    assert reached(codec, "klt", (0.2, 0.6)) == [0.2, 0.6]
    highest = codec.quality_ranges["hyperprior"][1]
    assert 0.2 < highest < 0.9
    assert reached(codec, "hyperprior", (0.2, 0.9)) == [0.2, highest]


def test_a_page_has_a_row_for_each_way_of_asking() -> None:
    row = {"texts": [1.5, 0.9], "all": [1.6, 0.95, 182], "first 100": [1.6, 0.96, 55]}
    bare = {"all": [1.4, 0.5, 182]}
    points = {
        "right": {"all": list(range(182))},
        "rows": {"14": {"klt, quality 0.4": row, "klt without focus, quality 0.4": bare}},
    }
    page = language.page("a-model", points)
    assert "182 of 340 (all)" in page
    assert "| klt | < 1.50 | < 1.50 | > 1.50 |" in page
    assert "| klt, quality 0.4 | 1.500 | 0.900 | all | 1.600 | 0.950 |" in page
    assert "| klt without focus, quality 0.4 | | | all | 1.400 | 0.500 |" in page


@pytest.mark.parametrize("focus", [[], [-1]])
def test_a_method_of_a_profile_takes_a_focus(focus: list[int]) -> None:
    codec = fitted("llm")
    sent = np.random.default_rng(0).standard_normal((20, 24)).astype(np.float32)
    method = codec_method("klt", codec, "klt", 0.4)
    data = method.encode(sent, focus=focus)
    assert data == codec.encode(sent, quality=0.4, focus=focus)
    np.testing.assert_array_equal(method.decode(data, sent.shape), codec.decode(data))
