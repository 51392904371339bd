"""What the tasks of images share: a file becomes an image within the service's limits."""

import io
import struct
from collections.abc import Callable
from typing import Final, TypeVar

from PIL import Image, ImageOps
from torch import Tensor

from dtufc.errors import InputError
from dtufc_edge.tasks import Call

_FORMATS: Final = ("JPEG", "PNG", "WEBP")
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


def open_image(data: bytes, max_bytes: int, max_pixels: int) -> Image.Image:
    """An image file's pixels, upright; its size is checked before anything is unpacked.

    Raises:
        InputError: no image, one that is cut off, or one that is too large.
    """
    if not 0 < len(data) <= max_bytes:
        raise InputError(field="image", problem=f"{len(data)} bytes", remedy=f"Send a file of 1 to {max_bytes} bytes")
    try:
        image = Image.open(io.BytesIO(data), formats=_FORMATS)
        if image.width * image.height > max_pixels:
            problem = f"{image.width} x {image.height} pixels"
            raise InputError(field="image", problem=problem, remedy=f"Send at most {max_pixels} pixels")
        return ImageOps.exif_transpose(image).convert("RGB")
    except (OSError, SyntaxError, ValueError, KeyError, TypeError, struct.error, Image.DecompressionBombError) as error:
        raise InputError(
            field="image", problem=f"cannot be read: {error}", remedy=f"Send a whole {', '.join(_FORMATS)} file"
        ) from error
