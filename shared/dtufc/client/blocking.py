"""EdgeClient: calls that block."""

from collections.abc import Callable, Generator, Sequence
from pathlib import Path
from typing import Any, Self, TypeVar, Unpack

import grpc

from dtufc.client import requests
from dtufc.client.requests import ChatMessage, CodingOptions, GenerationOptions, ImageOptions
from dtufc.serving.given import check_timeout
from dtufc.serving.status import error_of
from dtufc.serving.transport import Tls, blocking_channel
from dtufc.v1 import head_pb2, inference_pb2, inference_pb2_grpc

T = TypeVar("T")


class EdgeClient:
    """A connection to one edge. Use it as a context manager, or close it.

    Every call takes `profile`, `codec` and `rate` (`CodingOptions`), and raises DtufcError: InputError for what was
    asked, Unavailable where the edge or its cloud cannot be reached, DeadlineExceeded after `timeout_s`, which is a day
    at most. Streams start with the first reply that is asked for; closing one ends the work on the edge.
    """

    def __init__(
        self, address: str = requests.DEFAULT_ADDRESS, *, timeout_s: float = 60.0, tls: Tls | None = None
    ) -> None:
        self._address = address
        self._timeout_s = check_timeout(timeout_s)
        self._channel = blocking_channel(address, tls)
        self._stub = inference_pb2_grpc.InferenceServiceStub(self._channel)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        self._channel.close()

    def models(self) -> Sequence[head_pb2.ProfileInfo]:
        """The profiles that the edge serves."""
        return self._reply(self._stub.ListModels, inference_pb2.ListModelsRequest()).profiles

    def answer(
        self, question: str, choices: Sequence[str], **coding: Unpack[CodingOptions]
    ) -> inference_pb2.AnswerReply:
        """A question and two to 26 choices: the letter, every choice's probability, and the cost."""
        return self._reply(self._stub.Answer, requests.answer_request(question, choices, **coding))

    def complete(
        self, prompt: str, *, plain: bool = False, **options: Unpack[GenerationOptions]
    ) -> Generator[inference_pb2.CompleteReply, None, None]:
        """A prompt's next tokens, each as it comes; the last reply has the cost and the reason of the end.

        Args:
            prompt: one turn of the user.
            plain: continue it as it stands, without the model's chat template.
            options: `GenerationOptions`.
        """
        return self._replies(self._stub.Complete, requests.complete_request(prompt, plain=plain, **options))

    def chat(
        self, messages: Sequence[ChatMessage], **options: Unpack[GenerationOptions]
    ) -> Generator[inference_pb2.CompleteReply, None, None]:
        """The reply to a conversation, in the model's chat template; else as `complete`.

        Args:
            messages: the last is the user's.
            options: `GenerationOptions`.
        """
        return self._replies(self._stub.Complete, requests.chat_request(messages, **options))

    def segment(self, image: bytes | Path, **coding: Unpack[CodingOptions]) -> inference_pb2.SegmentReply:
        """An image file, or its bytes: its label map as PNG, and the cost."""
        return self._reply(self._stub.Segment, requests.segment_request(image, **coding))

    def classify(
        self, image: bytes | Path, *, top_k: int = 5, **coding: Unpack[CodingOptions]
    ) -> inference_pb2.ClassifyReply:
        """An image file, or its bytes: its most probable labels, best first, and the cost."""
        return self._reply(self._stub.Classify, requests.classify_request(image, top_k=top_k, **coding))

    def generate_image(
        self, prompt: str, **options: Unpack[ImageOptions]
    ) -> Generator[inference_pb2.GenerateImageReply, None, None]:
        """An image of a prompt: a reply for each step that is done; the last has the image as PNG, and the cost.

        Args:
            prompt: what the image shows.
            options: `ImageOptions`.
        """
        return self._replies(self._stub.GenerateImage, requests.image_request(prompt, **options))

    def _reply(self, method: Callable[..., Any], message: Any) -> Any:
        return self._reported(lambda: method(message, timeout=self._timeout_s))

    def _replies(self, method: Callable[..., Any], message: Any) -> Generator[Any, None, None]:
        stream = method(message, timeout=self._timeout_s)
        try:
            while True:
                try:
                    yield self._reported(lambda: next(stream))
                except StopIteration:
                    return
        finally:
            stream.cancel()

    def _reported(self, call: Callable[[], T]) -> T:
        try:
            return call()
        except grpc.RpcError as error:
            raise error_of(error, requests.PEER, self._address, self._timeout_s) from error
