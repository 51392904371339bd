"""The image of a latent."""

from typing import ClassVar

from torch import Tensor

from dtufc.models.capabilities import ImageDecoder
from dtufc.serving.telemetry import Record
from dtufc.v1 import head_pb2
from dtufc_cloud.settings import CloudSettings
from dtufc_cloud.tasks import as_png


class GenerateImage:
    name: ClassVar = "generate-image"
    request: ClassVar = head_pb2.DecodeImageTask
    needs: ClassVar = ImageDecoder

    def check(self, request: head_pb2.DecodeImageTask, settings: CloudSettings) -> None:
        """Nothing can be wrong with it."""

    def run(
        self, head: ImageDecoder, features: Tensor, request: head_pb2.DecodeImageTask, record: Record
    ) -> head_pb2.DecodeImageResult:
        with record.stages.measure("cloud.head"):
            image = head.image(features)
        return head_pb2.DecodeImageResult(image_png=as_png(image, record))
