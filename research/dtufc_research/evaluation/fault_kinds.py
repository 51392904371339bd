"""Faults of processes and of the network between them: each hits calls under way, and new ones.

A fault is a function of the bench; its docstring is its title, and it returns what the clients saw.
"""

import signal
import threading
import time
from collections.abc import Callable, Collection
from typing import Final

from dtufc_research.evaluation.fault_bench import BROKEN, LATE, Bench, back, under_way, until, watched
from dtufc_research.evaluation.fault_calls import OK, Seen

_LONG_S: Final = 90.0  # deadline of a stream that shall go on
_GONE_S: Final = 20.0  # how long a cloud is away that comes back
_SHORT_S: Final = 12.0  # deadline of a stream whose cloud does not come back


def _struck(
    bench: Bench,
    strike: Callable[[], object],
    *,
    stream_s: float,
    stream_may: Collection[str] = (),
    unary_may: Collection[str] = LATE,
    heal_after_s: float | None = None,
    heal: Callable[[], object] = lambda: None,
) -> list[Seen]:
    """Calls under way and new ones while the cloud, or the way to it, has a fault; the edge's health; later calls."""
    client, rows = bench.client, list[Seen]()
    stream, unary = under_way(client, bench.edge, bench.unary_s, stream_s)
    strike()
    with watched(bench.edge, "edge", rows):
        new = [client.ask(kind, bench.unary_s, "new") for kind in bench.kinds if kind != "complete"]
        if heal_after_s is not None:
            time.sleep(heal_after_s)
            heal()
        rows += [stream.seen(stream_may), *(each.seen(unary_may) for each in (unary, *new))]
    if heal_after_s is None:
        heal()
    return rows + back(client, bench.kinds)


def cloud_killed(bench: Bench) -> list[Seen]:
    """cloud killed, and started again once its callers had been told"""

    def heal() -> None:
        bench.cloud.start()
        bench.cloud.wait()

    return _struck(bench, bench.cloud.kill, stream_s=_SHORT_S, stream_may=LATE, heal=heal)


def cloud_restarted(bench: Bench) -> list[Seen]:
    """cloud killed and started again at once"""

    def strike() -> None:
        bench.cloud.kill()
        bench.cloud.start()

    return _struck(bench, strike, stream_s=_LONG_S, heal=bench.cloud.wait)


def cloud_stopped(bench: Bench) -> list[Seen]:
    """cloud stands still (SIGSTOP) for 20 s"""
    return _struck(
        bench,
        lambda: bench.cloud.signal(signal.SIGSTOP),
        stream_s=_LONG_S,
        heal_after_s=_GONE_S,
        heal=lambda: bench.cloud.signal(signal.SIGCONT),
    )


def partitioned(bench: Bench) -> list[Seen]:
    """all packets between edge and cloud lost for 20 s"""
    return _struck(
        bench,
        lambda: bench.line.lose(1),
        stream_s=_LONG_S,
        heal_after_s=_GONE_S,
        heal=lambda: bench.line.lose(0),
    )


def partitioned_for_good(bench: Bench) -> list[Seen]:
    """all packets between edge and cloud lost until the calls have ended"""
    return _struck(
        bench, lambda: bench.line.lose(1), stream_s=_SHORT_S, stream_may=LATE, heal=lambda: bench.line.lose(0)
    )


def cloud_slow(bench: Bench) -> list[Seen]:
    """cloud stands still for four fifths of the time"""
    over = threading.Event()

    def hinder() -> None:
        while not over.is_set():
            bench.cloud.signal(signal.SIGSTOP)
            over.wait(0.4)
            bench.cloud.signal(signal.SIGCONT)
            over.wait(0.1)

    def go_on() -> None:
        over.set()
        thread.join()

    thread = threading.Thread(target=hinder)
    return _slowly(bench, thread.start, go_on)


def line_narrow(bench: Bench) -> list[Seen]:
    """200 kbit/s between edge and cloud"""
    return _slowly(bench, lambda: bench.line.narrow(200), lambda: bench.line.narrow(None))


def losing(share: float) -> Callable[[Bench], list[Seen]]:
    """The fault of a line that loses this share of the packets."""

    def loss(bench: Bench) -> list[Seen]:
        return _slowly(bench, lambda: bench.line.lose(share), lambda: bench.line.lose(0))

    loss.__doc__ = f"{share:.0%} of the packets between edge and cloud lost, each way"
    return loss


def _slowly(bench: Bench, strike: Callable[[], object], heal: Callable[[], object]) -> list[Seen]:
    """All calls are answered as undisturbed, if late."""
    client, rows = bench.client, list[Seen]()
    strike()
    try:
        with watched(bench.edge, "edge", rows):
            asked = [client.ask(kind, _LONG_S, "new") for kind in bench.kinds]
            rows += [each.seen() for each in asked]
    finally:
        heal()
    return rows


def edge_killed(bench: Bench) -> list[Seen]:
    """edge killed, and started again"""
    client, rows = bench.client, list[Seen]()
    asked = under_way(client, bench.edge, bench.unary_s, _SHORT_S)
    bench.edge.kill()
    with watched(bench.cloud, "cloud", rows):
        asked.append(client.ask("answer", bench.unary_s, "new"))
        rows += [each.seen(BROKEN) for each in asked]
        seconds = until(lambda: not bench.cloud.metric("sequences"))
        rows.append(Seen(call="the cloud has freed the session", outcome=OK, seconds=seconds, deadline_s=5))
    bench.edge.start()
    bench.edge.wait()
    return rows + back(client, bench.kinds)
