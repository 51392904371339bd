"""Sessions of generation: what the cloud keeps of a text between its tokens.

rows --frame--> features --passes--> logits --sampler--> tokens
"""

import asyncio
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from itertools import pairwise
from typing import Any, Final

import torch
from torch import Tensor

from dtufc.coding import bitstream
from dtufc.coding.bitstream import CodecId, Dtype
from dtufc.errors import InputError, Overloaded, SessionLost
from dtufc.models.capabilities import SequenceLogits
from dtufc.serving.cache_budget import CacheBudget
from dtufc.serving.limits import MAX_DRAFTED, MAX_PASS_ROWS, MAX_STOP_TOKEN_IDS, SESSION_ID_BYTES
from dtufc.serving.passes import Passes, pieces
from dtufc.serving.sampling import check_sampling
from dtufc.serving.telemetry import Record, Telemetry
from dtufc.serving.worker import Worker
from dtufc.v1 import head_pb2
from dtufc_cloud.pipeline import CloudPipeline
from dtufc_cloud.sampling import Sampler, check_token_ids
from dtufc_cloud.served import Served
from dtufc_cloud.settings import CloudSettings

_DECODED: Final = 32  # frames that are decoded in one piece of work: steps of other sessions go between them


class Session:
    """One text: its keys and values, and its tokens."""

    def __init__(
        self,
        opening: head_pb2.OpenSession,
        pipeline: CloudPipeline,
        passes: Passes[Tensor, Tensor],
        worker: Worker,
        telemetry: Telemetry,
    ) -> None:
        """Raises InputError for what the profile, its head or the sampler cannot do."""
        head: SequenceLogits = pipeline.head
        self._head, self._pipeline, self._passes, self._worker = head, pipeline, passes, worker
        self._telemetry = telemetry
        self._sampler = Sampler(opening.sampling, opening.prompt_ids, head.vocabulary)
        check_token_ids("new_ids", opening.new_ids, head.vocabulary)
        self._stops = frozenset((*opening.sampling.stop_token_ids, *opening.end_ids))
        self._num_prompt_rows, self._max_rows = opening.num_prompt_rows, opening.max_rows
        self._new_ids = list(opening.new_ids)
        self._state = head.start()
        self._context = bitstream.StepContext(
            profile_digest=pipeline.profile.short_digest,
            codec=CodecId[opening.codec],
            dtype=Dtype[opening.dtype],
            channels=opening.channels,
        )

    async def handle(self, request: head_pb2.GenerateRequest, record: Record) -> head_pb2.GenerateReply:
        """One message's rows to the tokens behind them.

        Raises:
            InputError: rows that do not follow one another or those held, or more than the opening said.
            BitstreamError, ProfileMismatch, Desync: a frame that cannot be decoded.
            SessionLost: rows are sent again that the model cannot take back.
        """
        record.model, record.codec = self._pipeline.profile.name, self._context.codec.name
        tokens: list[head_pb2.SampledToken] = []
        if not request.rows and not request.HasField("open") and not request.close:
            raise InputError(field="rows", problem="there are none", remedy="Send some, or end the session")
        if request.rows:
            if len(request.rows) > self._max_rows:
                remedy = "Send a frame for each row at most"
                raise InputError(field="rows", problem=f"{len(request.rows)} frames", remedy=remedy)
            began = time.perf_counter()
            parts = await self._worker.run(self._parsed, request.rows, record)
            self._check(request, parts)
            for codec in {part.frame.codec.name for part in parts}:
                await self._worker.load(self._pipeline.codec, codec)
            decoded = [
                await self._worker.run(self._decoded, parts[at : at + _DECODED], record)
                for at in range(0, len(parts), _DECODED)
            ]
            features = torch.cat(decoded)
            start = parts[0].position
            if not self._state.rewind(start):
                raise SessionLost(problem=f"rows from {start} on cannot be taken back")
            with record.stages.measure("cloud.head"):
                for piece in pieces(len(features)):
                    last = min(len(request.drafted) + 1, piece.stop - piece.start)
                    alone = partial(self._head.next_logits, last=last)
                    logits = await self._passes.advance(self._state, features[piece], alone)
                if not request.hold:
                    tokens = await self._worker.run(self._sampled, logits, request.drafted)
            seconds = time.perf_counter() - began
            self._telemetry.stepped(record, seconds, sampled=len(tokens), drafted=len(request.drafted))
        return head_pb2.GenerateReply(num_rows=self._state.num_tokens, tokens=tokens, can_rewind=self._state.can_rewind)

    def _parsed(self, rows: Sequence[head_pb2.Rows], record: Record) -> list["_Part"]:
        parts = []
        for each in rows:
            if each.WhichOneof("kind") == "step_frame":
                position, frame = self._pipeline.parse_step(each.step_frame, self._context, record)
                parts.append(_Part(position, frame, len(each.step_frame)))
            else:
                parts.append(_Part(each.position, self._pipeline.parse(each.frame, record), len(each.frame)))
        return parts

    def _check(self, request: head_pb2.GenerateRequest, parts: Sequence["_Part"]) -> None:
        """Raises InputError unless the rows follow those held, before anything is decoded."""
        start, end = parts[0].position, parts[-1].end
        for before, part in pairwise(parts):
            if part.position != before.end:
                problem = f"rows from {part.position} on, behind the one before {before.end}"
                raise InputError(field="rows", problem=problem, remedy="Send rows that follow one another")
        if start > self._state.num_tokens:
            problem = f"rows from {start} on, and the session holds {self._state.num_tokens}"
            raise InputError(field="rows", problem=problem, remedy="Send rows that follow those held")
        if end > self._max_rows:
            remedy = "Name as many in max_rows as there will be"
            raise InputError(field="rows", problem=f"{end} of {self._max_rows}", remedy=remedy)
        num_drafted = len(request.drafted)
        fits = num_drafted <= MAX_DRAFTED and num_drafted < end - start <= MAX_PASS_ROWS
        if num_drafted and (request.hold or not fits):
            problem = f"{num_drafted} for {end - start} rows"
            remedy = f"Send a row for each, behind that of a token that is known; at most {MAX_DRAFTED}"
            raise InputError(field="drafted", problem=problem, remedy=remedy)
        if num_drafted and not self._state.can_rewind:
            raise InputError(field="drafted", problem="the model cannot take rows back", remedy="Send none")
        first = end - num_drafted - self._num_prompt_rows
        if not request.hold and not 0 <= first <= len(self._new_ids):
            of = f"{self._num_prompt_rows} of the prompt, {len(self._new_ids)} tokens of the reply"
            problem = f"{end - num_drafted} rows, with {of}"
            raise InputError(field="rows", problem=problem, remedy="Name the reply's tokens so far in new_ids")

    def _decoded(self, parts: Sequence["_Part"], record: Record) -> Tensor:
        """[tokens, d]."""
        return torch.cat([self._pipeline.decode(part.frame, part.num_bytes, record) for part in parts])

    def _sampled(self, logits: Tensor, drafted: Sequence[int]) -> list[head_pb2.SampledToken]:
        """The tokens behind the last rows [1 + drafted, vocabulary]; rows of drafts that do not hold are taken back."""
        num_rows = self._state.num_tokens - len(drafted)
        del self._new_ids[num_rows - self._num_prompt_rows :]
        tokens = []
        for row, draft in zip(logits, (*drafted, None), strict=True):
            tokens.append(self._sampler.sample(row, self._new_ids))
            token_id = tokens[-1].token_id
            self._new_ids.append(token_id)
            if token_id != draft or token_id in self._stops:
                break
        if not self._state.rewind(num_rows + len(tokens) - 1):
            raise SessionLost(problem="rows of drafts cannot be taken back")
        return tokens


