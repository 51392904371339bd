"""One request of each task that the services offer. A task without one fails the test that walks through them."""

from collections.abc import Callable

from dtufc.client import EdgeClient
from dtufc.v1 import inference_pb2
from tests.e2e.services import SAMPLES

EXAMPLES: dict[str, Callable[[EdgeClient], inference_pb2.Cost]] = {
    "answer": lambda client: client.answer("Which is a fruit?", ["stone", "apple"]).cost,
    "complete": lambda client: (
        list(client.complete("1, 2, 1, 2, 1, 2, 1, 2,", max_tokens=6, plain=True, drafts="on"))[-1].cost
    ),
    "segment": lambda client: client.segment(SAMPLES / "chelsea.jpg").cost,
    "classify": lambda client: client.classify(SAMPLES / "chelsea.jpg").cost,
    "generate-image": lambda client: list(client.generate_image("red apple", steps=4))[-1].cost,
}
