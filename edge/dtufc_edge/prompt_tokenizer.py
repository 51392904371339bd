"""Text becomes token ids; what a user wrote never becomes a control token.

The text of a control token, such as `<|im_end|>`, is that token where the model's chat template writes it, and plain
characters where a user does:

    turns -> chat template -> text ------------------------------------> tokenizer ------------------> ids
                              | a turn contains a control token's text                                  ^
                              +--> the template's ones under secret names -> tokenizer of these names --+

The second tokenizer is the first one, only that its control tokens have random names, which no user can know. It
tokenizes the text as a whole, too: what merges across the border of a turn still does. It is built when the first text
needs it, and takes about as much memory as the first one.

Invariants:
- Where no turn contains a control token's text, the ids are those of `apply_chat_template`.
- No state of a tokenizer changes by a call (`split_special_tokens` would): threads may share it.
"""

import json
import re
import secrets
from collections.abc import Sequence
from dataclasses import replace
from functools import cached_property
from typing import Any, Final, get_args

import jinja2
from tokenizers import Tokenizer
from transformers import PreTrainedTokenizerFast

from dtufc.errors import InputError
from dtufc.models.capabilities import Role, Turn

_REMEDY: Final = "Leave it out"


class PromptTokenizer:
    """A tokenizer of transformers, for texts of users."""

    def __init__(self, tokenizer: Any) -> None:
        self._tokenizer = tokenizer
        self._normalizer = tokenizer.backend_tokenizer.normalizer if _is_fast(tokenizer) else None
        self._secret = secrets.token_hex(8)
        self._names: dict[str, str] = {}  # by a control token's text, as it is or normalized, its secret name
        self._tokens = self._control_tokens()
        for index, token in enumerate(self._tokens):
            texts = [token.content, *(self._normalized(token.content) if token.normalized else [])]
            self._names |= dict.fromkeys(filter(None, texts), f"{self._secret}x{index}x")
        longest_first = sorted(self._names, key=len, reverse=True)
        self._control = re.compile("|".join(map(re.escape, longest_first)) or "(?!)")

    def plain_ids(self, text: str) -> list[int]:
        """Token ids of a text as it stands, with the tokens that the tokenizer begins and ends a text with.

        Raises:
            InputError: it contains a control token's text, which this tokenizer cannot take as characters.
        """
        if self._controls(text):
            return self._literal_ids(text, add_special_tokens=True)
        return list(self._tokenizer(text)["input_ids"])

    def chat_ids(self, turns: Sequence[Turn]) -> list[int]:
        """Token ids of a conversation in the model's chat template, up to where the reply starts.

        Where the tokenizer has no template, those of the text of one user turn.

        Raises:
            InputError: the template rejects the conversation, or there is none and this is more than one user turn; or
                a turn contains a control token's text, and the tokenizer cannot take it as characters or the template
                changes the turn's text.
        """
        if not self._tokenizer.chat_template:
            if [turn.role for turn in turns] != ["user"]:
                problem = "the model has no chat template"
                raise InputError(field="messages", problem=problem, remedy="Send one message, the user's")
            return self.plain_ids(turns[0].content)
        rendered = self._render(turns)
        if any(self._controls(turn.content) for turn in turns):
            return self._literal_ids(self._named_text(turns, rendered), add_special_tokens=False)
        return list(self._tokenizer(rendered, add_special_tokens=False)["input_ids"])

    def _control_tokens(self) -> list[Any]:
        """The special tokens, and those of the other added ones that the chat template writes."""
        added = self._tokenizer.added_tokens_decoder.values()
        written = self._written()
        return [t for t in added if t.special or (t.content in written and not t.content.isspace())]

    def _written(self) -> str:
        """The chat template's source, and what it makes of a turn: it may join names, as in `<|` + role + `|>`."""
        if not self._tokenizer.chat_template:
            return ""
        texts = [self._tokenizer.get_chat_template()]
        for role in get_args(Role):
            try:
                texts.append(self._render([Turn(role=role, content="text")]))
            except InputError:  # a template need not take every role
                continue
        return "\n".join(texts)

    def _render(self, turns: Sequence[Turn]) -> str:
        messages = [{"role": turn.role, "content": turn.content} for turn in turns]
        try:
            return str(self._tokenizer.apply_chat_template(messages, add_generation_prompt=True, tokenize=False))
        except jinja2.TemplateError as error:
            problem = f"the model's chat template rejects them: {error}"
            raise InputError(field="messages", problem=problem, remedy="Send a conversation that it takes") from error

    def _normalized(self, text: str) -> list[str]:
        """The text as the tokenizer's model gets it; some added tokens are looked for there."""
        return [self._normalizer.normalize_str(text)] if self._normalizer is not None else []

    def _controls(self, text: str) -> list[str]:
        """The control tokens' texts that a tokenizer may find in this one."""
        return [found for form in (text, *self._normalized(text)) for found in self._control.findall(form)]

    def _placeholders(self, turns: Sequence[Turn], roles: Sequence[Role]) -> list[Turn]:
        """Stands for the texts of these roles; not for a blank one, whose turn a template may leave out."""
        names = [f"{self._secret}turn{index}end" for index in range(len(turns))]
        return [
            replace(turn, content=name) if turn.role in roles and turn.content.strip() else turn
            for turn, name in zip(turns, names, strict=True)
        ]

    def _named_text(self, turns: Sequence[Turn], rendered: str) -> str:
        """The rendered text, with secret names in the place of the control tokens that the template writes."""
        template = self._render(self._placeholders(turns, get_args(Role)))
        filled = self._filled(turns, template, rendered)
        if filled is None:  # a template may leave out what an earlier reply has thought; no control token may be left
            with_replies = self._render(self._placeholders(turns, ("system", "user")))
            if self._controls(with_replies) == self._controls(template):
                filled = self._filled(turns, with_replies, rendered)
        if filled is None:
            found = next(found for turn in turns for found in self._controls(turn.content))
            problem = f"it contains {found!r}, and the model's chat template changes the text of this conversation"
            raise InputError(field="prompt", problem=problem, remedy=_REMEDY)
        return filled

    def _filled(self, turns: Sequence[Turn], template: str, rendered: str) -> str | None:
        """The template under secret names, its placeholders filled; None if that does not give the rendered text."""
        written, *placed = re.split(f"{self._secret}turn([0-9]+)end", template)
        filled, at = [self._named(written)], len(written)
        for index, behind in zip(placed[::2], placed[1::2], strict=True):
            whole = turns[int(index)].content
            forms = (whole, whole.strip(), whole.lstrip(), whole.rstrip())  # many templates trim
            content = next((form for form in forms if rendered.startswith(form + behind, at)), None)
            if content is None:
                return None
            filled += [content, self._named(behind)]
            at += len(content + behind)
        return "".join(filled) if rendered.startswith(written) and at == len(rendered) else None

    def _named(self, text: str) -> str:
        return self._control.sub(lambda match: self._names[match[0]], text)

    def _literal_ids(self, text: str, *, add_special_tokens: bool) -> list[int]:
        """Token ids of a text whose control tokens stand under their secret names, and nothing else is one."""
        if not _is_fast(self._tokenizer):
            problem = f"it contains {self._controls(text)[0]!r}, which is a control token of the model"
            raise InputError(field="prompt", problem=problem, remedy=_REMEDY)
        tokenizer, added = self._literal
        encoding = tokenizer.encode(text, add_special_tokens=add_special_tokens)
        ids = []
        for token_id, is_of_processor in zip(encoding.ids, encoding.special_tokens_mask, strict=True):
            if token_id in self._model_controls and not is_of_processor:
                problem = f"it contains {tokenizer.id_to_token(token_id)!r}, which the tokenizer cannot take as text"
                raise InputError(field="prompt", problem=problem, remedy=_REMEDY)
            ids.append(token_id if is_of_processor else added.get(token_id, token_id))
        return ids

    @cached_property
    def _literal(self) -> tuple[Tokenizer, dict[int, int]]:
        """The tokenizer of the secret names, and the ids of its added tokens -> those of the model."""
        state = json.loads(self._tokenizer.backend_tokenizer.to_str())
        state |= {"truncation": None, "padding": None}
        ids = {}
        for token in state["added_tokens"]:
            if name := self._names.get(token["content"]):
                token |= {"content": name, "normalized": False, "single_word": False}  # found wherever it stands
            ids[token["content"]] = token["id"]
        tokenizer = Tokenizer.from_str(json.dumps(state))
        vocabulary = tokenizer.get_vocab()
        return tokenizer, {vocabulary[content]: token_id for content, token_id in ids.items()}

    @cached_property
    def _model_controls(self) -> frozenset[int]:
        """Control tokens that the tokenizer's model may make of characters, as a unigram model may.

        Without the one for what it does not know, which says nothing.
        """
        tokenizer, _ = self._literal
        known = (tokenizer.token_to_id(token.content) for token in self._tokens)
        return frozenset(i for i in known if i not in (None, self._tokenizer.unk_token_id))


def _is_fast(tokenizer: Any) -> bool:
    return isinstance(tokenizer, PreTrainedTokenizerFast)
