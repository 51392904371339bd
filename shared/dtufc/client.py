"""EdgeClient: prompts and images to an edge, results back, errors as our own."""

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, Self, TypeVar

import grpc

from dtufc.coding.rate import Rate
from dtufc.errors import InputError
from dtufc.serving.limits import MAX_LABELS
from dtufc.serving.status import error_of
from dtufc.serving.transport import Tls, blocking_channel
from dtufc.v1 import head_pb2, inference_pb2, inference_pb2_grpc

DEFAULT_ADDRESS = "127.0.0.1:50051"
_PEER = "the edge"
T = TypeVar("T")


class EdgeClient:
    """A connection to one edge. Use it as a context manager, or close it.

    Every call takes `profile` (by default the first that serves the task), `codec` (by default klt where it is
    fitted) and `rate`, and raises DtufcError: InputError for what was asked, Unavailable where the edge or its cloud
    cannot be reached, DeadlineExceeded after `timeout_s`.
    """

    def __init__(self, address: str = DEFAULT_ADDRESS, *, timeout_s: float = 60.0, tls: Tls | None = None) -> None:
        self._address = address
        self._timeout_s = timeout_s
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
        return self._reported(
            lambda: self._stub.ListModels(inference_pb2.ListModelsRequest(), timeout=self._timeout_s)
        ).profiles

    def answer(
        self, question: str, choices: Sequence[str], *, profile: str = "", codec: str = "", rate: Rate | None = None
    ) -> inference_pb2.AnswerReply:
        """A question and two to 26 choices: the letter, every choice's probability, and the cost."""
        message = inference_pb2.AnswerRequest(
            coding=_coding(profile, codec, rate), question=question, choices=list(choices)
        )
        return self._reported(lambda: self._stub.Answer(message, timeout=self._timeout_s))

    def complete(
        self,
        prompt: str,
        *,
        max_tokens: int = 32,
        plain: bool = False,
        profile: str = "",
        codec: str = "",
        rate: Rate | None = None,
    ) -> Iterator[inference_pb2.CompleteReply]:
        """A prompt's next tokens, each as it comes; the last reply has the cost and the reason of the end."""
        if not 0 < max_tokens < 1 << 32:
            raise InputError(field="max_tokens", problem=f"{max_tokens}", remedy="Give a positive number")
        message = inference_pb2.CompleteRequest(
            coding=_coding(profile, codec, rate), prompt=prompt, max_tokens=max_tokens, plain=plain
        )
        return self._streamed(self._stub.Complete, message)

    def segment(
        self, image: bytes | Path, *, profile: str = "", codec: str = "", rate: Rate | None = None
    ) -> inference_pb2.SegmentReply:
        """An image file, or its bytes: its label map as PNG, and the cost."""
        message = inference_pb2.SegmentRequest(
            coding=_coding(profile, codec, rate), image=_read(image) if isinstance(image, Path) else image
        )
        return self._reported(lambda: self._stub.Segment(message, timeout=self._timeout_s))

    def classify(
        self, image: bytes | Path, *, top_k: int = 5, profile: str = "", codec: str = "", rate: Rate | None = None
    ) -> inference_pb2.ClassifyReply:
        """An image file, or its bytes: its most probable labels, best first, and the cost."""
        if not 0 < top_k <= MAX_LABELS:
            raise InputError(field="top_k", problem=f"{top_k}", remedy=f"Give 1 to {MAX_LABELS}")
        data = _read(image) if isinstance(image, Path) else image
        message = inference_pb2.ClassifyRequest(coding=_coding(profile, codec, rate), image=data, top_k=top_k)
        return self._reported(lambda: self._stub.Classify(message, timeout=self._timeout_s))

    def generate_image(
        self,
        prompt: str,
        *,
        seed: int = 0,
        steps: int | None = None,
        guidance: float | None = None,
        width: int | None = None,
        height: int | None = None,
        profile: str = "",
        codec: str = "",
        rate: Rate | None = None,
    ) -> Iterator[inference_pb2.GenerateImageReply]:
        """An image of a prompt: a reply for each step that is done; the last has the image as PNG, and the cost.

        Steps, guidance and size are the profile's where they are None. Closing the iterator ends the work.
        """
        for field, number in (("seed", seed), ("steps", steps), ("width", width), ("height", height)):
            least, most = (0, (1 << 64) - 1) if field == "seed" else (1, (1 << 32) - 1)
            if number is not None and not least <= number <= most:
                raise InputError(field=field, problem=f"{number}", remedy=f"Give {least} to {most}")
        message = inference_pb2.GenerateImageRequest(
            coding=_coding(profile, codec, rate),
            prompt=prompt,
            seed=seed,
            steps=steps,
            guidance=guidance,
            width=width,
            height=height,
        )
        return self._streamed(self._stub.GenerateImage, message)

    def _streamed(self, method: Callable[..., Any], message: Any) -> Iterator[Any]:
        """The replies of a stream, which starts with the first that is asked for; a reader that leaves ends it."""
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
            raise error_of(error, _PEER, self._address, self._timeout_s) from error


def _coding(profile: str, codec: str, rate: Rate | None) -> inference_pb2.Coding:
    rate = rate or Rate()
    return inference_pb2.Coding(
        profile=profile,
        codec=codec,
        quality=rate.quality,
        target_bpfp=rate.target_bpfp,
        max_bytes=rate.max_bytes,
    )


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise InputError(field="image", problem=str(error), remedy="Name a readable file") from error
