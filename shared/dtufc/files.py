"""Files that people name, read whole.

Only what ends is read, and only up to a limit: a FIFO waits for a writer, and a device has no end.
"""

import stat
from pathlib import Path
from typing import Final

from dtufc.errors import InputError

_MIB: Final = 1 << 20


def read_file(path: Path, max_bytes: int, *, field: str = "", remedy: str = "Name a readable file") -> bytes:
    """The bytes of a regular file.

    Args:
        path: of the file, or of a link to it.
        max_bytes: that it may have.
        field: of the error; the path where none is given.
        remedy: for a file that cannot be read.

    Raises:
        InputError: there is none, it is a folder, a FIFO or a device, it cannot be read, or it is too large.
    """
    named = f"{path} " if field else ""
    field = field or str(path)
    try:
        if not stat.S_ISREG(path.stat().st_mode):
            raise InputError(field=field, problem=f"{named}is no regular file", remedy=remedy)
        with path.open("rb") as file:
            data = file.read(max_bytes + 1)
    except OSError as error:
        raise InputError(field=field, problem=f"{named}cannot be read: {error.strerror}", remedy=remedy) from error
    except ValueError as error:  # NUL, or half of a surrogate pair
        raise InputError(field=field, problem=f"{str(path)[:80]!r} is no path", remedy=remedy) from error
    if len(data) > max_bytes:
        limit = f"{max_bytes / _MIB:g} MiB"
        raise InputError(field=field, problem=f"{named}has more than {limit}", remedy=f"Give at most {limit}")
    return data
