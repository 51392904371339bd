"""Settings, profiles and certificates read anew while requests run (SIGHUP).

settings --same but for the profiles?--> profiles --loaded and warmed up beside those served--> swapped in one step

A call takes what is served once, at its beginning, and finishes on it. Whatever fails before the swap changes nothing.
"""

import asyncio
import gc
import logging
import re
import time
import weakref
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Final, Generic, Protocol, TypeVar

import numpy as np

from dtufc.errors import DtufcError, InputError, Unavailable
from dtufc.models.profile import Profile, load_profile
from dtufc.serving import systemd
from dtufc.serving.settings import ServiceSettings
from dtufc.serving.telemetry import Telemetry
from dtufc.serving.transport import Server
from dtufc.serving.worker import Worker

_RELOADED: Final = "profiles"  # the one setting that a reload takes; certificates keep their paths
_AT_SPLIT: Final = re.compile(r"(.+)@([0-9]{1,9})")
_log = logging.getLogger(__name__)
S = TypeVar("S", bound=ServiceSettings)
T = TypeVar("T")
Swap = Callable[[], None]


async def _nothing() -> None:
    pass


@dataclass(frozen=True, slots=True, kw_only=True)
class Side(Generic[S]):
    """One side's own part of its process.

    Attributes:
        services: full names of its gRPC services, which have been added to the server.
        load: loads and warms up what the settings name beside what is served, and returns what puts it in its place:
            a function that cannot fail. Raises where something cannot be served.
        close: once no call runs any more.
    """

    services: Sequence[str]
    load: Callable[[S], Awaitable[Swap]]
    close: Callable[[], Awaitable[None]] = _nothing


class Serves(Generic[T]):
    """A service that answers once it has something to serve, which is replaced as a whole."""

    def __init__(self, peer: str, address: str) -> None:
        """
        Args:
            peer: the service, as errors name it.
            address: as errors name it.
        """
        self._peer, self._at = peer, address
        self._served: T | None = None

    @property
    def served(self) -> T:
        """What is served now. Raises Unavailable while models load."""
        if self._served is None:
            raise Unavailable(peer=self._peer, address=self._at, problem="it is loading its models")
        return self._served

    @property
    def is_loaded(self) -> bool:
        """Whether anything is served."""
        return self._served is not None

    def serve(self, served: T) -> None:
        """From now on; calls and sessions that run finish on what was served before."""
        self._served = served


class _Pipeline(Protocol):
    @property
    def profile(self) -> Profile: ...

    def warm_up(self) -> None: ...


class _Loaded(Protocol):
    @property
    def pipeline(self) -> Any: ...


L = TypeVar("L", bound=_Loaded)


def served_profiles(settings: ServiceSettings) -> list[Profile]:
    """The profiles that the settings name; NAME@K is NAME split after layer K."""
    profiles = []
    for entry in settings.profiles:
        match = _AT_SPLIT.fullmatch(entry)
        profiles.append(load_profile(match[1], int(match[2])) if match else load_profile(entry))
    names = [profile.name for profile in profiles]
    if not names or len(set(names)) < len(names):
        raise InputError(field="profiles", problem=f"{names}", remedy="Name each profile once, and at least one")
    return profiles


async def loaded_profiles(
    settings: ServiceSettings, before: Mapping[str, L], load: Callable[[Profile], L], worker: Worker
) -> dict[str, L]:
    """What the settings name, by name: as it is where it is served already and has not changed, else anew.

    Args:
        settings: that name the profiles.
        before: what is served.
        load: loads one, in a thread beside those of the requests.
        worker: in whose threads each is warmed up, in turn with the requests.
    """
    found: dict[str, L] = {}
    for profile in await worker.prepare(partial(served_profiles, settings)):
        old = before.get(profile.name)
        if old is not None and _is_same(profile, old.pipeline.profile):
            found[profile.name] = old
            continue
        found[profile.name] = new = await worker.prepare(partial(load, profile))
        start = time.monotonic()
        await worker.run(new.pipeline.warm_up)
        seconds = round(time.monotonic() - start, 3)
        _log.info("warmed up", extra={"fields": {"profile": profile.name, "seconds": seconds}})
    return found


def _is_same(profile: Profile, served: Profile) -> bool:
    """Whether a profile that was read anew is the one that is served: its weights, codecs and tasks too."""
    profile = profile.with_prefix(served.spec.layout.prefix or 0)
    ours, theirs = profile.calibration, served.calibration
    return (
        (profile.spec, profile.split, ours.keys()) == (served.spec, served.split, theirs.keys())
        and all(np.array_equal(array, theirs[name]) for name, array in ours.items())
    )  # fmt: skip


def settle_after(served: object | None) -> None:
    """Frees what was served once no call holds it, and takes all else out of the search for garbage.

    A body of many small lists would start that search several times, and each time it goes through all objects of the
    libraries. Models have cycles, which that search alone finds.
    """
    if served is None:
        _settle()
    else:
        weakref.finalize(served, _settle_soon, asyncio.get_running_loop())


def _settle_soon(loop: asyncio.AbstractEventLoop) -> None:
    if not loop.is_closed():  # in whichever thread the last call ended, and once what it held is free to be found
        loop.call_soon_threadsafe(_settle)


def _settle() -> None:
    gc.unfreeze()
    gc.collect()
    gc.freeze()


async def reload_when_told(
    told: asyncio.Event, settings: S, side: Side[S], server: Server, telemetry: Telemetry
) -> None:
    """Reloads each time that `told` is set, until it is cancelled. Nothing that fails in it ends the service."""
    while True:
        await told.wait()
        told.clear()
        systemd.reloading()
        result, status = "ok", "serving"
        try:
            await _reload(settings, side, server)
        except Exception as error:
            result, status = "failed", f"serving as before: reload rejected: {error}"
            unknown = None if isinstance(error, DtufcError) else error
            _log.error("reload rejected, all is served as before: %s", error, exc_info=unknown)
        else:
            _log.info("reloaded")
        telemetry.reloads.labels(result).inc()
        systemd.ready(status)


async def _reload(settings: S, side: Side[S], server: Server) -> None:
    found = type(settings).from_command_line()
    others = [name for name in type(settings).model_fields if name != _RELOADED]
    changed = [name for name in others if getattr(found, name) != getattr(settings, name)]
    if changed:
        problem = f"changed, and only {_RELOADED} and the files of certificates are read while the service runs"
        raise InputError(field=", ".join(changed), problem=problem, remedy="Change them back, or start it again")
    certificates = server.read_certificates()
    swap = await side.load(found)
    server.use(certificates)
    swap()
