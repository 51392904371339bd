"""`python -m dtufc_research.training.train NAME`: trains the network of `networks/NAME.yaml`, or resumes.

    features on disk --plane transform--> planes --crops--> network --> bits + lambda * squared error (eq. 7)

The seed and the epoch determine every crop, rate and noise, so that a run that was interrupted and resumed at its last
epoch ends with the same weights, up to the last bits of floating-point arithmetic. The same command runs on two cores
and on several GPUs: Lightning detects the devices.
"""

import argparse
import shutil
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final, Literal

import lightning
import numpy as np
import torch
from lightning.pytorch.callbacks import EarlyStopping, ModelCheckpoint
from lightning.pytorch.loggers import TensorBoardLogger
from lightning.pytorch.utilities import rank_zero_only
from pytorch_optimizer import Muon
from safetensors import safe_open
from torch import Tensor, nn
from torch.optim.lr_scheduler import OneCycleLR, ReduceLROnPlateau
from torch.utils.data import DataLoader, Dataset

from dtufc.coding.arrays import Array
from dtufc.coding.bitstream import CodecId
from dtufc.coding.codecs.learned import shipped_network
from dtufc.coding.codecs.learned.codec import LearnedCodec
from dtufc.coding.codecs.learned.latents import Counter
from dtufc.coding.codecs.learned.network_file import TrainedNetwork, load_network
from dtufc.coding.codecs.learned.networks import STRIDE
from dtufc.coding.codecs.learned.plane import MIDDLE, NETWORK_SCALE, PlaneTransform
from dtufc.models.profile import load_profile
from dtufc.models.zoo import cache_folder
from dtufc_research.training.configurations import Crops, Schedule, Tables, TrainSpec, configurations
from dtufc_research.training.features import TASKS, Part, Task, stored
from dtufc_research.training.network_file import save_network
from dtufc_research.training.networks import KINDS, Hyperprior, load_trainable
from dtufc_research.training.plane_transforms import evenly, fit_plane_transform

SHIPPED: Final = {"hyperprior-hybrid": "hyperprior", "elic-hybrid": "elic", "klt-hybrid": "kltprior"}
_SMALL: Final = 4  # times a plane fits into a crop: several smaller planes form a step
_ADAM_TIMES: Final = 0.5  # Adam's learning rate relative to Muon's
_VALIDATION_CROPS: Final = 64
_NUM_COUNTED: Final = 12  # features of each task
_COUNTED_QUALITIES: Final = (0.0, 0.25, 0.5, 0.75, 1.0)


def run_folder(name: str) -> Path:
    """Folder of a run's checkpoints and curves."""
    return cache_folder() / "runs" / Path(name).stem


