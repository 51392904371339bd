"""The edge's way to the cloud: compares profiles when the two meet, and turns a failed call into our own error."""

import logging
import time
from collections.abc import Mapping

import grpc

from dtufc.errors import BitstreamError, DtufcError, Internal, ProfileMismatch, Unavailable
from dtufc.serving.status import error_of
from dtufc.v1 import head_pb2, head_pb2_grpc

_PEER = "the cloud"
_log = logging.getLogger(__name__)


class Cloud:
    """One cloud at one address."""

    def __init__(self, channel: grpc.aio.Channel, address: str, digests: Mapping[str, bytes]) -> None:
        self._stub = head_pb2_grpc.HeadServiceStub(channel)
        self.address = address
        self._digests = digests
        self._theirs: dict[str, bytes] | None = None  # None: not met yet, or lost since

    async def run(self, request: head_pb2.RunRequest, timeout_s: float) -> head_pb2.RunReply:
        """One frame and task to the head's result.

        Raises:
            Unavailable: the cloud cannot be reached.
            DeadlineExceeded: it did not answer in time.
            DtufcError: whatever the cloud raised.
        """
        deadline = time.monotonic() + timeout_s
        try:
            await self._meet(request.profile, timeout_s)
            return await self._stub.Run(request, timeout=max(0.0, deadline - time.monotonic()))
        except grpc.aio.AioRpcError as error:
            raise self._translated(error, timeout_s) from error

    async def _meet(self, profile: str, timeout_s: float) -> None:
        if self._theirs is None:
            reply = await self._stub.Describe(head_pb2.DescribeRequest(), timeout=timeout_s)
            self._theirs = {info.name: info.digest for info in reply.profiles}
        theirs = self._theirs.get(profile)
        if theirs != self._digests[profile]:
            self._theirs = None  # ask again next time: the cloud may have been corrected
            found = "not served" if theirs is None else theirs.hex()[:16]
            raise ProfileMismatch(profile=profile, expected=self._digests[profile].hex()[:16], found=found)

    def _translated(self, error: grpc.aio.AioRpcError, timeout_s: float) -> DtufcError:
        translated = error_of(error, _PEER, self.address, round(timeout_s, 3))
        if isinstance(translated, Unavailable | ProfileMismatch):
            self._theirs = None  # it may come back as another: compare before the next frame is sent
        if isinstance(translated, BitstreamError):
            # The client sent no frame: between here and there one was broken, or one of the two is.
            _log.error("the cloud at %s rejected a frame: %s", self.address, translated)
            return Internal()
        return translated
