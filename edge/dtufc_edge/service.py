"""InferenceService over gRPC: checks the request, walks it through pipeline and cloud, says what it cost.

request --> check --> backbone --> encode --HeadService--> result --> reply
"""

import asyncio
import threading
import time
from collections.abc import AsyncIterator, Callable, Mapping
from string import ascii_uppercase
from typing import NoReturn, TypeVar

import grpc
import torch
from PIL import Image
from torch import Tensor

from dtufc.coding.feature_codec import Rate
from dtufc.errors import DeadlineExceeded, Desync, InputError
from dtufc.models.profile import Task
from dtufc.serving.limits import MAX_LABELS
from dtufc.serving.status import profile_info, reporting
from dtufc.serving.telemetry import Request, Telemetry
from dtufc.serving.worker import Worker
from dtufc.v1 import head_pb2, inference_pb2, inference_pb2_grpc
from dtufc_edge.backbones.llama import choice_prompt
from dtufc_edge.backbones.sd3 import Wish
from dtufc_edge.cloud import Cloud
from dtufc_edge.pipeline import EdgePipeline, open_image
from dtufc_edge.settings import EdgeSettings

T = TypeVar("T")
_DEFAULT_NEW_TOKENS = 32
_DEFAULT_LABELS = 5
_DRAWN = -1  # behind the steps of a picture
_MOST_CHARACTERS_A_TOKEN = 16  # on average over a prompt, generously
_UNFINISHED = "\N{REPLACEMENT CHARACTER}"  # what a character cut between two tokens decodes to


class Call:
    """One request on its way: its pipeline, codec, rate, deadline and record."""

    def __init__(self, pipeline: EdgePipeline, codec: str, rate: Rate, deadline: float, request: Request) -> None:
        self.pipeline = pipeline
        self.codec = codec
        self.rate = rate
        self.request = request
        self._deadline = deadline  # of time.monotonic

    @property
    def timeout_s(self) -> float:
        """What is left of the deadline."""
        return max(0.0, self._deadline - time.monotonic())


