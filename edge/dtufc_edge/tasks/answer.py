"""A question with choices: the letter of one, and every choice's probability."""

from collections.abc import AsyncIterator
from string import ascii_uppercase
from typing import ClassVar

from dtufc.errors import InputError
from dtufc.models.capabilities import TokenFeatures, Turn
from dtufc.models.inputs import choice_prompt
from dtufc.v1 import head_pb2, inference_pb2
from dtufc_edge.tasks import Call, Method
from dtufc_edge.tasks.text import prompt_ids


class Answer:
    name: ClassVar = "answer"
    method: ClassVar = Method(
        service="dtufc.v1.InferenceService",
        name="Answer",
        request=inference_pb2.AnswerRequest,
        reply=inference_pb2.AnswerReply,
    )
    needs: ClassVar = TokenFeatures

    async def run(self, call: Call, request: inference_pb2.AnswerRequest) -> AsyncIterator[inference_pb2.AnswerReply]:
        backbone: TokenFeatures = call.backbone
        letters = ascii_uppercase[: len(request.choices)]
        if not request.question.strip():
            raise InputError(field="question", problem="it is empty", remedy="Ask something")
        if not 2 <= len(request.choices) <= len(ascii_uppercase) or not all(c.strip() for c in request.choices):
            raise InputError(field="choices", problem="not two to 26 texts", remedy="Give two to 26 that say something")
        turn = Turn(role="user", content=choice_prompt(request.question, request.choices))
        token_ids = await prompt_ids(call, [turn])
        letter_ids = [backbone.token_id(letter) for letter in letters]
        if len(set(letter_ids)) < len(letters):
            problem = f"the tokenizer of {call.record.model} has no token of its own for each letter"
            raise InputError(field="profile", problem=problem, remedy="Name another profile")
        with call.budget.reserve(backbone.cache_bytes(len(token_ids)), len(token_ids)):
            features = await call.in_backbone(backbone.features, backbone.start(), token_ids)
        task = head_pb2.AnswerTask(token_ids=letter_ids)
        result = await call.send(features, task, head_pb2.AnswerResult, focus=[-1])
        choice = max(range(len(letters)), key=result.probabilities.__getitem__)
        yield inference_pb2.AnswerReply(
            letter=letters[choice], choice=choice, probabilities=result.probabilities, cost=call.cost()
        )
