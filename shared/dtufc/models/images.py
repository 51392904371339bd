"""An image file, opened within limits. No torch here: processes that do nothing else start soon and stay small."""

import io
import struct
from typing import Final

from PIL import Image, ImageOps, UnidentifiedImageError

from dtufc.errors import InputError

_FORMATS: Final = ("JPEG", "PNG", "WEBP")


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
    except UnidentifiedImageError as error:  # whose text has the address of a buffer
        remedy = f"Send a {', '.join(_FORMATS)} file"
        raise InputError(field="image", problem="is none of a kind that is known", remedy=remedy) from error
    except (OSError, SyntaxError, ValueError, KeyError, TypeError, struct.error, Image.DecompressionBombError) as error:
        raise InputError(
            field="image", problem=f"cannot be read: {error}", remedy=f"Send a whole {', '.join(_FORMATS)} file"
        ) from error
