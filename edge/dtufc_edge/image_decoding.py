"""Images are decoded by processes that can be killed: within a time, a memory and a number of them at a time.

A decoder of the field's (libjpeg, libwebp, zlib) cannot be stopped in a thread, and a small file can keep it busy for
hours. Whatever ends the wait for a process (its image's time, the call's deadline, a client that goes away) kills it,
and another starts at once.
"""

import asyncio
import json
import logging
import os
import signal
import socket
import subprocess
import sys
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final

from PIL import Image

from dtufc.errors import InputError
from dtufc_edge import image_process
from dtufc_edge.image_process import FILE_HEAD, REPLY_HEAD, ImageLimits

_START_S: Final = 60.0
_MAX_TOLD_BYTES: Final = 1 << 16
_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class Pixels:
    """A decoded image: rows of three bytes a pixel."""

    width: int
    height: int
    rgb: bytearray

    def to_image(self) -> Image.Image:
        return Image.frombytes("RGB", (self.width, self.height), self.rgb)


class ImageDecoders:
    """So many processes, each of which decodes one image at a time.

    Attributes:
        turn: hold it from before an image is decoded until its pixels are not needed any more. Who waits for it comes
            in order, and leaves nothing behind when cancelled.
    """

    def __init__(self, limits: ImageLimits, count: int, ended: Callable[[str], None]) -> None:
        """
        Args:
            limits: of one image.
            count: of processes; none is there before `start` or the first image.
            ended: is told why a process ended that was to go on: time, cancelled, died, fault.
        """
        self.turn = asyncio.Semaphore(count)
        self._limits, self._count, self._ended = limits, count, ended
        self._idle: deque[_Process] = deque()
        self._ending: set[asyncio.Task[int]] = set()
        self._is_started = self._is_closed = False

    async def start(self) -> None:
        """Starts the processes, unless they run, so that the first image does not wait for one.

        Raises what starting one raises, and leaves none behind.
        """
        if self._is_started:
            return
        try:
            for _ in range(self._count):
                self._idle.append(_Process(self._limits))
            async with asyncio.timeout(_START_S), asyncio.TaskGroup() as starting:
                for process in self._idle:
                    starting.create_task(process.ready())
        except BaseException:
            while self._idle:
                self._end(self._idle.popleft())
            raise
        self._is_started = True

    async def close(self) -> None:
        """Ends the processes, and waits until they are gone."""
        self._is_closed = True
        while self._idle:
            self._end(self._idle.popleft())
        await asyncio.gather(*self._ending)

    async def decode(self, data: bytes) -> Pixels:
        """An image file's pixels. The caller holds `turn`.

        Raises:
            InputError: as `open_image` does; and for an image that takes too long, or too much memory, or that ends the
                process that decodes it.
        """
        process = self._take()
        try:
            await process.ready()
        except asyncio.CancelledError:
            self._idle.append(process)  # it goes on starting
            raise
        except BaseException:
            self._end(process)
            raise
        try:
            async with asyncio.timeout(self._limits.max_seconds):
                decoded = await process.decode(data)
        except TimeoutError as error:
            self._replace(process, "time")
            problem = f"takes more than {self._limits.max_seconds:g} s to decode"
            raise _rejected(problem) from error
        except (EOFError, ConnectionError) as error:
            status = await self._replace(process, "died")
            raise _rejected(f"ended the process that decoded it: {_named(status)}") from error
        except BaseException as error:
            self._replace(process, "cancelled" if isinstance(error, asyncio.CancelledError) else "fault")
            raise
        self._idle.append(process)
        if isinstance(decoded, InputError):
            raise decoded
        return decoded

    def _take(self) -> "_Process":
        while self._idle:
            process = self._idle.popleft()
            if process.is_running:
                return process
            self._ended("died")
            self._end(process)
        return _Process(self._limits)

    def _replace(self, process: "_Process", reason: str) -> "asyncio.Task[int]":
        self._ended(reason)
        ending = self._end(process)
        if not self._is_closed:
            try:
                self._idle.append(_Process(self._limits))
            except OSError:  # the next image tries again, and says so
                _log.exception("no process to decode images can be started")
        return ending

    def _end(self, process: "_Process") -> "asyncio.Task[int]":
        process.kill()
        ending = asyncio.create_task(process.status())
        self._ending.add(ending)
        ending.add_done_callback(self._ending.discard)
        return ending


