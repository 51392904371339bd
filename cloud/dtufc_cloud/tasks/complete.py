"""The most probable next token."""

from typing import ClassVar

from torch import Tensor

from dtufc.models.capabilities import NextTokenLogits
from dtufc.serving.telemetry import Record
from dtufc.v1 import head_pb2
from dtufc_cloud.settings import CloudSettings


class Complete:
    name: ClassVar = "complete"
    request: ClassVar = head_pb2.NextTokenTask
    needs: ClassVar = NextTokenLogits

    def check(self, request: head_pb2.NextTokenTask, settings: CloudSettings) -> None:
        """Nothing can be wrong with it."""

    def run(
        self, head: NextTokenLogits, features: Tensor, request: head_pb2.NextTokenTask, record: Record
    ) -> head_pb2.NextTokenResult:
        with record.stages.measure("cloud.head"):
            return head_pb2.NextTokenResult(token_id=head.next_token(features))
