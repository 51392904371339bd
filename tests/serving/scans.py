"""JPEG files whose scans are too many: small, and hours of work."""

import io

from PIL import Image


def many_scans(side: int, count: int) -> bytes:
    """A progressive JPEG of side x side pixels whose last scan, of 14 bytes, is there `count` times."""
    file = io.BytesIO()
    Image.new("L", (side, side)).save(file, "JPEG", progressive=True)
    data = file.getvalue()
    end = len(data) - 2  # of the scans: the marker behind them ends the file
    scan = data[data.rindex(b"\xff\xda") : end]
    return data[:end] + scan * (count - 1) + data[end:]
