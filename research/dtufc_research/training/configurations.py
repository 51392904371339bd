"""What a network is trained by: the configurations in `networks/`, one YAML file each."""

from importlib import resources
from pathlib import Path
from typing import Literal, Self

import yaml
from pydantic import BaseModel, ConfigDict, Field, model_validator

from dtufc.coding.codecs.learned.networks import Kind, Widths
from dtufc_research.training import plane_transforms as preparations
from dtufc_research.training.features import Task


class _Spec(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Schedule(_Spec):
    """The optimizer and its learning rate.

    `plateau` is the paper's: Adam, its rate halved where the validation loss stalls, until `floor`, then `last_epochs`
    more. `cycle` is for a budget of time: Muon for the kernels between layers and Adam for the rest, rates that rise
    for a twentieth of the epochs and fall by a cosine; `learning_rate` is Muon's.
    """

    kind: Literal["plateau", "cycle"]
    learning_rate: float
    epochs: int
    floor: float = 1e-8
    last_epochs: int = 20


class Crops(_Spec):
    """What a step sees.

    Attributes:
        from_epoch: the first epoch of such crops; they last until the next entry's.
        side: of a crop. A batch of one has crops no larger than the plane, up to a multiple of 64.
        batch: crops a step; with one, planes that are much smaller come some at a time.
    """

    from_epoch: int = 0
    side: int = Field(multiple_of=64)
    batch: int


Tables = Literal["normal", "fitted"]  # of the symbols: normal distributions, or counts of training features


class TrainSpec(_Spec):
    """One trained codec: a file in `networks/`.

    Attributes:
        crops: in the order of their epochs. Validation is on the last ones: where the side information of a network
            reaches over 250 values, small crops are mostly border, and what is learned on them alone does not hold
            inside of whole planes.
        from_top: share of the crops that begin in the plane's first row and column, where coefficients are large.
        shuffle: share of the crops whose rows are out of order, and of those whose columns are. So a network does not
            rely on what only some models have.
        start: the shipped network whose weights a training starts from; None: a Walsh-Hadamard transform.
        noise: whether a decoder in training sees noise in place of rounding, as the paper's; not of ELIC.
        steps_per_epoch: whatever the crops.
    """

    kind: Kind
    preparation: preparations.Kind = "paper"
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
    def _elic_rounds(self) -> Self:
        if self.noise and self.kind == "elic":
            raise ValueError("noise: not of kind elic, whose decoder sees rounded values")
        return self

    def at_whole_planes(self) -> "TrainSpec":
        """The last crops' epochs alone, at half the learning rate: for a network that has been trained."""
        last, schedule = self.crops[-1], self.schedule
        changes = {"epochs": schedule.epochs - last.from_epoch, "learning_rate": schedule.learning_rate / 2}
        crops = (last.model_copy(update={"from_epoch": 0}),)
        return self.model_copy(update={"crops": crops, "schedule": schedule.model_copy(update=changes)})

    @classmethod
    def load(cls, name: str) -> "TrainSpec":
        """Of the configuration of that name, or of a YAML file."""
        shipped = _folder() / f"{name}.yaml"
        path = shipped if shipped.exists() else Path(name)
        return cls.model_validate(yaml.safe_load(path.read_text(encoding="utf-8")))


def configurations() -> list[str]:
    """Names of the configurations that come with the workbench."""
    return sorted(path.stem for path in _folder().glob("*.yaml"))


def _folder() -> Path:
    return Path(str(resources.files("dtufc_research.training"))) / "networks"
