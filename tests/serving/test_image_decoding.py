"""Images are decoded by processes: what they say is what `open_image` says, and nothing that one does holds anybody up.

A process that stands still (SIGSTOP) is here a decoder that never ends; real ones need seconds of a core.
"""

import asyncio
import io
import os
import signal
import time
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from dtufc.errors import InputError
from dtufc.models.images import open_image
from dtufc_edge.image_decoding import ImageDecoders
from dtufc_edge.image_process import ImageLimits
from tests.e2e.services import SAMPLES
from tests.serving.local_pair import eventually
from tests.serving.scans import many_scans

MIB = 1 << 20
PIXELS = 40_000_000
LONG_S = 600.0


def limits(**changes: Any) -> ImageLimits:
    return ImageLimits(
        **{"max_bytes": 16 * MIB, "max_pixels": PIXELS, "max_seconds": LONG_S, "max_memory_bytes": 2048 * MIB} | changes
    )


@asynccontextmanager
async def decoders(count: int = 1, **changes: Any) -> AsyncIterator[tuple[ImageDecoders, list[str]]]:
    """Some processes, and why those ended that ended."""
    ended: list[str] = []
    started = ImageDecoders(limits(**changes), count, ended.append)
    try:
        await started.start()
        yield started, ended
    finally:
        await started.close()
        assert not children()


def children() -> list[int]:
    """Processes of this one that decode images, the ended ones that nobody waited for included."""
    found = []
    for task in Path("/proc/self/task").iterdir():
        pids = (task / "children").read_text().split()
        found += [int(pid) for pid in pids if is_decoder(int(pid))]
    return found


def is_decoder(pid: int) -> bool:
    words = Path(f"/proc/{pid}/cmdline").read_bytes()
    return not words or b"dtufc_edge.image_process" in words  # empty: it has ended


def encoded(image: Image.Image, kind: str, **options: Any) -> bytes:
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def photo(kind: str = "JPEG") -> bytes:
    with Image.open(SAMPLES / "chelsea.jpg") as image:
        return encoded(image, kind)


def run(test: Callable[[], Coroutine[Any, Any, None]]) -> None:
    asyncio.run(test())


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP"])
def test_pixels_are_those_of_this_process(kind: str) -> None:
    async def test() -> None:
        async with decoders() as (images, ended):
            for _ in range(2):
                there, here = (await images.decode(photo(kind))).to_image(), open_image(photo(kind), 16 * MIB, PIXELS)
                assert (there.mode, there.size, there.tobytes()) == (here.mode, here.size, here.tobytes())
            assert not ended

    run(test)


@pytest.mark.parametrize("data", [b"", b"no image", photo()[:5000], bytes(16 * MIB + 1), photo("PNG")[:5000]])
def test_what_is_wrong_with_an_image_is_said_in_the_same_words(data: bytes) -> None:
    async def test() -> None:
        with pytest.raises(InputError) as here:
            open_image(data, 16 * MIB, PIXELS)
        async with decoders() as (images, ended):
            with pytest.raises(InputError) as there:
                await images.decode(data)
            assert there.value.context == here.value.context
            assert (await images.decode(photo())).width == 451
            assert not ended

    run(test)


def test_hundreds_of_scans_end_at_the_limit_and_the_next_image_is_decoded() -> None:
    async def test() -> None:
        async with decoders(max_seconds=1.0) as (images, ended):
            data = many_scans(2000, 13_000)
            assert len(data) < 200_000
            (before,), start = children(), time.monotonic()
            with pytest.raises(InputError) as caught:
                await images.decode(data)
            assert time.monotonic() - start < 3
            assert caught.value.context["field"] == "image"
            assert (await images.decode(photo())).width == 451
            assert (before in children()) == (not ended)  # many scans may be rejected before they are decoded

    run(test)


def test_the_time_of_an_image_ends_the_process() -> None:
    async def test() -> None:
        async with decoders(max_seconds=0.5) as (images, ended):
            task, pid = await held(images, photo())
            with pytest.raises(InputError, match=r"more than 0\.5 s"):
                await task
            assert ended == ["time"]
            await eventually(lambda: pid not in children())

    run(test)


