"""What the tasks of text share: a conversation is checked, and becomes tokens within the service's limits."""

from collections.abc import Sequence
from typing import Final, cast, get_args

from dtufc.errors import InputError
from dtufc.models.capabilities import Role, TokenFeatures, Turn
from dtufc.v1 import inference_pb2
from dtufc_edge.tasks import Call

_MAX_CHARACTERS_PER_TOKEN: Final = 16  # on average over a prompt, generously
_ROLES: Final = get_args(Role)


def turns_of(request: inference_pb2.CompleteRequest) -> list[Turn]:
    """The conversation that is asked for: a prompt is one turn of the user.

    Raises:
        InputError: there is no prompt and no message, or both; a role that is not known, or a user's message without
            text; a conversation that does not end with the user, or that is to stand without the chat template.
    """
    if not request.messages:
        if not request.prompt.strip():
            raise InputError(field="prompt", problem="it is empty", remedy="Write something")
        return [Turn(role="user", content=request.prompt)]
    if request.prompt:
        raise InputError(field="prompt", problem="there are messages as well", remedy="Send the one or the others")
    if request.plain:
        problem = "a conversation has no text of its own"
        raise InputError(field="plain", problem=problem, remedy="Send a prompt, or messages without plain")
    turns = [_turn(index, message) for index, message in enumerate(request.messages)]
    if turns[-1].role != "user":
        field, problem = f"messages[{len(turns) - 1}].role", f"the last message is of {turns[-1].role}"
        raise InputError(field=field, problem=problem, remedy="End with the user's message")
    return turns


def _turn(index: int, message: inference_pb2.ChatMessage) -> Turn:
    if message.role not in _ROLES:
        problem = f"{message.role!r} is not known" if message.role else "it is empty"
        raise InputError(field=f"messages[{index}].role", problem=problem, remedy=f"Give {', '.join(_ROLES)}")
    if message.role == "user" and not message.content.strip():
        raise InputError(field=f"messages[{index}].content", problem="it is empty", remedy="Write something")
    return Turn(role=cast(Role, message.role), content=message.content)


async def prompt_ids(call: Call, turns: Sequence[Turn], *, plain: bool = False, field: str = "prompt") -> list[int]:
    """Token ids of a conversation; one that cannot fit is rejected before it is tokenized.

    Args:
        call: the request.
        turns: the conversation.
        plain: the one turn's text as it stands, without the model's chat template.
        field: that errors name.

    Raises:
        InputError: it is longer than the settings allow, or the model cannot take it.
    """
    backbone: TokenFeatures = call.backbone
    limit = call.settings.max_prompt_tokens
    remedy = f"Stay within {limit} tokens"
    num_characters = sum(len(turn.content) for turn in turns)
    if len(turns) > limit:
        raise InputError(field="messages", problem=f"{len(turns)} messages", remedy=remedy)
    if num_characters > limit * _MAX_CHARACTERS_PER_TOKEN:
        raise InputError(field=field, problem=f"{num_characters} characters", remedy=remedy)
    if plain:
        (turn,) = turns
        token_ids = await call.work(backbone.plain_ids, turn.content)
    else:
        token_ids = await call.work(backbone.chat_ids, turns)
    if not token_ids:
        raise InputError(
            field=field, problem="the model's tokenizer has no token for it", remedy="Write something else"
        )
    if len(token_ids) > limit:
        raise InputError(field=field, problem=f"{len(token_ids)} tokens", remedy=remedy)
    return token_ids