class _Process:
    """One `image_process`, and the edge's end of its socket."""

    def __init__(self, limits: ImageLimits) -> None:
        """Raises OSError where no process can be started."""
        self._limits = limits
        self._socket, theirs = socket.socketpair()
        self._socket.setblocking(False)
        # A session of its own: Ctrl-C in a terminal is for the edge. Of all sockets, it inherits the one.
        command = [sys.executable, "-W", "ignore", "-m", image_process.__name__, limits.to_json()]
        with theirs:
            self._process = subprocess.Popen(
                command,
                stdin=theirs.fileno(),
                stdout=subprocess.DEVNULL,
                env=os.environ | {"OPENBLAS_NUM_THREADS": "1"},  # numpy would start a thread for each core
                start_new_session=True,
            )
        self._is_ready = False

    @property
    def is_running(self) -> bool:
        return self._process.poll() is None

    async def ready(self) -> None:
        """Waits until it has started. Who is cancelled leaves it as it is.

        Raises:
            RuntimeError: it ended instead.
        """
        if self._is_ready:
            return
        loop, readable = asyncio.get_running_loop(), asyncio.Event()
        loop.add_reader(self._socket, readable.set)
        try:
            await readable.wait()
        finally:
            loop.remove_reader(self._socket)
        if self._socket.recv(len(image_process.READY)) != image_process.READY:
            raise RuntimeError("a process to decode images ended while it started; what it said stands before this")
        self._is_ready = True

    async def decode(self, data: bytes) -> Pixels | InputError:
        """Sends a file; what comes back is checked before room is made for it.

        Raises:
            EOFError: the process has ended; also ConnectionError.
            RuntimeError: it failed, or says what it should not.
        """
        loop = asyncio.get_running_loop()
        await loop.sock_sendall(self._socket, FILE_HEAD.pack(len(data)))
        await loop.sock_sendall(self._socket, data)
        (num_bytes,) = REPLY_HEAD.unpack(await self._read(REPLY_HEAD.size))
        if num_bytes > _MAX_TOLD_BYTES:
            raise RuntimeError(f"a process that decodes images says {num_bytes} bytes of one")
        match json.loads(await self._read(num_bytes)):
            case {"width": int(width), "height": int(height)} if self._are_fair(width, height):
                return Pixels(width=width, height=height, rgb=await self._read(3 * width * height))
            case {"error": {"field": str(field), "problem": str(problem), "remedy": str(remedy)}}:
                return InputError(field=field, problem=problem, remedy=remedy)
            case told:
                raise RuntimeError(f"a process that decodes images failed: {_trace(told)}")

    def _are_fair(self, width: int, height: int) -> bool:
        return width > 0 and height > 0 and width * height <= self._limits.max_pixels

    def kill(self) -> None:
        """Where it has ended already, its status stays what it was."""
        self._process.kill()
        self._socket.close()

    async def status(self) -> int:
        """Waits for its end: the exit status, or below zero the signal."""
        return await asyncio.to_thread(self._process.wait)

    async def _read(self, num_bytes: int) -> bytearray:
        read, view, loop = 0, memoryview(bytearray(num_bytes)), asyncio.get_running_loop()
        while read < num_bytes:
            received = await loop.sock_recv_into(self._socket, view[read:])
            if not received:
                raise EOFError
            read += received
        return view.obj  # type: ignore[return-value]


def _trace(told: Any) -> str:
    return str(told.get("fault", told) if isinstance(told, dict) else told)


def _rejected(problem: str) -> InputError:
    return InputError(field="image", problem=problem, remedy="Save it again, as an ordinary file")


def _named(status: int) -> str:
    return signal.Signals(-status).name if status < 0 else f"exit status {status}"
