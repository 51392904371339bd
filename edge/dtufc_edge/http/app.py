"""The endpoints: each takes a body that the schema has checked, and answers with an object or with events."""

import json
import time
import uuid
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import ExitStack
from http import HTTPStatus
from typing import Final

from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import StreamingResponse
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest
from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from dtufc.errors import DtufcError, Internal, Overloaded, Unavailable
from dtufc.serving.border import client_of_host
from dtufc.serving.limits import MAX_HTTP_CALLS
from dtufc.serving.telemetry import Telemetry
from dtufc.serving.turns import CALLER, Places
from dtufc.v1 import head_pb2
from dtufc_edge.http.errors import Json, body_of, body_of_error, json_response, response_of
from dtufc_edge.http.replies import ClientGone, Replies, Reply, unless_gone
from dtufc_edge.http.schema import Asked, ChatRequest, CompletionRequest, input_error
from dtufc_edge.http.translate import CHAT, COMPLETION, Choice, Form, requests_of, usage_of
from dtufc_edge.served import ServedProfile
from dtufc_edge.service import InferenceService
from dtufc_edge.settings import EdgeSettings

MAX_BODY_BYTES: Final = 1 << 20  # its JSON takes up to 40 times as much memory while it is read
_CLIENT_GONE: Final = 499  # which nobody reads
_EVENT_HEADERS: Final = {"Cache-Control": "no-cache", "X-Accel-Buffering": "no"}


class Endpoints:
    """The endpoints of one edge.

    Attributes:
        address: where they are served.
        telemetry: of the edge.
        draining: whether new requests are rejected.
        active: replies that are being made.
    """

    def __init__(self, service: InferenceService, telemetry: Telemetry, settings: EdgeSettings) -> None:
        self.draining = False
        self.active: set[Replies] = set()
        self.address = str(settings.http_listen)
        self._service = service
        self.telemetry = telemetry
        self._settings = settings
        self._created = int(time.time())

    def app(self) -> FastAPI:
        """The application that serves them."""
        app = FastAPI(title="DT-UFC", docs_url=None, redoc_url=None)
        app.add_middleware(_Gate, endpoints=self)
        app.post("/v1/chat/completions", response_model=None)(self.chat)
        app.post("/v1/completions", response_model=None)(self.completion)
        app.get("/v1/models")(self.models)
        app.get("/v1/models/{name:path}")(self.model)
        app.get("/health", response_model=None)(self.health)
        app.get("/health/live")(self.live)
        app.get("/metrics", response_model=None)(self.metrics)
        for kind in (DtufcError, RequestValidationError, HTTPException, ClientGone, _NoModelError, Exception):
            app.add_exception_handler(kind, _on_error)
        return app

    async def chat(self, asked: ChatRequest, request: Request) -> Response:
        return await self._answer(asked, request, CHAT)

    async def completion(self, asked: CompletionRequest, request: Request) -> Response:
        return await self._answer(asked, request, COMPLETION)

    async def models(self) -> Json:
        return {"object": "list", "data": [self._described(one.info) for one in self._models().values()]}

    async def model(self, name: str) -> Json:
        return self._described(self._served(name).info)

    async def health(self) -> Response:
        if self.draining or not self._service.is_loaded:
            return json_response(503, {"status": "NOT_SERVING"})
        return json_response(200, {"status": "SERVING"})

    async def live(self) -> Json:
        return {"status": "SERVING"}

    async def metrics(self) -> Response:
        return Response(generate_latest(self.telemetry.registry), headers={"Content-Type": CONTENT_TYPE_LATEST})

    def _models(self) -> dict[str, ServedProfile]:
        return {n: p for n, p in self._service.served.profiles.items() if p.token_texts is not None}

    def _served(self, name: str) -> ServedProfile:
        models = self._models()
        if name not in models:
            known = ", ".join(models) or "none is served here"
            raise _NoModelError(f"model: no model {name} here. These are: {known}.")
        return models[name]

    def _described(self, info: head_pb2.ProfileInfo) -> Json:
        qualities = {codec: [info.qualities[codec].lowest, info.qualities[codec].highest] for codec in info.qualities}
        ours = {"family": info.family, "split": info.split, "codecs": list(info.codecs), "qualities": qualities}
        return {"id": info.name, "object": "model", "created": self._created, "owned_by": "dtufc", "dtufc": ours}

    async def _answer(self, asked: ChatRequest | CompletionRequest, request: Request, form: Form) -> Response:
        texts = self._served(asked.model).token_texts
        assert texts is not None
        requests = requests_of(asked, self._settings.max_new_tokens)
        choices = [Choice(index, texts) for index in range(len(requests))]
        head: Json = {"id": f"{form.id_prefix}-{uuid.uuid4().hex}", "created": int(time.time()), "model": asked.model}
        replies = Replies(self._service, requests)
        self.active.add(replies)

        def close() -> None:
            self.active.discard(replies)
            replies.close()

        try:
            first = await unless_gone(request, replies.next())  # before a stream begins: an error has a status here
            if asked.stream:
                return _EventStream(_events(replies, first, choices, asked, form, head), close)
            await unless_gone(request, _read(replies, first, choices))
        except BaseException:
            close()
            raise
        close()
        body = {**head, "object": form.whole, "choices": [form.choice(choice) for choice in choices]}
        return json_response(200, {**body, "usage": usage_of(choices, asked)})


