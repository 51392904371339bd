"""What a service tells systemd, where that has started it with Type=notify (sd_notify(3)); else nothing happens."""

import logging
import os
import socket
import time

_log = logging.getLogger(__name__)


def starting() -> None:
    """Models load."""
    _notify(STATUS="loading models")


def ready(status: str = "serving") -> None:
    """Requests are answered; after `reloading` too, whichever way that ended."""
    _notify(READY="1", STATUS=status)


def reloading() -> None:
    """Settings are read anew; requests are answered meanwhile."""
    _notify(RELOADING="1", MONOTONIC_USEC=str(time.monotonic_ns() // 1000), STATUS="reloading")


def stopping() -> None:
    """A stop was asked for; calls that run are finished."""
    _notify(STOPPING="1", STATUS="draining")


def _notify(**facts: str) -> None:
    place = os.environ.get("NOTIFY_SOCKET")
    if not place:
        return
    lines = (f"{name}={' '.join(value.split())}" for name, value in facts.items())
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sending:
        sending.setblocking(False)
        try:
            sending.sendto("\n".join(lines).encode(), f"\0{place[1:]}" if place.startswith("@") else place)
        except OSError as error:  # the service goes on; systemd ends it where it waits for the word in vain
            _log.warning("systemd cannot be told at NOTIFY_SOCKET=%s: %s", place, error)
