"""An image: its most probable labels."""

from collections.abc import AsyncIterator
from typing import ClassVar, Final

from PIL import Image
from torch import Tensor

from dtufc.errors import InputError
from dtufc.models.capabilities import ImageFeatures
from dtufc.serving.limits import MAX_LABELS
from dtufc.v1 import head_pb2, inference_pb2
from dtufc_edge.tasks import Call, Method
from dtufc_edge.tasks.images import image_features

_DEFAULT_LABELS: Final = 5


class Classify:
    name: ClassVar = "classify"
    method: ClassVar = Method(
        service="dtufc.v1.InferenceService",
        name="Classify",
        request=inference_pb2.ClassifyRequest,
        reply=inference_pb2.ClassifyReply,
    )
    needs: ClassVar = ImageFeatures

    async def run(
        self, call: Call, request: inference_pb2.ClassifyRequest
    ) -> AsyncIterator[inference_pb2.ClassifyReply]:
        backbone: ImageFeatures = call.backbone
        count = request.top_k or _DEFAULT_LABELS
        if count > MAX_LABELS:
            raise InputError(field="top_k", problem=f"{count} labels", remedy=f"Ask for at most {MAX_LABELS}")

        def preprocess(image: Image.Image) -> tuple[Tensor, None]:
            return backbone.crop(image), None

        features, _, _ = await image_features(call, request.image, preprocess)
        result = await call.send(features, head_pb2.ClassifyTask(top_k=count), head_pb2.ClassifyResult)
        yield inference_pb2.ClassifyReply(labels=result.labels, cost=call.cost())
