"""A prompt or a conversation: the reply's tokens, each as it comes."""

from collections.abc import AsyncIterator
from contextlib import aclosing
from typing import ClassVar, Final

from dtufc.coding.rate import Rate
from dtufc.errors import InputError
from dtufc.models.capabilities import TokenFeatures
from dtufc.serving.sampling import check_sampling
from dtufc.v1 import inference_pb2
from dtufc_edge.detokenizer import Detokenizer
from dtufc_edge.generation import Generation
from dtufc_edge.stop_texts import StopTexts
from dtufc_edge.tasks import Call, Method
from dtufc_edge.tasks.text import prompt_ids, turns_of

_DEFAULT_NEW_TOKENS: Final = 32


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
        check_sampling(request.sampling)
        stops = StopTexts(request.stop)
        token_rate = _token_rate(call, request)
        max_tokens = request.max_tokens or _DEFAULT_NEW_TOKENS
        if max_tokens > call.settings.max_new_tokens:
            remedy = f"Ask for at most {call.settings.max_new_tokens}"
            raise InputError(field="max_tokens", problem=f"{max_tokens}", remedy=remedy)
        field = "messages" if request.messages else "prompt"
        token_ids = await prompt_ids(call, turns_of(request), plain=request.plain, field=field)
        if backbone.max_tokens is not None:  # the last token is not sent
            max_tokens = max(1, min(max_tokens, backbone.max_tokens - len(token_ids) + 1))
        num_rows = len(token_ids) + max_tokens
        text = Detokenizer(backbone.decode, backbone.is_open)
        finish_reason = "length"
        with call.budget.reserve(backbone.cache_bytes(num_rows), num_rows):
            generation = Generation(call, token_ids, max_tokens, request.sampling, token_rate, request.drafts)
            async with aclosing(generation.tokens()) as tokens:
                async for token in tokens:
                    if generation.is_stop(token.token_id):
                        finish_reason = "end"
                        break
                    added, met = stops.add(text.add(token.token_id))
                    yield inference_pb2.CompleteReply(text=added, token=token)
                    if met:
                        finish_reason = "stop"
                        break
        rest = ""
        if finish_reason != "stop":
            rest, met = stops.add(text.finish())
            if met:
                finish_reason = "stop"
            else:
                rest += stops.finish()
        yield inference_pb2.CompleteReply(
            text=rest, finish_reason=finish_reason, cost=call.cost(), generated=generation.so_far
        )


def _token_rate(call: Call, request: inference_pb2.CompleteRequest) -> Rate:
    """Of each row of the reply. A limit of bytes is the prompt's alone: a row costs more a value than many together."""
    if not request.HasField("token_quality"):
        return Rate(quality=call.exchange.rate.quality)
    rate = Rate(quality=request.token_quality)
    call.pipeline.codec.check_rate(call.exchange.codec, rate)
    return rate
