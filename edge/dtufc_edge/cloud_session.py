"""One text's session at a cloud: rows go, tokens come; a cloud that is lost is replaced.

Every frame that was sent is kept. Where the cloud is lost, the session is opened again, at another one if there is one,
and gets them all: the text goes on as if nothing had happened.
"""

import asyncio
import logging
from collections.abc import Iterator, Sequence
from typing import Final

from torch import Tensor

from dtufc.coding import bitstream
from dtufc.coding.feature_codec import EncodedFrame
from dtufc.coding.rate import Rate
from dtufc.errors import CacheFull, Desync, InputError, Overloaded, SessionLost, Unavailable
from dtufc.v1 import head_pb2
from dtufc_edge.cloud import Link
from dtufc_edge.exchange import Exchange

ROUND_TRIP: Final = "round_trip"  # the stage
_FIRST_PAUSE_S: Final = 0.05  # before a lost session is opened again; twice as long each time,
_LONGEST_PAUSE_S: Final = 1.0
_OPENINGS: Final = 3  # of a session that no cloud has answered yet, where one was met
_LAST_S: Final = 0.3  # before the deadline: time to tell the client
_MAX_REPLAY_BYTES: Final = 8 << 20  # of frames in one message, or half of the largest message; but for one larger frame
_LOST: Final = (Unavailable, SessionLost, CacheFull, Overloaded)
_log = logging.getLogger(__name__)


class CloudSession:
    """A session that outlives its cloud."""

    def __init__(
        self, exchange: Exchange, opening: head_pb2.OpenSession, token_rate: Rate, max_message_bytes: int
    ) -> None:
        """
        Args:
            exchange: of the call.
            opening: profile, sampling, and the numbers of rows; the rest follows from the features.
            token_rate: of the rows behind the prompt.
            max_message_bytes: of the cloud.
        """
        self._exchange, self._opening, self._token_rate = exchange, opening, token_rate
        self._max_replay_bytes = min(_MAX_REPLAY_BYTES, max_message_bytes // 2)
        self._link: Link | None = None
        self._is_open = False  # whether the cloud has answered
        self._kept: list[tuple[int, EncodedFrame]] = []  # positions and frames of all rows that the cloud holds

    async def step(
        self, position: int, features: Tensor, new_ids: Sequence[int], drafted: Sequence[int] = ()
    ) -> head_pb2.GenerateReply:
        """Rows to the tokens behind them.

        Args:
            position: of the first row; those behind it, if there are any, are replaced.
            features: [rows, d]; from position 0 the prompt, as one frame. Every later row is a frame of its own, and
                decodes alike whether it is a guess or not.
            new_ids: the reply so far.
            drafted: tokens of the last rows that are guesses.

        Raises:
            DtufcError: whatever encoding, the way or the cloud raised. A cloud that is lost before it has replied is
                looked for twice more, one that is lost later until shortly before the call's deadline.
        """
        frames = await self._encoded(position, features)
        self._kept = [kept for kept in self._kept if kept[0] < position]
        pause_s, was_lost = _FIRST_PAUSE_S, False
        attempt = 0
        while True:
            attempt += 1
            try:
                with self._exchange.record.stages.measure(ROUND_TRIP):
                    if self._link is None:
                        reply = await self._opened(frames, new_ids, drafted)
                    else:
                        request = head_pb2.GenerateRequest(rows=self._rows(frames), drafted=drafted)
                        reply = await self._link.exchange(request, self._exchange.admitted.remaining_s)
            except _LOST as lost:
                waits = isinstance(lost, Overloaded) and self._is_open  # the cloud has it still
                met = self._link is not None
                if not waits:
                    self.close()
                remaining_s = self._exchange.admitted.remaining_s - _LAST_S
                again = isinstance(lost, Unavailable) and met and attempt < _OPENINGS
                is_new = not self._kept and not isinstance(lost, SessionLost)
                if (is_new and not again) or remaining_s <= 0:
                    raise
                if not waits:
                    was_lost = was_lost or bool(self._kept)
                    _log.warning("a session is opened again: %s", lost)
                await asyncio.sleep(min(pause_s, remaining_s))
                pause_s = min(2 * pause_s, _LONGEST_PAUSE_S)
            except Desync as desync:
                self.close()
                if self._exchange.codec == "raw":  # frames that were sent before desync too
                    raise
                self._exchange.desynced()
                try:
                    frames = await self._encoded(position, features)
                except InputError:  # more bytes than the call's rate allows
                    raise desync from None
            else:
                self._kept += frames
                self._is_open = True
                if was_lost:  # once, however many attempts it took
                    self._exchange.telemetry.recovered(self._exchange.record)
                return reply

    def close(self) -> None:
        """Ends the session at the cloud."""
        if self._link is not None:
            self._link.close()
        self._link, self._is_open = None, False

    async def _encoded(self, position: int, features: Tensor) -> list[tuple[int, EncodedFrame]]:
        exchange = self._exchange
        if position == 0:
            self._opening.channels = features.shape[-1]
            self._opening.dtype = str(features.dtype).removeprefix("torch.")
            return [(0, await exchange.encode(features, exchange.rate, focus=[-1]))]
        rows = [features[index : index + 1] for index in range(len(features))]
        return [
            (at, await exchange.encode(row, self._token_rate, step_at=at))
            for at, row in enumerate(rows, start=position)
        ]

    async def _opened(
        self, frames: list[tuple[int, EncodedFrame]], new_ids: Sequence[int], drafted: Sequence[int]
    ) -> head_pb2.GenerateReply:
        """Opens the session, with all rows that were sent before; the reply to the last message."""
        exchange = self._exchange
        admitted = exchange.admitted
        self._link = await exchange.cloud.open(self._opening.profile, admitted.remaining_s)
        self._opening.codec = exchange.codec
        del self._opening.new_ids[:]
        self._opening.new_ids.extend(new_ids)
        request = head_pb2.GenerateRequest(open=self._opening)
        for part in _parts(self._kept, self._max_replay_bytes):
            request.rows.extend(self._whole(part))
            request.hold = True
            exchange.record.wire_bytes += sum(len(frame) for _, frame in part)
            await self._link.exchange(request, admitted.remaining_s)
            request = head_pb2.GenerateRequest()
        request.rows.extend(self._rows(frames))
        request.drafted.extend(drafted)
        return await self._link.exchange(request, admitted.remaining_s)

    def _rows(self, frames: Sequence[tuple[int, EncodedFrame]]) -> Iterator[head_pb2.Rows]:
        """As they are sent first: the prompt's frame as a whole, later ones as step frames."""
        for position, frame in frames:
            if position == 0:
                yield head_pb2.Rows(frame=frame)
            else:
                yield head_pb2.Rows(step_frame=bitstream.pack_step(frame.frame, position))

    def _whole(self, frames: Sequence[tuple[int, EncodedFrame]]) -> Iterator[head_pb2.Rows]:
        """As they are sent again: each with its codec, which may have changed since."""
        return (head_pb2.Rows(frame=frame, position=position) for position, frame in frames)


def _parts(frames: Sequence[tuple[int, EncodedFrame]], max_bytes: int) -> Iterator[list[tuple[int, EncodedFrame]]]:
    """Frames in order, as many together as fit in a message."""
    part: list[tuple[int, EncodedFrame]] = []
    size = 0
    for position, frame in frames:
        if part and size + len(frame) > max_bytes:
            yield part
            part, size = [], 0
        part.append((position, frame))
        size += len(frame)
    if part:
        yield part
