"""Tokens become text one by one, and the texts together are what all tokens decode to.

A token has no text of its own: a character may be cut between tokens, and a sequence's first token loses its space. So
the last tokens are decoded again with the new one behind them:

    | forgotten        | context                                 | held                    |
    | its text is out  | the last two steps that added some text | its text is not out yet |

A token adds what the text of context and held tokens has behind that of the context. The context's text is not empty,
so what a decoder does at the start of a sequence does not reach the held tokens.
"""

import re
from collections.abc import Callable, Sequence
from typing import Any, Final

from transformers import PreTrainedTokenizerFast

_CUT: Final = "\N{REPLACEMENT CHARACTER}"  # what the bytes of an unfinished character decode to
_BYTE: Final = re.compile("<0x[0-9A-Fa-f]{2}>")
_NUM_PROBED: Final = 8  # tokens at the end, at least as many as a character has bytes


class Detokenizer:
    """The text of one reply.

    It is exact where later tokens change the text of a token in two ways only: they complete a character, or the token
    is open. Text is held until neither can happen. A token costs a few short decodings whatever the reply's length, on
    average over those that are held together.

    Byte fallback (`<0x0A>`) is what makes tokens open: a run of bytes that is not UTF-8 as a whole decodes to as many
    U+FFFD as it has bytes, its good characters and line ends among them. Such a run comes when it is over.
    """

    def __init__(self, decode: Callable[[list[int]], str], is_open: Callable[[int], bool]) -> None:
        """Takes `decode` and `is_open` of a backbone (`TokenFeatures`)."""
        self._decode = decode
        self._is_open = is_open
        self._is_in_run = False
        self._ids: list[int] = []  # context, then held
        self._last_step = 0  # where that of the context starts
        self._num_context = 0
        self._context = ""

    def add(self, token_id: int) -> str:
        """The text that this token adds: empty while it is held, then with that of the tokens before it."""
        self._ids.append(token_id)
        # A token without text ends no run of open ones.
        self._is_in_run = self._is_open(token_id) or (self._is_in_run and not self._decode([token_id]))
        # A look at the end alone, so that tokens which are held for long do not cost more and more.
        if self._is_in_run or _may_change(self._decode(self._ids[-_NUM_PROBED:])):
            return ""
        text = self._decode(self._ids)
        added = self._behind_context(text)
        if not added or _may_change(text):
            return ""
        self._advance(text)
        return added

    def finish(self) -> str:
        """The text that is still held, as it stands: U+FFFD for a character that was not finished."""
        return self._behind_context(self._decode(self._ids))

    def _behind_context(self, text: str) -> str:
        assert text.startswith(self._context), "tokens that are not open have changed the text before them"
        return text[len(self._context) :]

    def _advance(self, text: str) -> None:
        """What was held becomes the context's last step. `text` is that of all tokens here."""
        shorter = self._decode(self._ids[self._last_step :])
        if shorter:
            del self._ids[: self._last_step]
            self._num_context -= self._last_step
        self._last_step = self._num_context
        self._num_context = len(self._ids)
        self._context = shorter or text


class TokenTexts:
    """The texts of single tokens: what each adds behind some text, and alone as the first one of a reply.

    Those of a reply are together its text, but where a character is cut between tokens: each part of it is U+FFFD.
    """

    def __init__(self, decode: Callable[[list[int]], str], before: Sequence[int]) -> None:
        """Takes `decode` of a backbone, and the tokens of a text that ends in a letter."""
        self._decode = decode
        self._before = list(before)
        self._text_before = decode(self._before)

    def text(self, token_id: int, *, is_first: bool) -> str:
        """The text of a token, which is the first one of a reply or a later one."""
        if is_first:
            return self._decode([token_id])
        return self._decode([*self._before, token_id]).removeprefix(self._text_before)


def open_ids(tokenizer: Any) -> frozenset[int] | None:
    """The open tokens of a tokenizer of transformers: the bytes of a byte fallback. None: every token.

    A tokenizer without a backend in Rust may join tokens in any way; its text comes at the end, as a whole.
    """
    if not isinstance(tokenizer, PreTrainedTokenizerFast):
        return None
    if "ByteFallback" not in repr(tokenizer.backend_tokenizer.decoder):
        return frozenset()
    return frozenset(token_id for token, token_id in tokenizer.get_vocab().items() if _BYTE.fullmatch(token))


def _may_change(text: str) -> bool:
    return not text or text.endswith(_CUT)
