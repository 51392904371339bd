"""The edge's side: a table with a row of features for each byte of a text."""

from collections.abc import AsyncIterator
from pathlib import Path
from typing import ClassVar, Protocol, runtime_checkable

import torch
from google.protobuf.wrappers_pb2 import BoolValue, StringValue
from safetensors.torch import load_file
from torch import Tensor

from dtufc.errors import InputError
from dtufc.models.profile import Profile
from dtufc_edge.tasks import Call, Method


@runtime_checkable
class ByteFeatures(Protocol):
    def rows(self, text: str) -> Tensor: ...


class RowsBackbone:
    num_layers = 1

    def __init__(self, folder: Path, profile: Profile, device: torch.device, dtype: torch.dtype) -> None:
        self._table = load_file(folder / "model.safetensors")["table"].to(device, dtype)  # [256, d]

    def rows(self, text: str) -> Tensor:
        return self._table[list(text.encode())].cpu()  # [bytes, d]


class Spell:
    """A text, spelled by the cloud in capitals."""

    name: ClassVar = "spell"
    method: ClassVar = Method(service="rows.v1.Spelling", name="Spell", request=StringValue, reply=StringValue)
    needs: ClassVar = ByteFeatures

    async def run(self, call: Call, request: StringValue) -> AsyncIterator[StringValue]:
        if not request.value:
            raise InputError(field="value", problem="it is empty", remedy="Write something")
        features = await call.in_backbone(call.backbone.rows, request.value)
        yield await call.send(features, BoolValue(value=True), StringValue)
