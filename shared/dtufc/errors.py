"""Everything that can go wrong, as one tree.

    DtufcError
      InputError          what the caller did: fix the input and call again
      BitstreamError      what the bytes are
        Truncated           they end too early
        BadMagic            they are no frame at all
        UnsupportedVersion  they are a frame of another format version
        Corrupt             a field, a length or a checksum is wrong
      DisagreementError   what the two sides disagree on
        ProfileMismatch     the frame was made with another profile
        Desync              the frame decoded to other symbols than were encoded
      ServiceError        what the service lacks
        Busy                what there may be again soon:
          Overloaded          the queue is full
          CacheFull           a session's keys and values do not fit beside those of the others
        TooManyStreams      a connection has as many streams of a kind as it may
        SessionLost         the session is not known any more: it can be opened again
        Unavailable         the other side cannot be reached
        Rejected            the other side does not take such calls; trying again does not help
        DeadlineExceeded    the time given has passed
        Internal            a fault of the service itself

Each class carries a stable code, which crosses the wire as the reason of a google.rpc.ErrorInfo,
and a context of named strings, from which the message is built and which cross with it.
"""

import re
from collections.abc import Mapping
from typing import Any, ClassVar, Final

_RETRY_S: Final = 1.0
_LONGEST_RETRY_S: Final = 30.0
_SECONDS: Final = re.compile(r"\d{1,9}(\.\d{1,9})?", re.ASCII)
_LONGEST = 300  # characters of a fact: it crosses the wire, and may hold what a caller sent


class DtufcError(Exception):
    """The root. `context` holds the named facts from which the message was built."""

    code: ClassVar[str] = "DTUFC"
    template: ClassVar[str]

    def __init__(self, **context: object) -> None:
        self.context: dict[str, str] = {name: _told(str(value)) for name, value in context.items()}
        super().__init__(self.template.format_map(self.context))

    def __reduce__(self) -> tuple[Any, ...]:
        return _rebuild, (type(self), self.context)


class InputError(DtufcError):
    """`field` was wrong: `problem`. `remedy` says what to do."""

    code = "INPUT"
    template = "{field}: {problem}. {remedy}."


class BitstreamError(DtufcError):
    """The bytes are not a frame that can be decoded: `problem`."""

    code = "BITSTREAM"
    template = "not a decodable frame: {problem}. Send the bytes as they were encoded."


class Truncated(BitstreamError):
    code = "TRUNCATED"
    template = "frame ends after {available} bytes where {needed} are needed. Send the whole frame."


class BadMagic(BitstreamError):
    code = "BAD_MAGIC"
    template = "these bytes start with {found} and are no DT-UFC frame. Send what `encode` returned."


class UnsupportedVersion(BitstreamError):
    code = "UNSUPPORTED_VERSION"
    template = "frame of format version {found}; this release reads version {supported}. Upgrade the older side."


class Corrupt(BitstreamError):
    code = "CORRUPT"
    template = "corrupt frame: {problem}. Send it again."


class DisagreementError(DtufcError):
    code = "DISAGREEMENT"


class ProfileMismatch(DisagreementError):
    code = "PROFILE_MISMATCH"
    template = (
        "profile {profile} is {expected} on this side and {found} on the other. "
        "Give both sides the same profile and release."
    )


class Desync(DisagreementError):
    code = "DESYNC"
    template = "the frame decoded to symbols with checksum {found}, not {expected}. Encode it again with codec 'raw'."


class ServiceError(DtufcError):
    code = "SERVICE"


class Busy(ServiceError):
    """What the service has none of now, it may have later."""

    @property
    def retry_s(self) -> float:
        """Seconds until another try may do better: the fact of this name, or one second where it is not known."""
        fact = self.context.get("retry_s", "")
        return min(float(fact), _LONGEST_RETRY_S) if _SECONDS.fullmatch(fact) else _RETRY_S


class Overloaded(Busy):
    code = "OVERLOADED"
    template = "all {limit} places for requests are taken. Try again later."


class TooManyStreams(ServiceError):
    code = "TOO_MANY_STREAMS"
    template = "this connection has {limit} streams of {kind}, and may have no more. End one of them first."


class CacheFull(Busy):
    code = "CACHE_FULL"
    template = (
        "a sequence of {tokens} tokens needs {needed} bytes of cache, and {free} of {limit} are free. "
        "Try again later, or ask for fewer tokens."
    )


class SessionLost(ServiceError):
    code = "SESSION_LOST"
    template = "the session is lost: {problem}. Open it again, and send its rows."


class Unavailable(ServiceError):
    code = "UNAVAILABLE"
    template = "{peer} at {address} cannot be reached: {problem}. Check that it runs and that the address is right."


class Rejected(ServiceError):
    code = "REJECTED"
    template = "{peer} at {address} rejected the call: {problem}. Check its address, release, TLS and permissions."


class DeadlineExceeded(ServiceError):
    code = "DEADLINE_EXCEEDED"
    template = "no answer from {peer} at {address} within {timeout_s} s. Allow more time, or send less."


class Internal(ServiceError):
    code = "INTERNAL"
    template = "the service failed. Its log has the cause."


def _told(fact: str) -> str:
    """One line that can be shown and sent: control characters and halves of surrogate pairs are escaped."""
    if not fact.isprintable():
        fact = "".join(one if one.isprintable() else one.encode("unicode_escape").decode() for one in fact)
    return fact if len(fact) <= _LONGEST else f"{fact[: _LONGEST - 3]}..."


def _rebuild(cls: type[DtufcError], context: dict[str, str]) -> DtufcError:
    """An error that was pickled; the facts come by name."""
    return cls(**context)


def _raisable(cls: type[DtufcError]) -> list[type[DtufcError]]:
    below = [leaf for child in cls.__subclasses__() for leaf in _raisable(child)]
    return [cls, *below] if "template" in vars(cls) else below


BY_CODE: Mapping[str, type[DtufcError]] = {cls.code: cls for cls in _raisable(DtufcError)}
