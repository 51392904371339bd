"""The configurations of trained networks: `networks/`, one YAML file each."""

from importlib import resources
from pathlib import Path
from typing import Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

from dtufc.coding.codecs.learned.networks import Kind, Widths
from dtufc.models.strict_yaml import read_mapping
from dtufc_research.training.features import Task
from dtufc_research.training.plane_transforms import PlaneTransformKind


class _Spec(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Schedule(_Spec):
    """The optimizer and its learning rate.

    `plateau` is the paper's: Adam, its rate halved when the validation loss stalls, until `floor`, then `last_epochs`
    more. `cycle` is for a limited time: Muon for the kernels between layers and Adam for the rest, with rates that rise
    for a twentieth of the epochs and then fall by a cosine; `learning_rate` is Muon's.
    """

    kind: Literal["plateau", "cycle"]
    learning_rate: float
    epochs: int
    floor: float = 1e-8
    last_epochs: int = 20


class Crops(_Spec):
    """The crops of one training step.

    Attributes:
        from_epoch: the first epoch of these crops; they last until the next entry begins.
        side: of a crop. With a batch of one, crops are no larger than the plane, rounded up to a multiple of 64.
        batch: crops a step; with a batch of one, several of the much smaller planes form a step.
    """

    from_epoch: int = 0
    side: int = Field(multiple_of=64)
    batch: int


Tables = Literal["normal", "fitted"]  # of the symbols: normal distributions, or counts of training features


class TrainSpec(_Spec):
    """One trained codec: a file in `networks/`.

    Attributes:
        crops: in the order of their epochs. Validation uses the last ones: the receptive field of the side information
            is 250 values, so that small crops are mostly border, and a network that is trained on them alone fails
            inside whole planes.
        from_top: share of the crops that begin at the plane's first row and column, where coefficients are large.
        shuffle: share of the crops whose rows are permuted, and share whose columns are. It keeps a network from
            relying on correlations that only some models have.
        start: the shipped network to fine-tune from; None starts from a Walsh-Hadamard transform.
        noise: whether the decoder is trained with noise instead of rounding, as in the paper; not for ELIC.
        steps_per_epoch: for any crops.
    """

    kind: Kind
    plane_transform: PlaneTransformKind = "paper"
    tasks: tuple[Task, ...] = ("llm", "vit", "tti")
    widths: Widths = Widths()
    lambdas: tuple[float, ...]
    crops: tuple[Crops, ...]
    from_top: float = 0.0
    shuffle: float = 0.0
    start: Literal["hyperprior", "elic", "kltprior"] | None = None
    noise: bool = False
    steps_per_epoch: int = 250
    schedule: Schedule
    patience: int = 10
    tables: Tables = "normal"
    precision: Literal["32-true", "bf16-mixed"] = "bf16-mixed"
    seed: int = 0

    @model_validator(mode="after")
    def _elic_has_no_noise(self) -> Self:
        if self.noise and self.kind == "elic":
            raise ValueError("noise: not for kind elic, whose decoder is trained on rounded values")
        return self

    def at_whole_planes(self) -> "TrainSpec":
        """Only the epochs of the last crops, at half the learning rate: to fine-tune a network."""
        last, schedule = self.crops[-1], self.schedule
        changes = {"epochs": schedule.epochs - last.from_epoch, "learning_rate": schedule.learning_rate / 2}
        crops = (last.model_copy(update={"from_epoch": 0}),)
        return self.model_copy(update={"crops": crops, "schedule": schedule.model_copy(update=changes)})

    @classmethod
    def load(cls, name: str) -> "TrainSpec":
        """Loads the configuration of that name, or a YAML file."""
        shipped = _folder() / f"{name}.yaml"
        path = shipped if shipped.exists() else Path(name)
        return cls.model_validate(
            read_mapping(path, field="configuration", remedy="Name one of the package, or a YAML file")
        )


def configurations() -> list[str]:
    """Names of the configurations that come with this package."""
    return sorted(path.stem for path in _folder().glob("*.yaml"))


def _folder() -> Path:
    return Path(str(resources.files("dtufc_research.training"))) / "networks"
