"""Where a stop text ends a reply: however tokens cut the text, the same goes out."""

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from dtufc.errors import InputError
from dtufc.serving.limits import MAX_STOP_CHARACTERS, MAX_STOP_TEXTS
from dtufc_edge.stop_texts import StopTexts

FEW = st.text("ab\n", max_size=12)


def before_stop(text: str, stops: list[str]) -> tuple[str, bool]:
    """By its definition: the shortest beginning that ends with a stop text, without the longest of these."""
    for end in range(1, len(text) + 1):
        met = [stop for stop in stops if text[:end].endswith(stop)]
        if met:
            return text[: end - max(map(len, met))], True
    return text, False


def streamed(stops: list[str], parts: list[str]) -> tuple[list[str], bool]:
    texts, going = [], StopTexts(stops)
    for part in parts:
        text, is_met = going.add(part)
        texts.append(text)
        if is_met:
            assert going.add("more") == ("", True)
            assert going.finish() == ""
            return texts, True
    return [*texts, going.finish()], False


@given(parts=st.lists(FEW, max_size=8), stops=st.lists(FEW.filter(bool), max_size=3))
@example(parts=["abaab"], stops=["abaab", "baa"])
def test_what_goes_out_is_the_text_before_the_stop_text_that_is_complete_first(
    parts: list[str], stops: list[str]
) -> None:
    texts, is_met = streamed(stops, parts)
    assert ("".join(texts), is_met) == before_stop("".join(parts), stops)


def test_only_what_may_become_a_stop_text_is_held() -> None:
    texts = ["Hi", "!", "", "", "\nUsed", "\n", "\n"]
    assert streamed(["\nUser:"], ["Hi", "!\n", "Us", "e", "d\n", "\n"]) == (texts, False)
    assert streamed(["\nUser:"], ["Hi\n", "\nUs", "er", ": and"]) == (["Hi", "\n", "", ""], True)
    assert streamed([], ["a", "\n"]) == (["a", "\n", ""], False)


@pytest.mark.parametrize(
    ("stops", "message"),
    [
        (["a"] * (MAX_STOP_TEXTS + 1), r"stop: 17 texts\. Give at most 16\."),
        (["a", ""], r"stop\[1\]: 0 characters\. Give 1 to 256 characters\."),
        (["a" * (MAX_STOP_CHARACTERS + 1)], r"stop\[0\]: 257 characters\. Give 1 to 256 characters\."),
    ],
)
def test_a_list_that_cannot_be_served_is_rejected(stops: list[str], message: str) -> None:
    with pytest.raises(InputError, match=message):
        StopTexts(stops)


def test_the_longest_list_is_served() -> None:
    longest = [chr(ord("a") + i) * MAX_STOP_CHARACTERS for i in range(MAX_STOP_TEXTS)]
    text = "".join(stop[1:] for stop in longest)
    assert "".join(streamed(longest, [text, "!"])[0]) == f"{text}!"
    assert streamed(longest, [text, "p"]) == ([text[: -MAX_STOP_CHARACTERS + 1], ""], True)