def test_more_memory_than_the_limit_is_an_input_error() -> None:
    async def test() -> None:
        large = encoded(Image.new("RGB", (6000, 6000)), "PNG", compress_level=1)
        async with decoders(max_memory_bytes=96 * MIB) as (images, ended):
            with pytest.raises(InputError, match="96 MiB"):
                await images.decode(large)
            assert (await images.decode(photo())).width == 451
            assert not ended

    run(test)


async def held(images: ImageDecoders, data: bytes) -> "tuple[asyncio.Task[Any], int]":
    """A task that waits for a process that stands still, and the process."""
    (pid,) = children()
    os.kill(pid, signal.SIGSTOP)
    task = asyncio.create_task(images.decode(data))
    await asyncio.sleep(0)
    return task, pid


def test_a_deadline_ends_the_process() -> None:
    async def test() -> None:
        async with decoders() as (images, ended):
            task, pid = await held(images, photo())
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(0.5):
                    await task
            await eventually(lambda: pid not in children())
            assert ended == ["cancelled"]
            assert (await images.decode(photo())).width == 451

    run(test)


def test_a_call_that_is_cancelled_ends_the_process_while_it_still_takes_the_file() -> None:
    async def test() -> None:
        async with decoders() as (images, ended):
            task, pid = await held(images, bytes(16 * MIB))
            await asyncio.sleep(0.05)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            await eventually(lambda: pid not in children())
            assert ended == ["cancelled"]
            assert (await images.decode(photo())).width == 451

    run(test)


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGSEGV])
def test_a_process_that_dies_with_an_image_is_an_input_error(number: signal.Signals) -> None:
    async def test() -> None:
        async with decoders() as (images, ended):
            task, pid = await held(images, photo())
            os.kill(pid, number)
            os.kill(pid, signal.SIGCONT)
            with pytest.raises(InputError, match=number.name):
                await task
            assert ended == ["died"]
            assert (await images.decode(photo())).width == 451

    run(test)


def test_a_process_that_dies_between_images_is_nobodys_error() -> None:
    async def test() -> None:
        async with decoders() as (images, ended):
            (pid,) = children()
            os.kill(pid, signal.SIGKILL)
            os.waitid(os.P_PID, pid, os.WEXITED | os.WNOWAIT)
            assert (await images.decode(photo())).width == 451
            assert ended == ["died"]

    run(test)


def test_signals_for_the_edge_do_not_reach_a_process() -> None:
    """Ctrl-C goes to the group of a terminal, and a supervisor's SIGTERM may go to all: the edge drains first."""

    async def test() -> None:
        async with decoders() as (images, ended):
            (pid,) = children()
            assert os.getpgid(pid) != os.getpgrp()
            for number in (signal.SIGINT, signal.SIGTERM):
                os.kill(pid, number)
            assert (await images.decode(photo())).width == 451
            assert children() == [pid]
            assert not ended

    run(test)


def test_a_process_has_no_file_of_the_edge_but_its_own_socket() -> None:
    async def test() -> None:
        async with decoders(count=2):
            for pid in children():
                opened = {file.name: str(file.readlink()) for file in Path(f"/proc/{pid}/fd").iterdir()}
                sockets = {name for name, target in opened.items() if target.startswith("socket:")}
                assert sockets == {"0"}
                assert opened["1"] == "/dev/null"

    run(test)


def test_processes_that_do_not_start_are_a_fault_of_the_service_and_say_why(capfd: pytest.CaptureFixture[str]) -> None:
    async def test() -> None:
        images = ImageDecoders(limits(max_memory_bytes=1 << 70), 1, lambda reason: None)
        try:
            for _ in range(2):
                with pytest.raises(RuntimeError, match="ended while it started"):
                    await images.decode(photo())
        finally:
            await images.close()

    run(test)
    assert "OverflowError" in capfd.readouterr().err


def test_images_wait_in_turn_and_who_leaves_takes_no_place_along() -> None:
    async def test() -> None:
        async with decoders() as (images, _):

            async def ask() -> int:
                async with images.turn:
                    return (await images.decode(photo())).width

            (pid,) = children()
            os.kill(pid, signal.SIGSTOP)
            first, second, third = (asyncio.create_task(ask()) for _ in range(3))
            await asyncio.sleep(0.05)
            second.cancel()
            await asyncio.wait([second])
            assert not first.done()
            assert not third.done()
            os.kill(pid, signal.SIGCONT)
            assert await first == await third == 451
            assert not images.turn.locked()

    run(test)
