"""Variables of the environment: one that begins with DTUFC_, in any case, is a setting or an error.

One that is empty counts as one that is not set.
"""

import os
import re
from collections.abc import Collection
from typing import Final

from dtufc.errors import InputError

_PREFIXES: Final = ("DTUFC_EDGE_", "DTUFC_CLOUD_")
_CACHE: Final = "DTUFC_CACHE"
# What Kubernetes sets in every pod for a Service whose name starts with dtufc. A bare PORT is one of them by its value.
_OF_KUBERNETES: Final = re.compile(
    r"DTUFC(_\w+)?_(SERVICE_HOST=|SERVICE_PORT(_\w+)?=|PORT=\w+://|PORT_\d+_(TCP|UDP|SCTP)(_(PROTO|PORT|ADDR))?=).*"
)


def check_variables(prefix: str = "", names: Collection[str] = ()) -> None:
    """Checks that every variable is one that is read. Those of other sides are left alone.

    Args:
        prefix: of the side whose settings are read; none for a program that is no side.
        names: of that side's settings.

    Raises:
        InputError: no such setting, or one that is set twice; it names the variable.
    """
    settings = {f"{prefix}{name}".upper() for name in names}
    exact = {_CACHE, f"{prefix}CONFIG"} if prefix else {_CACHE}
    other_sides = tuple(other for other in _PREFIXES if other != prefix)
    seen: dict[str, str] = {}
    for name, value in sorted(os.environ.items()):
        upper = name.upper()
        is_ours = upper.startswith("DTUFC_") and not upper.startswith(other_sides)
        if not value or not is_ours or _OF_KUBERNETES.fullmatch(f"{name}={value}"):
            continue
        if upper in exact and name != upper:
            raise InputError(field=name, problem="it is not in capitals", remedy=f"Write {upper}")
        if upper not in settings | exact:
            raise InputError(field=name, problem="no such setting", remedy="See --help for the settings' names")
        if upper in seen:
            raise InputError(field=name, problem=f"{seen[upper]} is set too", remedy="Set one of them")
        seen[upper] = name


def variable(name: str) -> str | None:
    """Its value; None where it is not set, or empty."""
    return os.environ.get(name) or None
