"""AsyncEdgeClient: the calls of EdgeClient on asyncio."""

import asyncio
from collections.abc import AsyncGenerator, Callable, Sequence
from pathlib import Path
from typing import Any, Self, Unpack

import grpc

from dtufc.client import requests
from dtufc.client.requests import ChatMessage, CodingOptions, GenerationOptions, ImageOptions
from dtufc.serving.given import check_timeout
from dtufc.serving.status import error_of, readable
from dtufc.serving.transport import Tls, channel
from dtufc.v1 import head_pb2, inference_pb2, inference_pb2_grpc


class AsyncEdgeClient:
    """A connection to one edge, made in the event loop that uses it. `EdgeClient` says what methods and errors are.

    Leaving an `async for` early, closing the stream (contextlib.aclosing) or cancelling the task ends the work on the
    edge.
    """

    def __init__(
        self, address: str = requests.DEFAULT_ADDRESS, *, timeout_s: float = 60.0, tls: Tls | None = None
    ) -> None:
        self._address = address
        self._timeout_s = check_timeout(timeout_s)
        self._channel = channel(address, tls)
        self._stub = inference_pb2_grpc.InferenceServiceStub(self._channel)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    async def close(self) -> None:
        """Ends what runs; whoever waits for a reply gets a CancelledError."""
        await self._channel.close()

    async def models(self) -> Sequence[head_pb2.ProfileInfo]:
        return (await self._reply(self._stub.ListModels, inference_pb2.ListModelsRequest())).profiles

    async def answer(
        self, question: str, choices: Sequence[str], **coding: Unpack[CodingOptions]
    ) -> inference_pb2.AnswerReply:
        return await self._reply(self._stub.Answer, requests.answer_request(question, choices, **coding))

    def complete(
        self, prompt: str, *, plain: bool = False, **options: Unpack[GenerationOptions]
    ) -> AsyncGenerator[inference_pb2.CompleteReply, None]:
        return self._replies(self._stub.Complete, requests.complete_request(prompt, plain=plain, **options))

    def chat(
        self, messages: Sequence[ChatMessage], **options: Unpack[GenerationOptions]
    ) -> AsyncGenerator[inference_pb2.CompleteReply, None]:
        return self._replies(self._stub.Complete, requests.chat_request(messages, **options))

    async def segment(self, image: bytes | Path, **coding: Unpack[CodingOptions]) -> inference_pb2.SegmentReply:
        message = await asyncio.to_thread(requests.segment_request, image, **coding)
        return await self._reply(self._stub.Segment, message)

    async def classify(
        self, image: bytes | Path, *, top_k: int = 5, **coding: Unpack[CodingOptions]
    ) -> inference_pb2.ClassifyReply:
        message = await asyncio.to_thread(requests.classify_request, image, top_k=top_k, **coding)
        return await self._reply(self._stub.Classify, message)

    def generate_image(
        self, prompt: str, **options: Unpack[ImageOptions]
    ) -> AsyncGenerator[inference_pb2.GenerateImageReply, None]:
        return self._replies(self._stub.GenerateImage, requests.image_request(prompt, **options))

    async def _reply(self, method: Callable[..., Any], message: Any) -> Any:
        try:
            reply = await method(message, timeout=self._timeout_s)
            return readable(reply, requests.PEER, self._address)
        except grpc.RpcError as error:
            raise self._error(error) from error

    async def _replies(self, method: Callable[..., Any], message: Any) -> AsyncGenerator[Any, None]:
        stream = method(message, timeout=self._timeout_s)
        try:
            async for reply in stream:
                yield readable(reply, requests.PEER, self._address)
        except grpc.RpcError as error:
            raise self._error(error) from error
        finally:
            stream.cancel()

    def _error(self, error: grpc.RpcError) -> Exception:
        return error_of(error, requests.PEER, self._address, self._timeout_s)
