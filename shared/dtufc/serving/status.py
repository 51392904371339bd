"""An error of ours <-> a gRPC status: one table, used in both directions."""

import logging
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from typing import Final, NoReturn, TypeVar

import grpc
from google.protobuf import any_pb2, duration_pb2
from google.protobuf.message import DecodeError, Message
from google.rpc import error_details_pb2, status_pb2

from dtufc import errors

T = TypeVar("T")
_DOMAIN: Final = "dtufc"
_DETAILS_KEY: Final = "grpc-status-details-bin"
# A service's own word is final: a caller's gRPC does not try again what is Unavailable behind the service.
_NO_RETRY: Final = ("grpc-retry-pushback-ms", "-1")
_log = logging.getLogger(__name__)

_STATUS: dict[type[errors.DtufcError], grpc.StatusCode] = {
    errors.InputError: grpc.StatusCode.INVALID_ARGUMENT,
    errors.BitstreamError: grpc.StatusCode.INVALID_ARGUMENT,
    errors.ProfileMismatch: grpc.StatusCode.FAILED_PRECONDITION,
    errors.Desync: grpc.StatusCode.DATA_LOSS,
    errors.Overloaded: grpc.StatusCode.RESOURCE_EXHAUSTED,
    errors.TooManyStreams: grpc.StatusCode.RESOURCE_EXHAUSTED,
    errors.CacheFull: grpc.StatusCode.RESOURCE_EXHAUSTED,
    errors.SessionLost: grpc.StatusCode.ABORTED,
    errors.Unavailable: grpc.StatusCode.UNAVAILABLE,
    errors.Rejected: grpc.StatusCode.FAILED_PRECONDITION,
    errors.DeadlineExceeded: grpc.StatusCode.DEADLINE_EXCEEDED,
    errors.Internal: grpc.StatusCode.INTERNAL,
}
# What a connection that broke says of itself: another try may do better. Other statuses are the peer's decision.
_BROKEN: Final = frozenset({grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.CANCELLED, grpc.StatusCode.ABORTED})
_FAILED: Final = frozenset({grpc.StatusCode.INTERNAL, grpc.StatusCode.UNKNOWN})


def status_of(error: errors.DtufcError) -> grpc.StatusCode:
    """The gRPC code of an error: its own or its nearest ancestor's."""
    return next(code for cls in type(error).__mro__ for key, code in _STATUS.items() if cls is key)


async def abort(context: grpc.aio.ServicerContext, error: errors.DtufcError) -> NoReturn:
    """Ends the call with the error's status, message, and its code and context as ErrorInfo.

    Where another try may do better later, a RetryInfo says when.
    """
    code = status_of(error)
    details = [_packed(error_details_pb2.ErrorInfo(reason=error.code, domain=_DOMAIN, metadata=error.context))]
    if isinstance(error, errors.Busy):
        delay = duration_pb2.Duration()
        delay.FromMilliseconds(round(1000 * error.retry_s))
        details.append(_packed(error_details_pb2.RetryInfo(retry_delay=delay)))
    status = status_pb2.Status(code=code.value[0], message=str(error), details=details)
    await context.abort(code, str(error), ((_DETAILS_KEY, status.SerializeToString()), _NO_RETRY))
    raise AssertionError("abort returned")


@asynccontextmanager
async def grpc_status(context: grpc.aio.ServicerContext) -> AsyncIterator[None]:
    """Wraps a gRPC method: what is raised inside ends the call with the status of that error."""
    try:
        with known_errors():
            yield
    except errors.DtufcError as error:
        await abort(context, error)


@contextmanager
def known_errors() -> Iterator[None]:
    """The border: nothing of an unknown fault may reach the caller."""
    try:
        yield
    except (errors.DtufcError, grpc.aio.AbortError):  # the latter: the call has its status
        raise
    except Exception as fault:
        _log.exception("unexpected")
        raise errors.Internal from fault


def readable(reply: T | None, peer: str, address: str) -> T:
    """A reply, as grpc.aio gives it: one that cannot be parsed is None, and only the log says so.

    Raises:
        Rejected: it cannot be parsed.
    """
    if reply is None:
        raise errors.Rejected(peer=peer, address=address, problem="its answer cannot be read")
    return reply


def error_of(
    error: grpc.Call | grpc.aio.AioRpcError, peer: str, address: str, timeout_s: float | None
) -> errors.DtufcError:
    """The error that the other side raised, or what a broken connection amounts to."""
    sent = error_info(error)
    if sent is not None:
        return sent
    if error.code() == grpc.StatusCode.DEADLINE_EXCEEDED:
        return errors.DeadlineExceeded(peer=peer, address=address, timeout_s=timeout_s)
    if error.code() == grpc.StatusCode.RESOURCE_EXHAUSTED and _is_busy(error):
        return errors.Overloaded(limit="its")
    if error.code() == grpc.StatusCode.RESOURCE_EXHAUSTED:
        return errors.InputError(field="message", problem=str(error.details()), remedy="Send less in one message")
    problem = f"{error.code().name}: {error.details()}"
    if error.code() in _BROKEN:
        return errors.Unavailable(peer=peer, address=address, problem=problem)
    if error.code() in _FAILED:
        _log.error("%s at %s failed: %s", peer, address, problem)
        return errors.Internal()
    return errors.Rejected(peer=peer, address=address, problem=problem)


def error_info(error: grpc.Call | grpc.aio.AioRpcError) -> errors.DtufcError | None:
    """The other side's own word, in a status's details; None where there is none, or none that can be understood."""
    kind = error_details_pb2.ErrorInfo
    try:
        infos = [kind.FromString(detail.value) for detail in _details(error) if detail.Is(kind.DESCRIPTOR)]
        ours = [info for info in infos if info.domain == _DOMAIN and info.reason in errors.BY_CODE]
        return errors.BY_CODE[ours[0].reason](**dict(ours[0].metadata)) if ours else None
    except (DecodeError, KeyError, TypeError) as unreadable:
        _log.warning("status details cannot be read: %s", unreadable)
    return None


def _is_busy(error: grpc.Call | grpc.aio.AioRpcError) -> bool:
    """Whether the other side has no room now, as a later release or another server says it."""
    if "Concurrent RPC" in str(error.details()):  # a Python server's own limit
        return True
    try:
        return any(detail.Is(error_details_pb2.RetryInfo.DESCRIPTOR) for detail in _details(error))
    except DecodeError:
        return False


def _details(error: grpc.Call | grpc.aio.AioRpcError) -> Sequence[any_pb2.Any]:
    """Those of the status. Raises DecodeError where it cannot be read."""
    for key, value in error.trailing_metadata() or ():
        if key == _DETAILS_KEY and isinstance(value, bytes):
            return status_pb2.Status.FromString(value).details
    return ()


def _packed(message: Message) -> any_pb2.Any:
    detail = any_pb2.Any()
    detail.Pack(message)
    return detail