@dataclass(frozen=True, slots=True)
class _Part:
    """A frame, where it starts, and its size on the wire."""

    position: int
    frame: bitstream.Frame
    num_bytes: int

    @property
    def end(self) -> int:
        """The position behind its last row."""
        return self.position + self.frame.num_values // self.frame.shape[-1]


def _unknown() -> SessionLost:
    return SessionLost(problem="no session of this id is here")


def drains() -> SessionLost:
    """What ends the sessions of a service that stops."""
    return SessionLost(problem="this cloud stops", end="drained")


def idle(idle_s: float) -> SessionLost:
    """What ends a session that got no rows for so long."""
    return SessionLost(problem=f"no rows came for {idle_s} s", end="idle")


class Sessions:
    """The sessions of a cloud, within its memory for keys and values."""

    def __init__(self, worker: Worker, telemetry: Telemetry, settings: CloudSettings) -> None:
        self._worker, self._telemetry, self._settings = worker, telemetry, settings
        self.budget = CacheBudget(settings.max_cache_bytes)
        telemetry.watch_cache(self.budget)
        self._named: dict[bytes, _Named] = {}

    @contextmanager
    def opened(self, served: Served, opening: head_pb2.OpenSession, record: Record) -> Iterator[Session]:
        """A session on what is served now, whose memory is held until the context ends.

        Raises:
            InputError: the opening cannot be served.
            ProfileMismatch: its profile is not here.
            Overloaded, CacheFull: there are too many sessions, or too little memory is left for its keys and values.
        """
        pipeline, passes = served.completing(opening.profile)
        self._check(opening, pipeline)
        if self.budget.sequences >= self._settings.max_sessions:
            raise Overloaded(limit=self._settings.max_sessions)
        record.model, record.codec = opening.profile, opening.codec
        with self.budget.reserve(pipeline.head.cache_bytes(opening.max_rows), opening.max_rows):
            session = Session(opening, pipeline, passes, self._worker, self._telemetry)
            with self._telemetry.session(opening.profile):
                yield session

    async def step(self, served: Served, request: head_pb2.GenerateRequest, record: Record) -> head_pb2.GenerateReply:
        """One message of a session that is named by its id; one that is open stays on what was served then.

        Raises:
            SessionLost: no session of this id is here, or it fails, which ends it.
            DtufcError: as `opened` and `Session.handle` do.
        """
        key = request.session_id
        if len(key) != SESSION_ID_BYTES:
            problem, remedy = f"{len(key)} bytes", f"Give {SESSION_ID_BYTES} random ones"
            raise InputError(field="session_id", problem=problem, remedy=remedy)
        if request.HasField("open"):
            if key in self._named:
                self._named[key].close()
            self._named[key] = _Named(self.opened(served, request.open, record), partial(self._forget, key))
        named = self._named.get(key)
        if named is None:
            raise _unknown()
        try:
            return await named.handle(request, record, self._settings.session_idle_s)
        except BaseException as error:  # a cancelled call too: nobody knows what its session holds
            named.close(error)
            raise

    def close(self, key: bytes) -> None:
        """Ends the session of this id. Raises SessionLost if there is none."""
        if key not in self._named:
            raise _unknown()
        self._named[key].close()

    def drained(self, key: bytes) -> SessionLost:
        """What ends the session of this id, if there is one, where the service stops."""
        lost = drains()
        if key in self._named:
            self._named[key].close(lost)
        return lost

    def _forget(self, key: bytes, named: "_Named") -> None:
        """Unless another session has taken its id."""
        if self._named.get(key) is named:
            del self._named[key]

    def _check(self, opening: head_pb2.OpenSession, pipeline: CloudPipeline) -> None:
        if opening.codec not in pipeline.codec.codecs or opening.dtype not in Dtype.__members__:
            problem = f"codec {opening.codec}, dtype {opening.dtype}"
            remedy = f"Use one of {', '.join(pipeline.codec.codecs)}, and of {', '.join(Dtype.__members__)}"
            raise InputError(field="open", problem=problem, remedy=remedy)
        pipeline.head.check((1, opening.channels))
        most = min(self._settings.max_tokens, pipeline.head.max_tokens or self._settings.max_tokens)
        if not 0 < opening.num_prompt_rows <= opening.max_rows <= most:
            problem = f"{opening.num_prompt_rows} rows of a prompt, and {opening.max_rows} in all"
            raise InputError(field="max_rows", problem=problem, remedy=f"Ask for at most {most}")
        if len(opening.end_ids) > MAX_STOP_TOKEN_IDS:
            problem, remedy = f"{len(opening.end_ids)} tokens", f"Name at most {MAX_STOP_TOKEN_IDS}"
            raise InputError(field="end_ids", problem=problem, remedy=remedy)
        if len(opening.new_ids) > opening.max_rows or len(opening.prompt_ids) > opening.max_rows:
            raise InputError(field="open", problem="more tokens than rows", remedy="Name those of the prompt and reply")
        check_sampling(opening.sampling)


class _Named:
    """A session between its calls, one at a time; it ends once it is idle for too long."""

    def __init__(self, opened: Any, forget: Callable[["_Named"], None]) -> None:
        self._opened, self._forget = opened, forget
        self._session: Session = opened.__enter__()
        self._turn = asyncio.Lock()
        self._expiry: asyncio.TimerHandle | None = None
        self._is_closed = False

    async def handle(self, request: head_pb2.GenerateRequest, record: Record, idle_s: float) -> head_pb2.GenerateReply:
        async with self._turn:
            if self._is_closed:
                raise SessionLost(problem="it ended before this message")
            if self._expiry is not None:
                self._expiry.cancel()
            reply = await self._session.handle(request, record)
            if not self._is_closed:
                self._expiry = asyncio.get_running_loop().call_later(idle_s, self.close, idle(idle_s))
            return reply

    def close(self, error: BaseException | None = None) -> None:
        if self._is_closed:
            return
        self._is_closed = True
        if self._expiry is not None:
            self._expiry.cancel()
        self._forget(self)
        self._opened.__exit__(None if error is None else type(error), error, None)
