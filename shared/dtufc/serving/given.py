"""Addresses and times as users give them, checked before gRPC or a socket takes them for something else.

gRPC lets a port wrap around at 65,536, and takes a deadline that is too far ahead for one that has passed.
"""

import re
from numbers import Real
from typing import Final

from dtufc.errors import InputError
from dtufc.serving.limits import MAX_TIMEOUT_S

_PORTS: Final = 1 << 16
_HOST: Final = re.compile(r"[^\[\]:/,\s]+")
_HOST_PORT: Final = re.compile(rf"(?:\[([^\[\]\s]+)\]|({_HOST.pattern})):([0-9]{{1,9}})")  # an IPv6 host in brackets
_OTHERWISE_RESOLVED: Final = ("unix:", "unix-abstract:", "vsock:", "xds:")  # gRPC's targets that need no port
_RESOLVED: Final = re.compile(r"(?:ipv4:|ipv6:|dns:(?://[^/]*/)?)(.+)")


def listen_address(address: str, field: str) -> tuple[str, int]:
    """HOST:PORT, or [IPv6]:PORT, in two: the host has no brackets, and a port of 0 is any that is free.

    Raises:
        InputError: it is none; the error names `field`.
    """
    match = _HOST_PORT.fullmatch(address)
    if match is None or int(match[3]) >= _PORTS:
        remedy = f"Give HOST:PORT or [IPv6]:PORT, with a port from 0 to {_PORTS - 1}"
        raise InputError(field=field, problem=repr(address), remedy=remedy)
    return match[1] or match[2], int(match[3])


def address_of(host: str, port: int) -> str:
    """The reverse of `listen_address`."""
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def check_target(address: str, field: str) -> str:
    """The address of a server, as gRPC has it: HOST:PORT, or a target with a scheme, such as dns:///NAME:PORT.

    Raises:
        InputError: it is none, or a port in it is none; the error names `field`.
    """
    if address.startswith(_OTHERWISE_RESOLVED):
        return address
    resolved = _RESOLVED.fullmatch(address)
    entries = resolved[1].split(",") if resolved else [address]
    for entry in entries:
        match = _HOST_PORT.fullmatch(entry)
        has_port_of_grpc = resolved is not None and _HOST.fullmatch(entry) is not None  # 443
        if not has_port_of_grpc and (match is None or not 0 < int(match[3]) < _PORTS):
            remedy = f"Give HOST:PORT, [IPv6]:PORT or a target of gRPC, with a port from 1 to {_PORTS - 1}"
            raise InputError(field=field, problem=repr(address), remedy=remedy)
    return address


def check_timeout(timeout_s: float, field: str = "timeout_s") -> float:
    """The time itself, in seconds. Raises InputError where it is no time that a call can have."""
    if not isinstance(timeout_s, Real) or not 0 < timeout_s <= MAX_TIMEOUT_S:  # no NaN either
        remedy = f"Give seconds, above 0 and at most {MAX_TIMEOUT_S} (a day)"
        raise InputError(field=field, problem=f"{timeout_s}", remedy=remedy)
    return timeout_s
