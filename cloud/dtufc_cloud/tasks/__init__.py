"""Tasks: what the cloud makes of features, one module a task; each a mirror of the edge's of the same name.

A task is a class without arguments that an entry of the group `dtufc.cloud_tasks` names. The service wraps every one
alike: admission, deadline, telemetry, decoding and errors are not its business.
"""

import io
from typing import Any, ClassVar, Protocol

from google.protobuf.message import Message
from PIL import Image
from torch import Tensor

from dtufc.coding.arrays import Array
from dtufc.serving.telemetry import Record
from dtufc_cloud.settings import CloudSettings


class Task(Protocol):
    """What the cloud makes of features.

    Attributes:
        name: as profiles list it under `tasks`, and metrics label it.
        request: the message in a RunRequest that asks for it.
        needs: the protocol of `dtufc.models.capabilities` that a profile's head must have.
    """

    name: ClassVar[str]
    request: ClassVar[type[Message]]
    needs: ClassVar[type]

    def check(self, request: Any, settings: CloudSettings) -> None:
        """Raises InputError for what cannot be served, before anything is decoded."""

    def run(self, head: Any, features: Tensor, request: Any, record: Record) -> Message:
        """The result. Runs in a thread of the worker.

        Args:
            head: what the task `needs`.
            features: of one input, of a shape that the head takes.
            request: as `check` let it pass.
            record: for the time of `cloud.head`, and of other stages.
        """


def as_png(pixels: Array, record: Record) -> bytes:
    """uint8[H, W] or [H, W, 3] as PNG."""
    with record.stages.measure("cloud.png"):
        file = io.BytesIO()
        Image.fromarray(pixels).save(file, "PNG")
        return file.getvalue()
