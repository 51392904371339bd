"""The most probable labels of an image."""

from typing import ClassVar

from torch import Tensor

from dtufc.errors import InputError
from dtufc.models.capabilities import Labels
from dtufc.serving.limits import MAX_LABELS
from dtufc.serving.telemetry import Record
from dtufc.v1 import head_pb2
from dtufc_cloud.settings import CloudSettings


class Classify:
    name: ClassVar = "classify"
    request: ClassVar = head_pb2.ClassifyTask
    needs: ClassVar = Labels

    def check(self, request: head_pb2.ClassifyTask, settings: CloudSettings) -> None:
        if not 0 < request.top_k <= MAX_LABELS:
            raise InputError(field="top_k", problem=f"{request.top_k} labels", remedy=f"Ask for 1 to {MAX_LABELS}")

    def run(
        self, head: Labels, features: Tensor, request: head_pb2.ClassifyTask, record: Record
    ) -> head_pb2.ClassifyResult:
        with record.stages.measure("cloud.head"):
            found = head.labels(features, request.top_k)
        labels = [head_pb2.Label(index=x.index, name=x.name, probability=x.probability) for x in found]
        return head_pb2.ClassifyResult(labels=labels)