class InferenceService(inference_pb2_grpc.InferenceServiceServicer):
    """Serves the tasks of some profiles."""

    def __init__(
        self,
        pipelines: Mapping[str, EdgePipeline],
        cloud: Cloud,
        worker: Worker,
        telemetry: Telemetry,
        settings: EdgeSettings,
    ) -> None:
        self._pipelines = pipelines
        self._cloud = cloud
        self._worker = worker
        self._telemetry = telemetry
        self._settings = settings

    async def ListModels(
        self, message: inference_pb2.ListModelsRequest, context: grpc.aio.ServicerContext
    ) -> inference_pb2.ListModelsReply:
        infos = [profile_info(pipeline.codec) for pipeline in self._pipelines.values()]
        return inference_pb2.ListModelsReply(profiles=infos)

    async def Answer(
        self, message: inference_pb2.AnswerRequest, context: grpc.aio.ServicerContext
    ) -> inference_pb2.AnswerReply:
        async with reporting(context):
            with self._telemetry.request("answer") as request, self._worker.admit():
                call = self._call("answer", message.coding, context, request)
                return await self._answer(call, message)
        _unreachable()

    async def Complete(
        self, message: inference_pb2.CompleteRequest, context: grpc.aio.ServicerContext
    ) -> AsyncIterator[inference_pb2.CompleteReply]:
        async with reporting(context):
            with self._telemetry.request("complete") as request, self._worker.admit():
                call = self._call("complete", message.coding, context, request)
                async for reply in self._complete(call, message):
                    yield reply

    async def Segment(
        self, message: inference_pb2.SegmentRequest, context: grpc.aio.ServicerContext
    ) -> inference_pb2.SegmentReply:
        async with reporting(context):
            with self._telemetry.request("segment") as request, self._worker.admit():
                call = self._call("segment", message.coding, context, request)
                return await self._segment(call, message)
        _unreachable()

    async def Classify(
        self, message: inference_pb2.ClassifyRequest, context: grpc.aio.ServicerContext
    ) -> inference_pb2.ClassifyReply:
        async with reporting(context):
            with self._telemetry.request("classify") as request, self._worker.admit():
                call = self._call("classify", message.coding, context, request)
                return await self._classify(call, message)
        _unreachable()

    async def Imagine(
        self, message: inference_pb2.ImagineRequest, context: grpc.aio.ServicerContext
    ) -> AsyncIterator[inference_pb2.ImagineReply]:
        async with reporting(context):
            with self._telemetry.request("imagine") as request, self._worker.admit():
                call = self._call("imagine", message.coding, context, request)
                async for reply in self._imagine(call, message):
                    yield reply

    async def _answer(self, call: Call, message: inference_pb2.AnswerRequest) -> inference_pb2.AnswerReply:
        llama = call.pipeline.llama
        letters = ascii_uppercase[: len(message.choices)]
        if not message.question.strip():
            raise InputError(field="question", problem="it is empty", remedy="Ask something")
        if not 2 <= len(message.choices) <= len(ascii_uppercase) or not all(c.strip() for c in message.choices):
            raise InputError(field="choices", problem="not two to 26 texts", remedy="Give two to 26 that say something")
        token_ids = await self._tokens(llama.chat_ids, choice_prompt(message.question, message.choices))
        features = await self._worker.run(call.pipeline.read, llama.start(), token_ids, call.request)
        task = head_pb2.AnswerTask(token_ids=[llama.token_id(letter) for letter in letters])
        reply = await self._through(call, features, head_pb2.RunRequest(answer=task))
        probabilities = list(reply.probabilities.values)
        choice = max(range(len(letters)), key=probabilities.__getitem__)
        return inference_pb2.AnswerReply(
            letter=letters[choice], choice=choice, probabilities=probabilities, cost=_cost(call)
        )

    async def _complete(
        self, call: Call, message: inference_pb2.CompleteRequest
    ) -> AsyncIterator[inference_pb2.CompleteReply]:
        llama = call.pipeline.llama
        if not message.prompt.strip():
            raise InputError(field="prompt", problem="it is empty", remedy="Write something")
        num_tokens = message.max_tokens or _DEFAULT_NEW_TOKENS
        if num_tokens > self._settings.max_new_tokens:
            remedy = f"Ask for at most {self._settings.max_new_tokens}"
            raise InputError(field="max_tokens", problem=f"{num_tokens}", remedy=remedy)
        token_ids = await self._tokens(llama.plain_ids if message.plain else llama.chat_ids, message.prompt)
        session = llama.start()
        features = await self._worker.run(call.pipeline.read, session, token_ids, call.request)
        new_ids: list[int] = []
        text = ""
        finish_reason = "length"
        while len(new_ids) < num_tokens:
            # The cloud keeps nothing between calls yet: each token sends the whole sequence's features again.
            run = head_pb2.RunRequest(next_token=head_pb2.NextTokenTask())
            reply = await self._through(call, features, run)
            if llama.is_end(reply.token_id):
                finish_reason = "end"
                break
            new_ids.append(reply.token_id)
            whole = llama.tokenizer.decode(new_ids)
            added = "" if whole.endswith(_UNFINISHED) else whole[len(text) :]
            text += added
            yield inference_pb2.CompleteReply(text=added, token_id=reply.token_id)
            if len(new_ids) < num_tokens:
                row = await self._worker.run(call.pipeline.read, session, new_ids[-1:], call.request)
                features = torch.cat([features, row])
        rest = llama.tokenizer.decode(new_ids)[len(text) :]
        yield inference_pb2.CompleteReply(text=rest, finish_reason=finish_reason, cost=_cost(call))

    async def _segment(self, call: Call, message: inference_pb2.SegmentRequest) -> inference_pb2.SegmentReply:
        (features, box), (width, height) = await self._with_image(call.pipeline.see, message.image, call.request)
        task = head_pb2.SegmentTask(
            left=box.left, top=box.top, right=box.right, bottom=box.bottom, width=width, height=height
        )
        reply = await self._through(call, features, head_pb2.RunRequest(segment=task))
        return inference_pb2.SegmentReply(
            label_map_png=reply.label_map_png, width=width, height=height, cost=_cost(call)
        )

    async def _classify(self, call: Call, message: inference_pb2.ClassifyRequest) -> inference_pb2.ClassifyReply:
        count = message.top_k or _DEFAULT_LABELS
        if count > MAX_LABELS:
            raise InputError(field="top_k", problem=f"{count} labels", remedy=f"Ask for at most {MAX_LABELS}")
        features, _ = await self._with_image(call.pipeline.look, message.image, call.request)
        run = head_pb2.RunRequest(classify=head_pb2.ClassifyTask(top_k=count))
        reply = await self._through(call, features, run)
        return inference_pb2.ClassifyReply(labels=reply.labels.labels, cost=_cost(call))

    async def _imagine(
        self, call: Call, message: inference_pb2.ImagineRequest
    ) -> AsyncIterator[inference_pb2.ImagineReply]:
        sd3, usual = call.pipeline.sd3, call.pipeline.profile.spec.imagine
        wish = Wish(
            prompt=message.prompt,
            seed=message.seed,
            steps=message.steps or usual.steps,
            guidance=message.guidance if message.HasField("guidance") else usual.guidance,
            width=message.width or sd3.default_pixels,
            height=message.height or sd3.default_pixels,
        )
        sd3.check(wish, self._settings.max_steps)
        steps: asyncio.Queue[int] = asyncio.Queue()
        loop = asyncio.get_running_loop()
        stop = threading.Event()

        def on_step(step: int) -> None:
            if stop.is_set():
                raise asyncio.CancelledError
            if not call.timeout_s:
                raise DeadlineExceeded(peer="the denoiser", address=f"step {step}", timeout_s=self._settings.timeout_s)
            loop.call_soon_threadsafe(steps.put_nowait, step)

        drawing = asyncio.ensure_future(self._worker.run(call.pipeline.imagine, wish, on_step, call.request))
        drawing.add_done_callback(lambda _: steps.put_nowait(_DRAWN))
        try:
            while (step := await steps.get()) != _DRAWN:
                yield inference_pb2.ImagineReply(step=step, num_steps=wish.steps)
            latent = await drawing
        finally:
            stop.set()
            drawing.cancel()
        reply = await self._through(call, latent, head_pb2.RunRequest(imagine=head_pb2.ImagineTask()))
        yield inference_pb2.ImagineReply(
            step=wish.steps,
            num_steps=wish.steps,
            picture_png=reply.picture_png,
            width=wish.width,
            height=wish.height,
            cost=_cost(call),
        )

    async def _with_image(
        self, work: Callable[[Image.Image, Request], T], data: bytes, request: Request
    ) -> tuple[T, tuple[int, int]]:
        """What `work` makes of an image, and the image's width and height.

        It is opened and worked on in one piece: no more images are unpacked at a time than there are threads.
        """

        def opened() -> tuple[T, tuple[int, int]]:
            image = open_image(data, self._settings.max_image_bytes, self._settings.max_image_pixels)
            return work(image, request), image.size

        return await self._worker.run(opened)

    async def _through(self, call: Call, features: Tensor, run: head_pb2.RunRequest) -> head_pb2.RunReply:
        """Encodes the features, sends them with their task, and books the cloud's stages.

        Features that desync go again in `raw`, which cannot; so do those that follow in this call.
        """
        run.profile = call.pipeline.profile.name
        run.frame = await self._worker.run(call.pipeline.encode, features, call.codec, call.rate, call.request)
        with call.request.stages.measure("round_trip"):
            try:
                reply = await self._cloud.run(run, call.timeout_s)
            except Desync:
                self._telemetry.desyncs.labels(call.request.model, call.codec).inc()
                call.codec = call.request.codec = "raw"
                call.rate = Rate()
                run.frame = await self._worker.run(call.pipeline.encode, features, "raw", call.rate, call.request)
                reply = await self._cloud.run(run, call.timeout_s)
        for stage in reply.stages:
            call.request.stages.add(stage.name, stage.seconds)
        return reply

    def _call(
        self, task: Task, coding: inference_pb2.Coding, context: grpc.aio.ServicerContext, request: Request
    ) -> Call:
        pipeline = self._pipeline(task, coding.profile)
        request.model = pipeline.profile.name
        codec = coding.codec or pipeline.codec.default_codec
        if codec not in pipeline.codec.codecs:
            known = ", ".join(pipeline.codec.codecs)
            problem = f"{codec} is none of {pipeline.profile.name} at split {pipeline.profile.split}"
            raise InputError(field="codec", problem=problem, remedy=f"Use one of {known}")
        request.codec = codec
        kind = coding.WhichOneof("rate")
        rate = Rate() if kind is None else Rate(**{kind: getattr(coding, kind)})
        remaining = context.time_remaining()
        timeout_s = self._settings.timeout_s if remaining is None else float(remaining)
        return Call(pipeline, codec, rate, time.monotonic() + timeout_s, request)

    def _pipeline(self, task: Task, name: str) -> EdgePipeline:
        able = {n: p for n, p in self._pipelines.items() if task in p.profile.spec.tasks}
        if name and name not in self._pipelines:
            known = ", ".join(self._pipelines)
            raise InputError(field="profile", problem=f"no profile {name} here", remedy=f"Use one of {known}")
        if not able or (name and name not in able):
            known = ", ".join(able) or "none is served here"
            raise InputError(field="profile", problem=f"{name or 'none'} can {task}", remedy=f"These can: {known}")
        return able[name] if name else next(iter(able.values()))

    async def _tokens(self, tokenize: Callable[[str], list[int]], prompt: str) -> list[int]:
        """Token ids of a prompt; one that cannot fit is refused before it is tokenized."""
        limit = self._settings.max_prompt_tokens
        remedy = f"Stay within {limit} tokens"
        if len(prompt) > limit * _MOST_CHARACTERS_A_TOKEN:
            raise InputError(field="prompt", problem=f"{len(prompt)} characters", remedy=remedy)
        token_ids = await self._worker.run(tokenize, prompt)
        if len(token_ids) > limit:
            raise InputError(field="prompt", problem=f"{len(token_ids)} tokens", remedy=remedy)
        return token_ids


def _cost(call: Call) -> inference_pb2.Cost:
    request = call.request
    return inference_pb2.Cost(
        profile=request.model,
        codec=request.codec,
        num_frames=request.num_frames,
        num_values=request.num_values,
        raw_bytes=request.raw_bytes,
        payload_bytes=request.payload_bytes,
        wire_bytes=request.wire_bytes,
        bpfp_payload=request.bpfp_payload,
        bpfp_wire=request.bpfp_wire,
        stages=[head_pb2.Stage(name=name, seconds=seconds) for name, seconds in request.stages.seconds.items()],
    )


def _unreachable() -> NoReturn:
    raise AssertionError("reporting aborts the call")