class CropDataset(Dataset[tuple[Tensor, Tensor]]):
    """Crops of planes at network scale, and a rate for each; item i of an epoch is always the same."""

    def __init__(
        self,
        planes: dict[Task, list[Array]],
        spec: TrainSpec,
        crops: Crops,
        *,
        epoch: int,
        count: int,
        shuffle: float = 0.0,
    ) -> None:
        self._planes, self._spec, self._crops = planes, spec, crops
        self._epoch, self._count, self._shuffle = epoch, count, shuffle

    def __len__(self) -> int:
        return self._count

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        """([n, 1, H, W], [n]): one crop and its rate, or several of planes that are much smaller than a crop."""
        rng = np.random.default_rng([self._spec.seed, self._epoch, index])
        planes = self._planes[self._spec.tasks[index % len(self._spec.tasks)]]
        count = max(1, self._crops.side**2 // (_SMALL * planes[0].size)) if self._crops.batch == 1 else 1
        crops = np.stack([self._crop(rng, planes) for _ in range(count)])
        rates = rng.uniform(0, len(self._spec.lambdas) - 1, count).astype(np.float32)
        return torch.from_numpy((crops - MIDDLE) / NETWORK_SCALE)[:, None], torch.from_numpy(rates)

    def _crop(self, rng: np.random.Generator, planes: list[Array]) -> Array:
        """[H, W] float32, of one of the planes, or of several side by side if they are smaller than a batch's crops."""
        down, across = (-(-self._crops.side // extent) if self._crops.batch > 1 else 1 for extent in planes[0].shape)
        plane = np.block([[planes[rng.integers(len(planes))] for _ in range(across)] for _ in range(down)])
        at_top = self._spec.from_top > 0 and rng.random() < self._spec.from_top
        lines = [self._lines(rng, extent, at_top=at_top) for extent in plane.shape]
        return plane[np.ix_(*lines)].astype(np.float32)

    def _lines(self, rng: np.random.Generator, extent: int, *, at_top: bool) -> Array:
        """Indices of the rows or columns of a crop; the last one is repeated if there are too few."""
        size = self._crops.side
        if self._crops.batch == 1:
            size = min(size, extent + -extent % STRIDE)
        lines = np.arange(size) + (0 if at_top else rng.integers(0, max(extent - size, 0) + 1))
        if rng.random() < self._shuffle:
            lines = rng.permutation(max(extent, size))[:size]
        return np.minimum(lines, extent - 1)


def _batch(items: list[tuple[Tensor, Tensor]]) -> tuple[Tensor, Tensor]:
    planes, rates = zip(*items, strict=True)
    return torch.cat(planes), torch.cat(rates)


class Training(lightning.LightningModule):
    """The loss, the optimizer and the data of one network."""

    def __init__(self, spec: TrainSpec, planes: dict[Part, dict[Task, list[Array]]]) -> None:
        super().__init__()
        torch.manual_seed(spec.seed)
        self.network = KINDS[spec.kind](spec.widths, spec.lambdas).to(memory_format=torch.channels_last)
        if isinstance(self.network, Hyperprior):
            self.network.uses_noise = spec.noise
        self.register_buffer("steps_before", torch.tensor(0))
        self._spec, self._planes = spec, planes

    def start_from(self, path: Path) -> None:
        """Loads the weights of a network file and its number of training steps."""
        with safe_open(path, "pt") as file:
            self.steps_before.fill_(int(file.metadata()["steps"]))  # type: ignore[operator]
        nn.Module.load_state_dict(self.network, load_trainable(path).state_dict())

    def loss(self, batch: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor, Tensor]:
        """(loss of eq. 7, BPFP, MSE in levels), means over the batch; each crop at its own lambda."""
        plane, rate = batch
        coded = self.network(plane.contiguous(memory_format=torch.channels_last), rate)
        bpfp = coded.bits / plane[0].numel()
        mse = NETWORK_SCALE**2 * ((coded.plane - plane) ** 2).mean(dim=(1, 2, 3))
        logs = torch.tensor(self._spec.lambdas, device=rate.device).log()
        low = rate.long().clamp(max=len(logs) - 2)
        lambdas = torch.lerp(logs[low], logs[low + 1], rate - low).exp()
        return (bpfp + lambdas * mse).mean(), bpfp.mean(), mse.mean()

    def on_train_batch_start(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> None:
        torch.manual_seed(
            hash((self._spec.seed, self.current_epoch, batch_idx))
        )  # seeds the noise; integers hash to themselves

    def training_step(self, batch: tuple[Tensor, Tensor], batch_index: int) -> Tensor:
        loss, bpfp, mse = self.loss(batch)
        self.log_dict({"train/loss": loss, "train/bpfp": bpfp, "train/mse": mse}, prog_bar=True)
        return loss

    def validation_step(self, batch: tuple[Tensor, Tensor], batch_index: int) -> None:
        loss, bpfp, mse = self.loss(batch)
        values = {"val/loss": loss, "val/bpfp": bpfp, "val/mse": mse}
        self.log_dict(values, prog_bar=True, batch_size=1, sync_dist=True)  # a step each

    def train_dataloader(self) -> DataLoader[Any]:
        crops = next(c for c in reversed(self._spec.crops) if c.from_epoch <= self.current_epoch)
        count = self._spec.steps_per_epoch * crops.batch * self.trainer.world_size
        planes, shuffle = self._planes["train"], self._spec.shuffle
        dataset = CropDataset(planes, self._spec, crops, epoch=self.current_epoch, count=count, shuffle=shuffle)
        return DataLoader(dataset, crops.batch, collate_fn=_batch)

    def val_dataloader(self) -> DataLoader[Any]:
        crops = self._spec.crops[-1]
        dataset = CropDataset(self._planes["validate"], self._spec, crops, epoch=-1 % 2**31, count=_VALIDATION_CROPS)
        return DataLoader(dataset, crops.batch, collate_fn=_batch)

    def configure_optimizers(self) -> Any:
        schedule = self._spec.schedule
        if schedule.kind == "plateau":
            adam = torch.optim.Adam(self.network.parameters(), schedule.learning_rate)
            plateau = ReduceLROnPlateau(adam, factor=0.5, patience=self._spec.patience, min_lr=schedule.floor)
            return {"optimizer": adam, "lr_scheduler": {"scheduler": plateau, "monitor": "val/loss"}}
        muon = self._muon(schedule.learning_rate)
        cycle = OneCycleLR(
            muon,
            [group["lr"] for group in muon.param_groups],
            schedule.epochs * self._spec.steps_per_epoch,
            pct_start=0.05,
            cycle_momentum=False,
            div_factor=10,
            final_div_factor=10,
        )
        return {"optimizer": muon, "lr_scheduler": {"scheduler": cycle, "interval": "step"}}

    def _muon(self, learning_rate: float) -> Muon:
        """Muon for the kernels of layers that have more than one channel on both sides, Adam for the rest.

        Source: Jordan et al., "Muon: An optimizer for hidden layers in neural networks", 2024.
        """
        layers = [m for m in self.network.modules() if isinstance(m, nn.Conv2d | nn.ConvTranspose2d)]
        kernels = [m.weight for m in layers if min(m.weight.shape[:2]) > 1]
        chosen = {id(kernel) for kernel in kernels}
        others = [p for p in self.network.parameters() if p.requires_grad and id(p) not in chosen]
        adam_rate = learning_rate * _ADAM_TIMES
        return Muon(
            [
                {"params": kernels, "use_muon": True, "lr": learning_rate},
                {"params": others, "use_muon": False, "lr": adam_rate, "betas": (0.9, 0.99)},
            ]
        )


class _StopAtFloor(lightning.Callback):
    """Ends the paper's schedule: `last_epochs` epochs after the learning rate has reached its floor."""

    def __init__(self, schedule: Schedule) -> None:
        self._schedule = schedule
        self._at_floor = 0

    def on_validation_end(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        if trainer.optimizers and trainer.optimizers[0].param_groups[0]["lr"] <= self._schedule.floor:
            self._at_floor += 1
        trainer.should_stop |= self._at_floor > self._schedule.last_epochs

    def state_dict(self) -> dict[str, Any]:
        return {"at_floor": self._at_floor}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self._at_floor = state_dict["at_floor"]


def train(
    name: str, *, epochs: int | None = None, start: Path | None = None, devices: int | Literal["auto"] = "auto"
) -> Path:
    """Trains one network, from its last checkpoint if there is one; returns the best checkpoint's path.

    Args:
        name: of the configuration.
        epochs: stop after this many.
        devices: number of GPUs, or of processes without a GPU, each with its own crops; by default all GPUs.
        start: a network file to fine-tune from, on whole planes at half the learning rate; by default the
            configuration's `start`.
    """
    spec = TrainSpec.load(name) if start is None else TrainSpec.load(name).at_whole_planes()
    weights = start or (shipped_network(spec.start) if spec.start else None)
    planes: dict[Part, dict[Task, list[Array]]] = {"train": {}, "validate": {}}
    for task in spec.tasks:
        samples = stored(task, "train")
        plane_transform = fit_plane_transform(
            spec.plane_transform, load_profile(TASKS[task].profile, TASKS[task].split), samples
        )
        planes["train"][task] = _planes(plane_transform, samples)
        planes["validate"][task] = _planes(plane_transform, stored(task, "validate"))
    folder = run_folder(name)
    best = ModelCheckpoint(folder, "best", monitor="val/loss", enable_version_counter=False)
    latest = ModelCheckpoint(folder, "last", enable_version_counter=False)  # of every epoch
    has_floor = spec.schedule.kind == "plateau"
    stop = _StopAtFloor(spec.schedule) if has_floor else EarlyStopping("val/loss", patience=spec.patience)
    trainer = lightning.Trainer(
        accelerator="auto",
        devices=devices,
        precision=spec.precision,
        max_epochs=min(epochs or spec.schedule.epochs, spec.schedule.epochs),
        callbacks=[best, latest, stop],
        logger=TensorBoardLogger(folder, name="", version=""),
        gradient_clip_val=1.0,
        log_every_n_steps=25,
        reload_dataloaders_every_n_epochs=1,
        num_sanity_val_steps=0,
    )
    last = folder / "last.ckpt"
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", ".*does not have many workers.*")
        training = Training(spec, planes)
        if weights:
            training.start_from(weights)
        trainer.fit(training, ckpt_path=last if last.exists() else None)
    return Path(best.best_model_path)


def _planes(plane_transform: PlaneTransform, features: Sequence[Array]) -> list[Array]:
    return [plane_transform.to_plane(sample)[0].astype(np.float16) for sample in features]


def export(name: str, tables: Tables | None = None) -> Path:
    """Writes the best checkpoint of a run as a network file beside it; returns its path.

    Args:
        name: of the configuration.
        tables: the configuration's by default.

    Raises FileNotFoundError if the run has no checkpoint.
    """
    spec, checkpoint = TrainSpec.load(name), run_folder(name) / "best.ckpt"
    wanted = tables or spec.tables
    path = run_folder(name) / f"network-{wanted}.safetensors"
    if path.exists() and path.stat().st_mtime > checkpoint.stat().st_mtime:
        return path
    state = torch.load(checkpoint, map_location="cpu", weights_only=True)
    prefix = "network."
    weights = {key.removeprefix(prefix): value for key, value in state["state_dict"].items() if key.startswith(prefix)}
    network = KINDS[spec.kind](spec.widths, spec.lambdas)
    nn.Module.load_state_dict(network, weights)
    origin = {"configuration": Path(name).stem, "steps": str(_num_steps(state))}
    counted = count_symbols(spec, load_network(export(name, "normal"))) if wanted == "fitted" else None
    save_network(path, spec.kind, spec.widths, spec.lambdas, network, origin, counted)
    return path


def count_symbols(spec: TrainSpec, trained: TrainedNetwork) -> Counter:
    """The symbols of some training features of each task at several rates."""
    counter = Counter(trained.tables, spec.widths.num_channels)
    for task in spec.tasks:
        samples = stored(task, "train")
        profile = load_profile(TASKS[task].profile, TASKS[task].split)
        codec = LearnedCodec(CodecId.hyperprior, trained, fit_plane_transform(spec.plane_transform, profile, samples))
        for sample in evenly(samples, _NUM_COUNTED):
            codec.count(sample.astype(np.float32), counter, _COUNTED_QUALITIES)
    return counter


def trained_steps(name: str) -> tuple[int, float]:
    """(training steps of the best checkpoint of a run, its validation loss)."""
    state = torch.load(run_folder(name) / "best.ckpt", map_location="cpu", weights_only=True)
    best = next(value for key, value in state["callbacks"].items() if "val/loss" in key and "ModelCheckpoint" in key)
    return _num_steps(state), float(best["best_model_score"])


def _num_steps(state: dict[str, Any]) -> int:
    return int(state["global_step"]) + int(state["state_dict"].get("steps_before", 0))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("names", nargs="*", help="configurations' names, or YAML files; by default all but the paper's")
    parser.add_argument("--epochs", type=int, help="stop after this many, instead of the configuration's")
    parser.add_argument("--devices", type=int, help="GPUs, or processes without one; by default all GPUs")
    parser.add_argument("--fine-tune-from", choices=["shipped"], help="start from the shipped networks' weights")
    parser.add_argument("--ship", action="store_true", help="put the shipped networks into the package; train nothing")
    arguments = parser.parse_args()
    if arguments.ship:
        for name in SHIPPED:
            print(shutil.copy(export(name), shipped_network(SHIPPED[name])))
        return
    trainable = [name for name in configurations() if not name.startswith("paper-")]
    names = arguments.names or (list(SHIPPED) if arguments.fine_tune_from else trainable)
    if arguments.fine_tune_from and not set(names) <= set(SHIPPED):
        parser.error(f"--fine-tune-from shipped needs a shipped network: one of {', '.join(SHIPPED)}")
    for name in names:
        start = shipped_network(SHIPPED[name]) if arguments.fine_tune_from else None
        train(name, epochs=arguments.epochs, start=start, devices=arguments.devices or "auto")
        exported = rank_zero_only(export)(name)  # None in the other processes
        if exported:
            print(exported)


if __name__ == "__main__":
    main()
