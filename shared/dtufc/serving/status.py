"""An error of ours <-> a gRPC status: one table, used in both directions."""

import logging
from typing import Final, NoReturn

import grpc
from google.protobuf import any_pb2
from google.protobuf.message import DecodeError
from google.rpc import error_details_pb2, status_pb2

from dtufc import errors
from dtufc.serving.limits import MAX_CALLS

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
    """Ends the call with the error's status, message, and its code and context as ErrorInfo."""
    code = status_of(error)
    detail = any_pb2.Any()
    detail.Pack(error_details_pb2.ErrorInfo(reason=error.code, domain=_DOMAIN, metadata=error.context))
    status = status_pb2.Status(code=code.value[0], message=str(error), details=[detail])
    await context.abort(code, str(error), ((_DETAILS_KEY, status.SerializeToString()), _NO_RETRY))
    raise AssertionError("abort returned")


def error_of(
    error: grpc.Call | grpc.aio.AioRpcError, peer: str, address: str, timeout_s: float | None
) -> errors.DtufcError:
    """The error that the other side raised, or what a broken connection amounts to."""
    sent = error_info(error)
    if sent is not None:
        return sent
    if error.code() == grpc.StatusCode.DEADLINE_EXCEEDED:
        return errors.DeadlineExceeded(peer=peer, address=address, timeout_s=timeout_s)
    if error.code() == grpc.StatusCode.RESOURCE_EXHAUSTED and "Concurrent RPC" in str(error.details()):
        return errors.Overloaded(limit=MAX_CALLS)
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
    for key, value in error.trailing_metadata() or ():
        if key != _DETAILS_KEY or not isinstance(value, bytes):
            continue
        try:
            details = status_pb2.Status.FromString(value).details
            kind = error_details_pb2.ErrorInfo
            infos = [kind.FromString(detail.value) for detail in details if detail.Is(kind.DESCRIPTOR)]
            ours = [info for info in infos if info.domain == _DOMAIN and info.reason in errors.BY_CODE]
            return errors.BY_CODE[ours[0].reason](**dict(ours[0].metadata)) if ours else None
        except (DecodeError, KeyError, TypeError) as unreadable:
            _log.warning("status details cannot be read: %s", unreadable)
    return None
