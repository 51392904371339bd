"""What the tasks of images share: a file becomes an image in a process of its own, and features in a thread."""

from collections.abc import Callable
from typing import TypeVar

from PIL import Image
from torch import Tensor

from dtufc_edge.image_decoding import Pixels
from dtufc_edge.tasks import Call

T = TypeVar("T")


async def image_features(
    call: Call, data: bytes, preprocess: Callable[[Image.Image], tuple[Tensor, T]]
) -> tuple[Tensor, T, tuple[int, int]]:
    """An image file's features.

    No more images are unpacked at a time than there are threads. Those that take long to decode hold up each other, and
    no other request.

    Args:
        call: the request.
        data: the file.
        preprocess: the image as the model takes it, and what else the task wants to know of that.

    Returns:
        The features, what else `preprocess` said, and the image's width and height.
    """

    def run(decoded: Pixels) -> tuple[Tensor, T, tuple[int, int]]:
        with stages.measure("edge.preprocess"):
            pixels, told = preprocess(decoded.to_image())
        with stages.measure("edge.backbone"):
            return call.backbone.features(pixels), told, (decoded.width, decoded.height)

    stages = call.record.stages
    async with call.images.turn:
        with stages.measure("edge.preprocess"):
            decoded = await call.images.decode(data)
        return await call.work(run, decoded)
