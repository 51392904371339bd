"""The edge's way to a cloud: when profiles are compared, and what of the cloud's errors a client learns."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import numpy as np
import pytest

from dtufc.coding.feature_codec import FeatureCodec
from dtufc.coding.layout import Family
from dtufc.errors import Corrupt, DtufcError, ProfileMismatch, Unavailable
from dtufc.models.profile import LayoutSpec, Profile, ProfileSpec
from dtufc.serving.status import abort
from dtufc.serving.transport import Server, channel
from dtufc.v1 import head_pb2, head_pb2_grpc
from dtufc_edge.cloud import Cloud

OURS, OTHER = b"o" * 32, b"x" * 32


class Head(head_pb2_grpc.HeadServiceServicer):
    """A cloud that ends each call as it is told, and keeps an account."""

    def __init__(self, *ends: DtufcError | None) -> None:
        self.ends, self.digest = list(ends), OURS
        self.calls: list[str] = []
        self.received = 0

    async def Describe(self, _: head_pb2.DescribeRequest, __: object) -> head_pb2.DescribeReply:  # noqa: N802
        self.calls.append("Describe")
        return head_pb2.DescribeReply(profiles=[head_pb2.ProfileInfo(name="p", digest=self.digest)])

    async def Run(self, message: head_pb2.RunRequest, context: object) -> head_pb2.RunReply:  # noqa: N802
        self.calls.append("Run")
        self.received = len(message.frame)
        end = self.ends.pop(0) if self.ends else None
        if end is not None:
            await abort(context, end)
        return head_pb2.RunReply()


@asynccontextmanager
async def meeting(head: Head) -> AsyncIterator[Cloud]:
    server = Server("127.0.0.1:0")
    head_pb2_grpc.add_HeadServiceServicer_to_server(head, server.grpc)  # type: ignore[no-untyped-call]
    address = server.bind()
    await server.start([])
    async with channel(address) as to_cloud:
        yield Cloud(to_cloud, address, {"p": OURS})
    await server.stop(0)


REQUEST = head_pb2.RunRequest(profile="p", frame=b"a frame")


def test_profiles_are_compared_once_and_again_after_a_mismatch_or_a_loss() -> None:
    mismatch = ProfileMismatch(profile="p", expected="a", found="b")
    lost = Unavailable(peer="the cloud", address="", problem="")

    async def scene() -> None:
        head = Head(None, None, mismatch, None, lost)
        async with meeting(head) as cloud:
            for end in (None, None, ProfileMismatch, None, Unavailable, None):
                if end is None:
                    await cloud.run(REQUEST, 10)
                else:
                    with pytest.raises(end):
                        await cloud.run(REQUEST, 10)
        assert head.calls == ["Describe", "Run", "Run", "Run", "Describe", "Run", "Run", "Describe", "Run"]

    asyncio.run(scene())


def test_no_frame_is_sent_to_a_cloud_of_another_profile_until_it_is_corrected() -> None:
    async def scene() -> None:
        head = Head(ProfileMismatch(profile="p", expected="a", found="b"))
        async with meeting(head) as cloud:
            with pytest.raises(ProfileMismatch):
                await cloud.run(REQUEST, 10)
            head.digest = OTHER
            for _ in range(2):
                with pytest.raises(ProfileMismatch, match=OTHER.hex()[:16]):
                    await cloud.run(REQUEST, 10)
            head.digest = OURS
            await cloud.run(REQUEST, 10)
        assert head.calls == ["Describe", "Run", "Describe", "Describe", "Describe", "Run"]

    asyncio.run(scene())


def test_a_frame_that_the_cloud_calls_corrupt_is_a_fault_of_the_way_and_not_of_the_client() -> None:
    async def scene() -> None:
        async with meeting(Head(Corrupt(problem="a flipped bit"))) as cloud:
            with pytest.raises(Unavailable, match="a frame arrived damaged"):
                await cloud.run(REQUEST, 10)

    asyncio.run(scene())


def test_the_largest_raw_frame_fits_a_message() -> None:
    spec = ProfileSpec(name="p", layout=LayoutSpec(family=Family.llm))
    codec = FeatureCodec(Profile(spec=spec, split=0, calibration={}))
    features = np.zeros((1 << 14, 1 << 10), np.float32)  # the most values that a frame may have
    request = head_pb2.RunRequest(profile="p", frame=codec.encode(features, codec="raw"))
    request.task.Pack(head_pb2.AnswerTask(token_ids=[(1 << 32) - 1] * 26))

    async def scene() -> None:
        head = Head()
        async with meeting(head) as cloud:
            await cloud.run(request, 30)
        assert head.received == len(request.frame) > 1 << 26

    asyncio.run(scene())