async def _read(replies: Replies, first: Reply | None, choices: Sequence[Choice]) -> None:
    reply = first
    while reply is not None:
        index, message = reply
        choices[index].add(message)
        reply = await replies.next()


async def _events(
    replies: Replies, first: Reply | None, choices: Sequence[Choice], asked: Asked, form: Form, head: Json
) -> AsyncIterator[str]:
    """Server-sent events: chunks, and [DONE]; or an error, and nothing after it."""
    head = {**head, "object": form.chunk, **({"usage": None} if asked.include_usage else {})}
    for opening in map(form.opening, choices):
        if opening is not None:
            yield _event({**head, "choices": [opening]})
    reply = first
    try:
        while reply is not None:
            index, message = reply
            part = choices[index].part(message)
            if part.text or part.tokens or part.last:
                yield _event({**head, "choices": [form.delta(part)]})
            reply = await replies.next()
    except DtufcError as error:
        yield _event(body_of_error(error))
        return
    if asked.include_usage:
        yield _event({**head, "choices": [], "usage": usage_of(choices, asked)})
    yield "data: [DONE]\n\n"


def _event(body: Json) -> str:
    return f"data: {json.dumps(body)}\n\n"


class _EventStream(StreamingResponse):
    """Events, and what to do at their end, however it comes: a client that goes away cancels them."""

    def __init__(self, events: AsyncIterator[str], close: Callable[[], None]) -> None:
        super().__init__(events, headers=_EVENT_HEADERS, media_type="text/event-stream")
        self._close = close

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await super().__call__(scope, receive, send)
        finally:
            self._close()


class _Gate:
    """What asks for work passes here: none while the edge drains, and no more than memory holds."""

    def __init__(self, app: ASGIApp, endpoints: Endpoints) -> None:
        self._app, self._endpoints = app, endpoints
        self._places = Places(MAX_HTTP_CALLS)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or scope["method"] != "POST":
            await self._app(scope, receive, send)
        elif self._endpoints.draining:
            await response_of(stopping(self._endpoints.address))(scope, receive, send)
        else:
            CALLER.set(client_of_host(scope["client"][0] if scope.get("client") else ""))
            with ExitStack() as held:
                try:
                    held.enter_context(self._places.hold())
                except Overloaded as error:
                    self._endpoints.telemetry.rejected("http", error.code)
                    await response_of(error)(scope, receive, send)
                    return
                await self._app(scope, _limited(receive), send)


def _limited(receive: Receive) -> Receive:
    num_bytes = 0

    async def limited() -> Message:
        nonlocal num_bytes
        message = await receive()
        num_bytes += len(message.get("body", b""))
        if num_bytes > MAX_BODY_BYTES:
            raise HTTPException(413, f"body: more than {MAX_BODY_BYTES} bytes. Send less.")
        return message

    return limited


def stopping(address: str) -> Unavailable:
    """What those meet whom the edge does not serve any more."""
    return Unavailable(peer="the edge", address=address, problem="it is stopping")


class _NoModelError(Exception):
    """No profile of this name completes here."""


async def _on_error(_: Request, error: Exception) -> Response:
    """Every error's response, in OpenAI's form."""
    match error:
        case DtufcError():
            return response_of(error)
        case RequestValidationError():
            return response_of(input_error(error.errors()))
        case _NoModelError():
            return json_response(404, body_of(404, str(error), "model_not_found", "model"))
        case HTTPException():
            code = HTTPStatus(error.status_code).phrase.lower().replace(" ", "_")
            return json_response(error.status_code, body_of(error.status_code, str(error.detail), code), error.headers)
        case ClientGone():
            return Response(status_code=_CLIENT_GONE)
    return response_of(Internal())
