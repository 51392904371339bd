"""The process in which images are decoded: `python -m dtufc_edge.image_process LIMITS`, with a socket as stdin.

    edge --> length, file
    edge <-- READY once; then for each file: length, JSON, pixels

The kernel limits its memory, and who waits for it (`image_decoding`) ends it by SIGKILL. It ends by itself when the
edge is gone. It imports no torch, so that it starts soon and stays small.
"""

import io
import json
import os
import resource
import signal
import socket
import struct
import sys
import traceback
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

from PIL import Image

from dtufc.errors import InputError
from dtufc.models.images import open_image

READY: Final = b"R"
FILE_HEAD: Final = struct.Struct(">Q")  # bytes of the file that follows
REPLY_HEAD: Final = struct.Struct(">I")  # bytes of the JSON that follows: an object, see `_decoded`
_GRACE_S: Final = 1.0


@dataclass(frozen=True, slots=True, kw_only=True)
class ImageLimits:
    """What one image may take.

    Attributes:
        max_bytes: of the file.
        max_pixels: of the image.
        max_seconds: until it is decoded.
        max_memory_bytes: of address space, beyond what the idle process has.
    """

    max_bytes: int
    max_pixels: int
    max_seconds: float
    max_memory_bytes: int

    def to_json(self) -> str:
        return json.dumps(asdict(self))


def serve(stream: io.BufferedRWPair, limits: ImageLimits) -> None:
    """Answers until the edge closes its end."""
    Image.init()  # loads what would be loaded by the first file
    _confine(limits)
    stream.write(READY)
    stream.flush()
    while (data := _file(stream)) is not None:
        # The edge ends what takes too long. Where it is gone by then, SIGALRM does, by its default.
        signal.setitimer(signal.ITIMER_REAL, limits.max_seconds + _GRACE_S)
        told, pixels = _decoded(data, limits)
        signal.setitimer(signal.ITIMER_REAL, 0)
        text = json.dumps(told).encode()
        stream.write(REPLY_HEAD.pack(len(text)) + text)
        stream.write(pixels)
        stream.flush()


def _file(stream: io.BufferedRWPair) -> bytes | None:
    """The next file; None where the edge is gone."""
    head = stream.read(FILE_HEAD.size)
    if len(head) < FILE_HEAD.size:
        return None
    (num_bytes,) = FILE_HEAD.unpack(head)
    data = stream.read(num_bytes)
    return data if len(data) == num_bytes else None


def _decoded(data: bytes, limits: ImageLimits) -> tuple[dict[str, Any], bytes]:
    """What is said of a file, and its pixels, three bytes each: `width` and `height`, or `error`, or `fault`."""
    try:
        image = open_image(data, limits.max_bytes, limits.max_pixels)
        return {"width": image.width, "height": image.height}, image.tobytes()
    except InputError as error:
        return {"error": error.context}, b""
    except MemoryError:
        problem = f"takes more than {limits.max_memory_bytes >> 20} MiB to decode"
        remedy = "Save it again in another format, or smaller"
        return {"error": InputError(field="image", problem=problem, remedy=remedy).context}, b""
    except Exception:  # the border of this process
        return {"fault": traceback.format_exc(limit=-20)}, b""


def _confine(limits: ImageLimits) -> None:
    for number in (signal.SIGINT, signal.SIGTERM):  # meant for the edge, which drains first
        signal.signal(number, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    if sys.platform == "linux":
        pages = int(Path("/proc/self/statm").read_text().split()[0])
        most = pages * os.sysconf("SC_PAGE_SIZE") + limits.max_memory_bytes
        resource.setrlimit(resource.RLIMIT_AS, (most, most))
        with suppress(OSError):  # where a container's memory ends, this process goes first, not the edge
            Path("/proc/self/oom_score_adj").write_text("1000")


if __name__ == "__main__":
    edge = socket.socket(fileno=0)  # stays open to the end: the edge kills at once who has closed it, traces unsaid
    both_ways = edge.makefile("rwb")
    try:
        serve(both_ways, ImageLimits(**json.loads(sys.argv[1])))
    except ConnectionError:  # the edge is gone: nobody takes what is left in the buffer
        os._exit(0)
