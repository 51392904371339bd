"""`python -m deploy.dashboards.load`: work for an edge, so that the dashboards have something to show.

Every task, some codecs and qualities, now and then an input that is rejected; for a number of minutes.
"""

import itertools
import time
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Annotated

import typer

from dtufc.client import DEFAULT_ADDRESS, EdgeClient
from dtufc.coding.rate import Rate
from dtufc.errors import DtufcError

SAMPLES = sorted((Path(__file__).parents[2] / "samples").glob("*.jpg"))
QUESTIONS = [
    ("Which is a fruit?", ["stone", "apple", "chair"]),
    ("Water is made of hydrogen and which other element?", ["gold", "oxygen", "helium", "iron"]),
    ("", ["yes", "no"]),  # rejected
]
_PAUSE_S = 0.2

Step = Callable[[EdgeClient], object]


def steps() -> list[Step]:
    """One round of requests."""
    found: list[Step] = []
    for question, choices in QUESTIONS:
        for codec, rate in (("klt", Rate()), ("klt", Rate(quality=0.8)), ("levels", Rate()), ("raw", Rate())):
            found.append(partial(EdgeClient.answer, question=question, choices=choices, codec=codec, rate=rate))
    for image in SAMPLES:
        for rate in (Rate(), Rate(quality=0.8), Rate(max_bytes=2000)):
            found.append(partial(EdgeClient.segment, image=image, rate=rate))
        for codec in ("klt", "kltprior"):
            found.append(partial(EdgeClient.classify, image=image, codec=codec))
    for prompt in ("red apple", "rocket"):
        found.append(partial(_draw, prompt=prompt))
    found.append(lambda c: list(c.complete("What is the capital of France?", max_tokens=6)))
    found.append(lambda c: list(c.complete("1, 2, 1, 2, 1, 2, 1, 2,", max_tokens=12, plain=True, drafts="on")))
    return found


def _draw(client: EdgeClient, prompt: str) -> None:
    for _ in client.generate_image(prompt, steps=12):
        pass


def main(
    edge: Annotated[str, typer.Option(help="Address of the edge.")] = DEFAULT_ADDRESS,
    minutes: Annotated[float, typer.Option(help="How long.")] = 10.0,
    clients: Annotated[int, typer.Option(help="How many ask at a time.", min=1, max=16)] = 2,
) -> None:
    """Keeps an edge at work."""
    end = time.monotonic() + 60 * minutes

    def work(first: int) -> Counter[str]:
        ended: Counter[str] = Counter()
        round_of = steps()
        with EdgeClient(edge, timeout_s=20) as client:
            for step in itertools.islice(itertools.cycle(round_of), first * len(round_of) // clients, None):
                if time.monotonic() > end:
                    return ended
                try:
                    step(client)
                    ended["OK"] += 1
                except DtufcError as error:
                    ended[error.code] += 1
                time.sleep(_PAUSE_S)
        raise AssertionError("the cycle ended")

    with ThreadPoolExecutor(clients) as pool:
        total = sum(pool.map(work, range(clients)), Counter())
    print(", ".join(f"{code} {count}" for code, count in total.most_common()))


if __name__ == "__main__":
    typer.run(main)
