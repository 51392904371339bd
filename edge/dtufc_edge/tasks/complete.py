"""A prompt: the next tokens, each as it comes."""

from collections.abc import AsyncIterator
from typing import ClassVar, Final

import torch

from dtufc.errors import InputError
from dtufc.models.capabilities import TokenFeatures
from dtufc.v1 import head_pb2, inference_pb2
from dtufc_edge.tasks import Call, Method
from dtufc_edge.tasks.text import prompt_ids

_DEFAULT_NEW_TOKENS: Final = 32
_UNFINISHED: Final = "\N{REPLACEMENT CHARACTER}"  # what a character cut between two tokens decodes to


class Complete:
    name: ClassVar = "complete"
    method: ClassVar = Method(
        service="dtufc.v1.InferenceService",
        name="Complete",
        request=inference_pb2.CompleteRequest,
        reply=inference_pb2.CompleteReply,
        streams=True,
    )
    needs: ClassVar = TokenFeatures

    async def run(
        self, call: Call, request: inference_pb2.CompleteRequest
    ) -> AsyncIterator[inference_pb2.CompleteReply]:
        backbone: TokenFeatures = call.backbone
        if not request.prompt.strip():
            raise InputError(field="prompt", problem="it is empty", remedy="Write something")
        num_tokens = request.max_tokens or _DEFAULT_NEW_TOKENS
        if num_tokens > call.settings.max_new_tokens:
            remedy = f"Ask for at most {call.settings.max_new_tokens}"
            raise InputError(field="max_tokens", problem=f"{num_tokens}", remedy=remedy)
        tokenize = backbone.plain_ids if request.plain else backbone.chat_ids
        token_ids = await prompt_ids(call, tokenize, request.prompt)
        if backbone.max_tokens is not None:  # the last token is not sent
            num_tokens = max(1, min(num_tokens, backbone.max_tokens - len(token_ids) + 1))
        session = backbone.start()
        features = await call.in_backbone(session.features, token_ids)
        new_ids: list[int] = []
        text = ""
        finish_reason = "length"
        while len(new_ids) < num_tokens:
            # The cloud keeps nothing between calls yet: each token sends the whole sequence's features again.
            result = await call.send(features, head_pb2.NextTokenTask(), head_pb2.NextTokenResult, focus=[-1])
            if backbone.is_end(result.token_id):
                finish_reason = "end"
                break
            new_ids.append(result.token_id)
            whole = backbone.decode(new_ids)
            added = "" if whole.endswith(_UNFINISHED) else whole[len(text) :]
            text += added
            yield inference_pb2.CompleteReply(text=added, token_id=result.token_id)
            if len(new_ids) < num_tokens:
                row = await call.in_backbone(session.features, new_ids[-1:])
                features = torch.cat([features, row])
        rest = backbone.decode(new_ids)[len(text) :]
        yield inference_pb2.CompleteReply(text=rest, finish_reason=finish_reason, cost=call.cost())
