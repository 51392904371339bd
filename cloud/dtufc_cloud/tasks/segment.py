"""The label map of an image."""

from typing import ClassVar

from torch import Tensor

from dtufc.errors import InputError
from dtufc.models.capabilities import DenseLabels
from dtufc.serving.telemetry import Record
from dtufc.v1 import head_pb2
from dtufc_cloud.settings import CloudSettings
from dtufc_cloud.tasks import as_png


class Segment:
    name: ClassVar = "segment"
    request: ClassVar = head_pb2.SegmentTask
    needs: ClassVar = DenseLabels

    def check(self, request: head_pb2.SegmentTask, settings: CloudSettings) -> None:
        if not 0 < request.width * request.height <= settings.max_image_pixels:
            problem = f"{request.width} x {request.height} pixels"
            remedy = f"Ask for 1 to {settings.max_image_pixels} pixels"
            raise InputError(field="size", problem=problem, remedy=remedy)

    def run(
        self, head: DenseLabels, features: Tensor, request: head_pb2.SegmentTask, record: Record
    ) -> head_pb2.SegmentResult:
        box = (request.left, request.top, request.right, request.bottom)
        with record.stages.measure("cloud.head"):
            labels = head.label_map(features, box, (request.height, request.width))
        return head_pb2.SegmentResult(label_map_png=as_png(labels, record))
