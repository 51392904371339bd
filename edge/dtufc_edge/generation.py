"""A text on its way: token ids to features on the edge, features to the next token in the cloud, and so on."""

import secrets
import time
from collections.abc import AsyncGenerator, Sequence

import torch
from torch import Tensor

from dtufc.coding.rate import Rate
from dtufc.errors import Rejected
from dtufc.models.capabilities import TokenFeatures
from dtufc.serving.passes import pieces
from dtufc.v1 import head_pb2, inference_pb2
from dtufc_edge.cloud_session import ROUND_TRIP, CloudSession
from dtufc_edge.drafts import Drafts
from dtufc_edge.tasks import Call


class Generation:
    """The reply to one prompt.

    Attributes:
        so_far: what it came to.
    """

    def __init__(
        self,
        call: Call,
        prompt_ids: Sequence[int],
        max_tokens: int,
        sampling: head_pb2.Sampling,
        token_rate: Rate,
        drafts: inference_pb2.Drafts,
    ) -> None:
        """
        Args:
            call: the request.
            prompt_ids: at least one.
            max_tokens: of the reply.
            sampling: as the client asked for it.
            token_rate: of the rows of the reply; the prompt's is the call's own.
            drafts: whether tokens are guessed ahead.
        """
        backbone: TokenFeatures = call.backbone
        self._call, self._backbone, self._max_tokens = call, backbone, max_tokens
        sampling = head_pb2.Sampling.FromString(sampling.SerializeToString())
        if not sampling.HasField("seed"):
            sampling.seed = secrets.randbits(63)
        self._stops = backbone.ends.union(sampling.stop_token_ids)
        opening = head_pb2.OpenSession(
            profile=call.pipeline.profile.name,
            sampling=sampling,
            max_rows=len(prompt_ids) + max_tokens - 1,  # the last token is not sent
            num_prompt_rows=len(prompt_ids),
            end_ids=sorted(backbone.ends),
            prompt_ids=prompt_ids if sampling.HasField("repetition_penalty") else (),
        )
        self._session = CloudSession(call.exchange, opening, token_rate, call.settings.max_message_bytes)
        self._state = backbone.start()
        self._drafts = Drafts(drafts, prompt_ids)
        self._prompt_ids = list(prompt_ids)
        self._new_ids: list[int] = []
        self.so_far = inference_pb2.Generated(prompt_tokens=len(prompt_ids), seed=sampling.seed)

    def is_stop(self, token_id: int) -> bool:
        """Whether this token ends the reply."""
        return token_id in self._stops

    async def tokens(self) -> AsyncGenerator[head_pb2.SampledToken, None]:
        """The tokens one by one; a token that ends the reply is the last.

        Raises:
            DtufcError: whatever the model, encoding, the way or the cloud raised.
        """
        start = time.monotonic()
        row_ids, drafted = self._prompt_ids, list[int]()
        try:
            while True:
                for token in await self._step(row_ids, drafted):
                    if not self.so_far.new_tokens:
                        self.so_far.first_token_seconds = time.monotonic() - start
                    self.so_far.new_tokens += 1
                    yield token
                    if self.is_stop(token.token_id) or self.so_far.new_tokens == self._max_tokens:
                        return
                drafted = self._drafts.guess(self._max_tokens - self.so_far.new_tokens - 1)
                row_ids = [self._new_ids[-1], *drafted]
        finally:
            self._session.close()

    async def _step(self, row_ids: Sequence[int], drafted: Sequence[int]) -> Sequence[head_pb2.SampledToken]:
        """The tokens behind rows of these ids, of which the last are guesses."""
        record = self._call.record
        position, stages = self._state.num_tokens, record.stages
        start = time.monotonic()
        with stages.measure("edge.backbone"):
            features = await self._features(row_ids)
        before_s = stages.seconds.get(ROUND_TRIP, 0.0)
        reply = await self._session.step(position, features, self._new_ids, drafted)
        round_trip_s = stages.seconds[ROUND_TRIP] - before_s
        for stage in reply.stages:
            stages.add(stage.name, stage.seconds)
        self._check(reply, position + len(row_ids) - len(drafted), drafted)
        new_ids = [token.token_id for token in reply.tokens]
        self._new_ids += new_ids
        self.so_far.drafted_tokens += len(drafted)
        self.so_far.accepted_tokens += len(new_ids) - 1
        self.so_far.recoveries = record.recoveries
        step_s = time.monotonic() - start
        self._call.exchange.telemetry.generated(
            record, step_s, prompt=0 if position else len(row_ids), new=len(new_ids), drafted=len(drafted)
        )
        way_s = round_trip_s - sum(stage.seconds for stage in reply.stages)
        self._drafts.saw(
            new_ids,
            len(drafted),
            step_s=step_s - way_s,
            way_s=way_s,
            can_rewind=reply.can_rewind and self._state.can_rewind,
        )
        return reply.tokens

    async def _features(self, row_ids: Sequence[int]) -> Tensor:
        """[tokens, d]."""
        found = [
            await self._call.passes.advance(self._state, row_ids[piece], self._backbone.features)
            for piece in pieces(len(row_ids))
        ]
        return torch.cat(found) if len(found) > 1 else found[0]

    def _check(self, reply: head_pb2.GenerateReply, known: int, drafted: Sequence[int]) -> None:
        """Takes back the rows of guesses that do not hold. Raises Rejected for a reply that cannot be."""
        held = known + len(reply.tokens) - 1
        guessed = [token.token_id for token in reply.tokens[:-1]]
        sound = reply.tokens and guessed == list(drafted[: len(guessed)]) and reply.num_rows == held
        if not sound or not self._state.rewind(held):
            problem = f"{len(reply.tokens)} tokens and {reply.num_rows} rows, where {known} rows were known"
            raise Rejected(peer="the cloud", address=self._call.exchange.cloud.address, problem=problem)
