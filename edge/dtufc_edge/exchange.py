"""How one call's features reach the cloud, and the result comes back."""

from collections.abc import Sequence
from typing import Any, TypeVar

from google.protobuf.any_pb2 import Any as AnyMessage
from google.protobuf.message import DecodeError, Message
from torch import Tensor

from dtufc.coding.feature_codec import EncodedFrame
from dtufc.coding.rate import Rate
from dtufc.errors import Desync, InputError, Rejected
from dtufc.serving.calls import Admitted
from dtufc.serving.telemetry import Record, Telemetry
from dtufc.serving.worker import Worker
from dtufc.v1 import head_pb2
from dtufc_edge.cloud import Cloud
from dtufc_edge.pipeline import EdgePipeline

M = TypeVar("M", bound=Message)


class Exchange:
    """Encodes features, sends them with their task, and books what the cloud says of its stages.

    Features that desync go again in `raw`, which cannot, where the call's rate allows as many bytes; so do those that
    follow in the same call.
    """

    def __init__(
        self,
        pipeline: EdgePipeline,
        cloud: Cloud,
        worker: Worker,
        telemetry: Telemetry,
        admitted: Admitted,
        *,
        codec: str,
        rate: Rate,
    ) -> None:
        self.pipeline = pipeline
        self.cloud = cloud
        self._worker = worker
        self.telemetry = telemetry
        self.admitted = admitted
        self.codec, self.rate = codec, rate

    async def send(self, features: Tensor, task: Message, result: type[M], focus: Sequence[int] = ()) -> M:
        """Features [...] and a task of the cloud, to that task's result.

        Args:
            features: of a shape that the profile's layout knows.
            task: of the cloud.
            result: the message that its result is.
            focus: rows that the result depends on most (`FeatureCodec.encode`).

        Raises:
            DtufcError: whatever encoding, the way or the cloud raised.
        """
        record = self.record
        request = head_pb2.RunRequest(profile=self.pipeline.profile.name)
        request.task.Pack(task)
        request.frame = await self.encode(features, self.rate, focus)
        with record.stages.measure("round_trip"):
            try:
                reply = await self.cloud.run(request, self.admitted.remaining_s)
            except Desync as desync:
                self.desynced()
                try:
                    request.frame = await self.encode(features, self.rate, focus)
                except InputError:  # more bytes than the call's rate allows
                    raise desync from None
                reply = await self.cloud.run(request, self.admitted.remaining_s)
        for stage in reply.stages:
            record.stages.add(stage.name, stage.seconds)
        return self._unpacked(reply.result, result)

    @property
    def record(self) -> Record:
        """What is known of the call so far."""
        return self.admitted.record

    async def encode(
        self, features: Tensor, rate: Rate, focus: Sequence[int] = (), step_at: int | None = None
    ) -> EncodedFrame:
        """Features to a frame; see `EdgePipeline.encode`."""
        await self._worker.load(self.pipeline.codec, self.codec)
        return await self._worker.run(self.pipeline.encode, features, self.codec, rate, self.record, focus, step_at)

    def desynced(self) -> None:
        """Counts features that the cloud decoded to others; those that follow go in `raw`."""
        self.telemetry.desyncs.labels(self.record.model, self.codec).inc()
        self.codec = self.record.codec = "raw"

    def _unpacked(self, given: AnyMessage, result: Any) -> Any:
        message = result()
        try:
            if given.Unpack(message):
                return message
            problem = f"it answered with {given.TypeName()}, not {result.DESCRIPTOR.full_name}"
        except DecodeError as error:
            problem = f"its answer cannot be read: {error}"
        raise Rejected(peer="the cloud", address=self.cloud.address, problem=problem)
