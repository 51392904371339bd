"""An image file -> the pixels that a viewer shows, within limits: RGB, upright, over white.

Orientation is all that counts of EXIF, where it reads as 1 to 8; whatever else is in it, and whatever is broken in it,
does not matter. Nothing of Pillow's own limits counts: the caller's do. No torch here: processes that do nothing else
start soon and stay small.
"""

import io
import struct
import threading
from typing import Final

from PIL import Image
from PIL.ImageFile import ImageFile
from PIL.JpegImagePlugin import JpegImageFile
from PIL.PngImagePlugin import PngImageFile
from PIL.WebPImagePlugin import WebPImageFile

from dtufc.errors import InputError
from dtufc.models.image_colours import as_shown
from dtufc.models.image_files import damaged, take_apart

_PLUGINS: Final[dict[str, type[ImageFile]]] = {"JPEG": JpegImageFile, "PNG": PngImageFile, "WEBP": WebPImageFile}
_ORIENTATION: Final = 0x0112
_WHOLE_NUMBERS: Final = {1: "B", 3: "H", 4: "I"}  # types of TIFF
_TURNS: Final = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
_ROWS: Final = 256  # compared at a time
_bound = threading.Lock()  # of Pillow's limit, which is one for the process


def open_image(data: bytes, max_bytes: int, max_pixels: int) -> Image.Image:
    """An image file's pixels as a viewer shows them; its size is checked before anything is unpacked.

    Needs about 14 bytes for a pixel and twice the file.

    Raises:
        InputError: no image, one that is cut off or damaged, or one that is too large.
    """
    if not 0 < len(data) <= max_bytes:
        raise InputError(field="image", problem=f"{len(data)} bytes", remedy=f"Send a file of 1 to {max_bytes} bytes")
    parts = take_apart(data, max_pixels)
    image = _decoded(parts.kind, parts.image)
    if parts.filled and not _are_equal(image, _decoded(parts.kind, parts.filled)):
        raise damaged("is cut off: not all of its pixels are there")
    if parts.profile:
        image.info["icc_profile"] = parts.profile
    turn = _TURNS.get(orientation(parts.exif))
    image = as_shown(image)
    return image if turn is None else image.transpose(turn)


def _decoded(kind: str, data: bytes) -> Image.Image:
    try:
        with _bound:  # a WebP's constructor checks it
            limit, Image.MAX_IMAGE_PIXELS = Image.MAX_IMAGE_PIXELS, None
            try:
                image = _PLUGINS[kind](io.BytesIO(data))
            finally:
                Image.MAX_IMAGE_PIXELS = limit
        image.load()
    except (OSError, EOFError, SyntaxError, ValueError, ArithmeticError, LookupError, TypeError, struct.error) as error:
        raise damaged(f"cannot be read: {error}") from error
    return image


def _are_equal(first: Image.Image, second: Image.Image) -> bool:
    """Compares rows, as the bytes of a whole image are another image."""
    if first.size != second.size:
        return False
    boxes = [(0, top, first.width, min(top + _ROWS, first.height)) for top in range(0, first.height, _ROWS)]
    return all(first.crop(box).tobytes() == second.crop(box).tobytes() for box in boxes)


def orientation(exif: bytes) -> int:
    """1 to 8 of a TIFF structure's first directory; 1 where it does not say so."""
    order = {b"II*\0": "<", b"MM\0*": ">"}.get(exif[:4])
    try:
        (place,) = struct.unpack_from(f"{order}I", exif, 4) if order else (0,)
        (count,) = struct.unpack_from(f"{order}H", exif, place) if order else (0,)
        for entry in range(place + 2, place + 2 + 12 * count, 12):
            tag, kind, number = struct.unpack_from(f"{order}HHI", exif, entry)
            if tag == _ORIENTATION and kind in _WHOLE_NUMBERS and number == 1:
                (value,) = struct.unpack_from(f"{order}{_WHOLE_NUMBERS[kind]}", exif, entry + 8)
                return value if value in range(1, 9) else 1
    except struct.error:  # it ends too early
        pass
    return 1
