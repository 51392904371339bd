"""The cloud's side: the byte whose row each row of features is."""

from pathlib import Path
from typing import ClassVar, Protocol, runtime_checkable

import torch
from google.protobuf.wrappers_pb2 import BoolValue, StringValue
from safetensors.torch import load_file
from torch import Tensor

from dtufc.errors import InputError
from dtufc.models.profile import Profile
from dtufc.serving.telemetry import Record
from dtufc_cloud.settings import CloudSettings


@runtime_checkable
class Spelling(Protocol):
    def text(self, features: Tensor) -> str: ...


class RowsHead:
    num_layers = 1

    def __init__(self, folder: Path, profile: Profile, device: torch.device, dtype: torch.dtype) -> None:
        self._table = load_file(folder / "model.safetensors")["table"].to(device, torch.float32)  # [256, d]

    def check(self, shape: tuple[int, ...]) -> None:
        if len(shape) != 2 or shape[1] != self._table.shape[1]:
            remedy = f"Send [bytes, {self._table.shape[1]}]"
            raise InputError(field="frame", problem=f"features of shape {shape}", remedy=remedy)

    def text(self, features: Tensor) -> str:
        nearest = torch.cdist(features.float(), self._table).argmin(dim=1)
        return bytes(nearest.tolist()).decode(errors="replace")


class Spell:
    name: ClassVar = "spell"
    request: ClassVar = BoolValue
    needs: ClassVar = Spelling

    def check(self, request: BoolValue, settings: CloudSettings) -> None: ...

    def run(self, head: Spelling, features: Tensor, request: BoolValue, record: Record) -> StringValue:
        with record.stages.measure("cloud.head"):
            text = head.text(features)
        return StringValue(value=text.upper() if request.value else text)
