"""Tasks: what a client can ask, one module a task.

A task is a class without arguments that an entry of the group `dtufc.edge_tasks` names. The service wraps every one
alike: admission, deadline, telemetry and errors are not its business. Its mirror in the cloud has the same name.
"""

from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Protocol, TypeVar

from google.protobuf.message import Message
from torch import Tensor

from dtufc.serving.cache_budget import CacheBudget
from dtufc.serving.calls import Admitted
from dtufc.serving.passes import Passes
from dtufc.serving.telemetry import Record
from dtufc.serving.worker import Worker
from dtufc.v1 import head_pb2, inference_pb2
from dtufc_edge.exchange import Exchange
from dtufc_edge.image_decoding import ImageDecoders
from dtufc_edge.pipeline import EdgePipeline
from dtufc_edge.settings import EdgeSettings

T = TypeVar("T")
M = TypeVar("M", bound=Message)


@dataclass(frozen=True, slots=True, kw_only=True)
class Method:
    """Where a task is served: a gRPC method.

    Attributes:
        service: full name of its service, as a .proto file declares it.
        name: of the method.
        request: the message that a client sends. Where it has a field `coding`, that chooses profile, codec and rate.
        reply: the message that it gets.
        streams: whether there are several replies.
    """

    service: str
    name: str
    request: type[Message]
    reply: type[Message]
    streams: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Call:
    """One request on its way.

    Attributes:
        pipeline: of the profile that was asked for.
        settings: of the edge, with the limits of requests.
        admitted: its record and its deadline.
        worker: where model and codec work runs.
        exchange: its way to the cloud.
        passes: of the model through token ids, for several sequences in turn.
        budget: for what sequences keep.
        images: what decodes image files.
    """

    pipeline: EdgePipeline
    settings: EdgeSettings
    admitted: Admitted
    worker: Worker
    exchange: Exchange
    passes: Passes[Sequence[int], Tensor]
    budget: CacheBudget
    images: ImageDecoders

    @property
    def backbone(self) -> Any:
        """What the task `needs`."""
        return self.pipeline.backbone

    @property
    def record(self) -> Record:
        """What is known of this request so far."""
        return self.admitted.record

    async def work(self, function: Callable[..., T], *args: Any) -> T:
        """Runs a piece of work in a thread of the worker; model and codec work runs nowhere else."""
        return await self.worker.run(function, *args)

    async def in_backbone(self, function: Callable[..., T], *args: Any) -> T:
        """`work`, whose time is that of the stage `edge.backbone`."""

        def measured() -> T:
            with self.record.stages.measure("edge.backbone"):
                return function(*args)

        return await self.work(measured)

    async def send(self, features: Tensor, task: Message, result: type[M], focus: Sequence[int] = ()) -> M:
        """Encodes features and sends them to the cloud's task, whose result comes back; see `Exchange.send`."""
        return await self.exchange.send(features, task, result, focus)

    def cost(self) -> inference_pb2.Cost:
        """What this request has cost so far."""
        record = self.record
        return inference_pb2.Cost(
            profile=record.model,
            codec=record.codec,
            num_frames=record.num_frames,
            num_values=record.num_values,
            raw_bytes=record.raw_bytes,
            payload_bytes=record.payload_bytes,
            wire_bytes=record.wire_bytes,
            bpfp_payload=record.bpfp_payload,
            bpfp_wire=record.bpfp_wire,
            stages=[head_pb2.Stage(name=name, seconds=seconds) for name, seconds in record.stages.seconds.items()],
        )


class Task(Protocol):
    """What a client can ask.

    Attributes:
        name: as profiles list it under `tasks`, and metrics label it.
        method: where it is served.
        needs: the protocol of `dtufc.models.capabilities` that a profile's backbone must have.
    """

    name: ClassVar[str]
    method: ClassVar[Method]
    needs: ClassVar[type]

    def run(self, call: Call, request: Any) -> AsyncIterator[Message]:
        """The replies to one request; of a method that does not stream, exactly one.

        Raises:
            DtufcError: the request cannot be served. Checks of the request come first, before any work.
        """
