"""What the tasks of text share: a prompt becomes tokens within the service's limits."""

from collections.abc import Callable
from typing import Final

from dtufc.errors import InputError
from dtufc_edge.tasks import Call

_MAX_CHARACTERS_PER_TOKEN: Final = 16  # on average over a prompt, generously


async def prompt_ids(call: Call, tokenize: Callable[[str], list[int]], prompt: str) -> list[int]:
    """Token ids of a prompt; one that cannot fit is rejected before it is tokenized.

    Raises:
        InputError: it is empty, or longer than the settings allow.
    """
    limit = call.settings.max_prompt_tokens
    remedy = f"Stay within {limit} tokens"
    if len(prompt) > limit * _MAX_CHARACTERS_PER_TOKEN:
        raise InputError(field="prompt", problem=f"{len(prompt)} characters", remedy=remedy)
    token_ids = await call.work(tokenize, prompt)
    if len(token_ids) > limit:
        raise InputError(field="prompt", problem=f"{len(token_ids)} tokens", remedy=remedy)
    return token_ids
