"""Both halves of a profile in one process."""

from typing import Any

from google.protobuf.message import Message
from torch import Tensor

from dtufc.models import plugins
from dtufc.serving.telemetry import Record
from dtufc_cloud.pipeline import CloudPipeline


def decoded(cloud: CloudPipeline, frame: bytes) -> Tensor:
    """What the head gets of a frame."""
    record = Record("test")
    return cloud.decode(cloud.parse(frame, record), len(frame), record)


def result(cloud: CloudPipeline, frame: bytes, task: str, request: Message) -> Any:
    """What a task of the cloud makes of a frame."""
    run = plugins.load(plugins.CLOUD_TASKS, task)().run
    return run(cloud.head, decoded(cloud, frame), request, Record(task))
