"""Run by test_learned_determinism.py, one process for each variant: `encode FOLDER NAME` and `decode FOLDER NAME`.

`encode` writes frames of ours and strings of CompressAI's into FOLDER/NAME; `decode` reads those of every variant and
writes what they decode to. What several variants encoded alike is decoded once.
"""

import hashlib
import json
import pickle
import sys
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch

import dtufc
from dtufc.coding.arrays import Array
from dtufc.coding.codecs.learned import shipped_network
from dtufc.coding.codecs.learned.network_file import load_network
from dtufc.coding.feature_codec import FeatureCodec
from dtufc.errors import BitstreamError
from dtufc_research.evaluation.reference import reference_model
from dtufc_research.training.networks import load_trainable

NETWORKS: Final = ("hyperprior", "elic", "kltprior")
SHAPE: Final = (64, 192)
SETTING: Final = 0.6
WEIGHTS: Final = "reference-{}.pt"


def features(seed: int) -> Array:
    """Peaky values with a mean and a scale of their own in each channel, and neighbours that are alike; the same
    bits under every variant."""
    rng = np.random.default_rng([2, seed])
    walk = np.cumsum(rng.standard_t(4, size=SHAPE), axis=0)
    scale = np.geomspace(0.1, 2, SHAPE[1])
    return (walk * scale * 0.2 + np.sin(7 * scale)).astype(np.float32)


def batches(count: int, size: int) -> Iterator[range]:
    """Seeds 0 to count, so many at a time."""
    yield from (range(start, min(start + size, count)) for start in range(0, count, size))


def encode(folder: Path, name: str, settings: dict[str, Any]) -> None:
    codec = dtufc.load(folder / "profile")
    for network in NETWORKS:
        reference = reference_of(folder, network)
        for seeds in batches(settings["count"], settings["batch"]):
            stack = np.stack([features(seed) for seed in seeds])
            frame = codec.encoder(stack if len(seeds) > 1 else stack[0], codec=network)(SETTING)
            (folder / name / f"{network}.{seeds.start}.frame").write_bytes(frame)
            coded = reference.compress(reference_planes(codec, network, stack))
            for at, seed in enumerate(seeds):
                strings = [[part[at]] for part in coded["strings"]]
                (folder / name / f"{network}.{seed}.strings").write_bytes(pickle.dumps((strings, coded["shape"])))


def reference_of(folder: Path, network: str) -> Any:
    """CompressAI's model, with the tables that were made once for all variants, where they have been."""
    trained = load_network(shipped_network(network))
    reference = reference_model(load_trainable(shipped_network(network)), SETTING * (trained.num_rates - 1))
    weights = folder / WEIGHTS.format(network)
    if weights.exists():
        reference.load_state_dict(torch.load(weights))
    return reference


def reference_planes(codec: FeatureCodec, network: str, stack: Array) -> torch.Tensor:
    """[B, 1, H, W] of levels / 255, by the plane transform of our codec."""
    learned: Any = codec._codec(network)
    planes = [learned.plane_transform.to_plane(one)[0] for one in stack]
    return torch.from_numpy(np.stack(planes))[:, None] / 255


def decode(folder: Path, name: str, settings: dict[str, Any]) -> None:
    codec = dtufc.load(folder / "profile")
    ours = {digest: restored(codec, data) for digest, data in distinct(folder, "*.frame").items()}
    np.savez(folder / name / "ours.npz", **ours)
    for network in NETWORKS:  # last: CompressAI may crash on a stream that it misreads
        reference = reference_of(folder, network)
        theirs = {}
        for digest, data in distinct(folder, f"{network}.*.strings").items():
            strings, shape = pickle.loads(data)
            theirs[digest] = reference.decompress(strings, shape)["x_hat"][0, 0].numpy().astype(np.float16)
        np.savez(folder / name / f"theirs-{network}.npz", **theirs)


def restored(codec: FeatureCodec, frame: bytes) -> Array:
    """The features, float32; an empty array where the frame was rejected."""
    try:
        return codec.decode(frame)
    except BitstreamError:
        return np.empty(0, np.float32)


def distinct(folder: Path, pattern: str) -> dict[str, bytes]:
    """SHA-256 -> contents of all files of that pattern of all variants."""
    contents = (path.read_bytes() for path in sorted(folder.glob(f"*/{pattern}")))
    return {hashlib.sha256(data).hexdigest(): data for data in contents}


def main() -> None:
    mode, folder, name = sys.argv[1], Path(sys.argv[2]), sys.argv[3]
    settings = json.loads((folder / name / "settings.json").read_text())
    with ExitStack() as stack, torch.inference_mode():
        if settings["without_mkldnn"]:
            stack.enter_context(torch.backends.mkldnn.flags(enabled=False))
        torch.set_float32_matmul_precision(settings["matmul_precision"])
        {"encode": encode, "decode": decode}[mode](folder, name, settings)


if __name__ == "__main__":
    main()
