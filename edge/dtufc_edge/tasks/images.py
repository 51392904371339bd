"""What the tasks of images share: a file becomes an image within the service's limits."""

from collections.abc import Callable
from typing import TypeVar

from PIL import Image
from torch import Tensor

from dtufc.models.images import open_image
from dtufc_edge.tasks import Call

T = TypeVar("T")


async def image_features(
    call: Call, data: bytes, preprocess: Callable[[Image.Image], tuple[Tensor, T]]
) -> tuple[Tensor, T, tuple[int, int]]:
    """An image file's features.

    It is opened and worked on in one piece: no more images are unpacked at a time than there are threads.

    Args:
        call: the request.
        data: the file.
        preprocess: the image as the model takes it, and what else the task wants to know of that.

    Returns:
        The features, what else `preprocess` said, and the image's width and height.
    """

    def run() -> tuple[Tensor, T, tuple[int, int]]:
        image = open_image(data, call.settings.max_image_bytes, call.settings.max_image_pixels)
        with call.record.stages.measure("edge.preprocess"):
            pixels, told = preprocess(image)
        with call.record.stages.measure("edge.backbone"):
            return call.backbone.features(pixels), told, image.size

    return await call.work(run)
