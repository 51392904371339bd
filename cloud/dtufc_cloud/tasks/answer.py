"""The probability of each of some tokens to come next."""

from typing import ClassVar

from torch import Tensor

from dtufc.errors import InputError
from dtufc.models.capabilities import NextTokenLogits
from dtufc.serving.limits import MAX_CHOICES
from dtufc.serving.telemetry import Record
from dtufc.v1 import head_pb2
from dtufc_cloud.settings import CloudSettings


class Answer:
    name: ClassVar = "answer"
    request: ClassVar = head_pb2.AnswerTask
    needs: ClassVar = NextTokenLogits

    def check(self, request: head_pb2.AnswerTask, settings: CloudSettings) -> None:
        if not 0 < len(request.token_ids) <= MAX_CHOICES:
            problem = f"{len(request.token_ids)} tokens"
            raise InputError(field="token_ids", problem=problem, remedy=f"Give 1 to {MAX_CHOICES} to choose from")

    def run(
        self, head: NextTokenLogits, features: Tensor, request: head_pb2.AnswerTask, record: Record
    ) -> head_pb2.AnswerResult:
        with record.stages.measure("cloud.head"):
            return head_pb2.AnswerResult(probabilities=head.answer(features, request.token_ids))
