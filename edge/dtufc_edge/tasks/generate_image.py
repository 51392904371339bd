"""A prompt: an image of it, after a reply for each step of the denoiser."""

import asyncio
from collections.abc import AsyncIterator
from typing import ClassVar, Final

from dtufc.models.capabilities import Generation, LatentFeatures
from dtufc.v1 import head_pb2, inference_pb2
from dtufc_edge.tasks import Call, Method

_DONE: Final = -1  # behind the steps of the denoiser


class GenerateImage:
    name: ClassVar = "generate-image"
    method: ClassVar = Method(
        service="dtufc.v1.InferenceService",
        name="GenerateImage",
        request=inference_pb2.GenerateImageRequest,
        reply=inference_pb2.GenerateImageReply,
        streams=True,
    )
    needs: ClassVar = LatentFeatures

    async def run(
        self, call: Call, request: inference_pb2.GenerateImageRequest
    ) -> AsyncIterator[inference_pb2.GenerateImageReply]:
        backbone: LatentFeatures = call.backbone
        defaults = call.pipeline.profile.spec.generation
        generation = Generation(
            prompt=request.prompt,
            seed=request.seed,
            steps=request.steps or defaults.steps,
            guidance=request.guidance if request.HasField("guidance") else defaults.guidance,
            width=request.width or backbone.default_pixels,
            height=request.height or backbone.default_pixels,
        )
        backbone.check(generation, call.settings.max_steps)
        steps: asyncio.Queue[int] = asyncio.Queue()
        loop = asyncio.get_running_loop()

        def on_step(step: int) -> None:
            loop.call_soon_threadsafe(steps.put_nowait, step)

        denoising = asyncio.ensure_future(call.in_backbone(backbone.latent, generation, defaults, on_step))
        denoising.add_done_callback(lambda _: steps.put_nowait(_DONE))
        try:
            while (step := await steps.get()) != _DONE:
                yield inference_pb2.GenerateImageReply(step=step, num_steps=generation.steps)
            latent = await denoising
        finally:
            denoising.cancel()
        result = await call.send(latent, head_pb2.DecodeImageTask(), head_pb2.DecodeImageResult)
        yield inference_pb2.GenerateImageReply(
            step=generation.steps,
            num_steps=generation.steps,
            image_png=result.image_png,
            width=generation.width,
            height=generation.height,
            cost=call.cost(),
        )
