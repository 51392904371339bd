"""An error crosses the wire and comes back as itself; a foreign status becomes what the caller can do about it."""

import asyncio
import copy
import pickle
import string

import grpc
import pytest
from google.protobuf import any_pb2, wrappers_pb2
from google.rpc import error_details_pb2, status_pb2

from dtufc.errors import BY_CODE, DtufcError, InputError, Internal, Overloaded, Rejected, Unavailable
from dtufc.serving.status import abort, error_of
from dtufc.serving.transport import Server, channel


def example(kind: type[DtufcError]) -> DtufcError:
    """An error of this class, with a fact for each that its message names."""
    names = [name for _, name, _, _ in string.Formatter().parse(kind.template) if name]
    return kind(**{name: f"the {name}" for name in names})


class Raised:
    """A servicer that ends every call with a given error or status."""

    def __init__(self, end: DtufcError | grpc.StatusCode, details: str = "", *others: any_pb2.Any) -> None:
        self.end, self.details, self.others = end, details, others

    async def __call__(self, _: bytes, context: grpc.aio.ServicerContext) -> bytes:
        if isinstance(self.end, DtufcError):
            await abort(context, self.end)
        status = status_pb2.Status(code=self.end.value[0], details=self.others)
        trailing = (("grpc-status-details-bin", status.SerializeToString()),) if self.others else ()
        await context.abort(self.end, self.details, trailing)
        raise AssertionError("abort returned")


def error_from(raised: Raised) -> DtufcError:
    async def scene() -> DtufcError:
        server = Server("127.0.0.1:0")
        address = server.bind()
        methods = {"Call": grpc.unary_unary_rpc_method_handler(raised.__call__)}
        server.grpc.add_generic_rpc_handlers((grpc.method_handlers_generic_handler("test.Test", methods),))
        await server.start([])
        async with channel(address) as to_server:
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                await to_server.unary_unary("/test.Test/Call")(b"")
        await server.stop(0)
        return error_of(caught.value, "the cloud", "10.0.0.7:1", 1.0)

    return asyncio.run(scene())


@pytest.mark.parametrize("code", BY_CODE)
def test_every_error_crosses_the_wire_as_itself(code: str) -> None:
    error = example(BY_CODE[code])
    arrived = error_from(Raised(error))
    assert type(arrived) is type(error)
    assert (arrived.context, str(arrived)) == (error.context, str(error))


@pytest.mark.parametrize("again", [copy.copy, copy.deepcopy, lambda error: pickle.loads(pickle.dumps(error))])
@pytest.mark.parametrize("code", BY_CODE)
def test_every_error_can_be_copied_and_pickled(code: str, again: object) -> None:
    error = example(BY_CODE[code])
    other = again(error)  # type: ignore[operator]
    assert type(other) is type(error)
    assert (other.context, str(other), other.args) == (error.context, str(error), error.args)


@pytest.mark.parametrize(
    ("code", "kind"),
    [
        (grpc.StatusCode.UNAVAILABLE, Unavailable),
        (grpc.StatusCode.ABORTED, Unavailable),
        (grpc.StatusCode.CANCELLED, Unavailable),
        (grpc.StatusCode.UNIMPLEMENTED, Rejected),
        (grpc.StatusCode.PERMISSION_DENIED, Rejected),
        (grpc.StatusCode.UNAUTHENTICATED, Rejected),
        (grpc.StatusCode.FAILED_PRECONDITION, Rejected),
        (grpc.StatusCode.NOT_FOUND, Rejected),
        (grpc.StatusCode.INVALID_ARGUMENT, Rejected),
        (grpc.StatusCode.INTERNAL, Internal),
        (grpc.StatusCode.UNKNOWN, Internal),
        (grpc.StatusCode.RESOURCE_EXHAUSTED, InputError),
    ],
)
def test_a_status_without_details_of_ours_says_whether_trying_again_helps(
    code: grpc.StatusCode, kind: type[DtufcError]
) -> None:
    error = error_from(Raised(code, "said the proxy"))
    assert type(error) is kind
    assert kind is Internal or "said the proxy" in str(error)


def test_a_server_with_too_many_calls_is_overloaded() -> None:
    error = error_from(Raised(grpc.StatusCode.RESOURCE_EXHAUSTED, "Concurrent RPC limit exceeded!"))
    assert isinstance(error, Overloaded)


def packed(message: object) -> any_pb2.Any:
    detail = any_pb2.Any()
    detail.Pack(message)  # type: ignore[arg-type]
    return detail


def test_our_detail_is_found_among_foreign_ones() -> None:
    foreign = packed(wrappers_pb2.BytesValue(value=b"\xff\xfe"))
    ours = packed(
        error_details_pb2.ErrorInfo(domain="dtufc", reason="OVERLOADED", metadata={"limit": "3"}),
    )
    assert isinstance(error_from(Raised(grpc.StatusCode.UNKNOWN, "", foreign, ours)), Overloaded)


@pytest.mark.parametrize(
    "info",
    [
        {"domain": "dtufc", "reason": "OVERLOADED"},
        {"domain": "dtufc", "reason": "OF_A_LATER_RELEASE", "metadata": {"limit": "3"}},
        {"domain": "example.org", "reason": "OVERLOADED", "metadata": {"limit": "3"}},
        {"domain": "dtufc", "reason": "OVERLOADED", "metadata": {"self": "x"}},
    ],
)
def test_details_that_cannot_be_understood_leave_the_status_to_speak(info: dict[str, str]) -> None:
    detail = packed(error_details_pb2.ErrorInfo(**info))
    assert isinstance(error_from(Raised(grpc.StatusCode.PERMISSION_DENIED, "no", detail)), Rejected)
