"""Where models run, as the settings name it."""

import torch

from dtufc.errors import InputError


def pick_device(name: str) -> torch.device:
    """`auto` takes CUDA where there is one. Raises InputError for a device that is not there."""
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise InputError(field="device", problem=name, remedy="Use auto, cpu, cuda or cuda:N") from error
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise InputError(field="device", problem=f"{name} is not there", remedy="Use auto or cpu")
    return device


def pick_dtype(name: str) -> torch.dtype:
    """float32, float16 or bfloat16."""
    return {"float32": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16}[name]
