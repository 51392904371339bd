"""An image: its label map."""

from collections.abc import AsyncIterator
from typing import ClassVar

from dtufc.models.capabilities import PatchFeatures
from dtufc.v1 import head_pb2, inference_pb2
from dtufc_edge.tasks import Call, Method
from dtufc_edge.tasks.images import image_features


class Segment:
    name: ClassVar = "segment"
    method: ClassVar = Method(
        service="dtufc.v1.InferenceService",
        name="Segment",
        request=inference_pb2.SegmentRequest,
        reply=inference_pb2.SegmentReply,
    )
    needs: ClassVar = PatchFeatures

    async def run(self, call: Call, request: inference_pb2.SegmentRequest) -> AsyncIterator[inference_pb2.SegmentReply]:
        backbone: PatchFeatures = call.backbone
        features, box, (width, height) = await image_features(call, request.image, backbone.fit)
        task = head_pb2.SegmentTask(
            left=box.left, top=box.top, right=box.right, bottom=box.bottom, width=width, height=height
        )
        result = await call.send(features, task, head_pb2.SegmentResult)
        yield inference_pb2.SegmentReply(
            label_map_png=result.label_map_png, width=width, height=height, cost=call.cost()
        )
