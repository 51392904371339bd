"""Metrics and logs: the one place that names them.

Every metric starts with `dtufc_`, is in base units, and has labels of few values only: a name that a caller made up
never becomes one.
"""

import json
import logging
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Final

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, ProcessCollector

from dtufc.errors import DtufcError, Internal

_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0)
_BPFP = (0.02, 0.05, 0.1, 0.15, 0.25, 0.5, 0.75, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0, 8.0, 16.0, 32.0)
_STAGES: Final = frozenset(
    {"edge.preprocess", "edge.backbone", "edge.encode", "round_trip"}
    | {"cloud.parse", "cloud.decode", "cloud.head", "cloud.png"}
)
_OTHER: Final = "other"  # stages that only a plug-in knows, or that a peer made up
_log = logging.getLogger("dtufc.request")


class Stages:
    """The seconds that each stage of one request took, in order."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}

    @contextmanager
    def measure(self, stage: str) -> Iterator[None]:
        """Adds the time spent inside to `stage`."""
        start = time.perf_counter()
        try:
            yield
        finally:
            self.add(stage, time.perf_counter() - start)

    def add(self, stage: str, seconds: float) -> None:
        self.seconds[stage] = self.seconds.get(stage, 0.0) + seconds


@dataclass(slots=True)
class Record:
    """What is known of one request by its end, for metrics, the log line and the reply's cost."""

    task: str
    model: str = "unknown"
    codec: str = "unknown"
    quality: str = "unknown"  # of few values: `Rate.label`, or "none" where the codec has no choice; the edge knows it
    raw_bytes: int = 0
    payload_bytes: int = 0
    wire_bytes: int = 0
    num_values: int = 0
    num_frames: int = 0
    stages: Stages = field(default_factory=Stages)

    @property
    def bpfp_payload(self) -> float:
        """Bits a feature value of the codec's own bytes."""
        return 8 * self.payload_bytes / max(self.num_values, 1)

    @property
    def bpfp_wire(self) -> float:
        """Bits a feature value of the whole frames."""
        return 8 * self.wire_bytes / max(self.num_values, 1)

    def add_frame(self, *, raw_bytes: int, payload_bytes: int, wire_bytes: int, num_values: int) -> None:
        """Counts one frame."""
        self.raw_bytes += raw_bytes
        self.payload_bytes += payload_bytes
        self.wire_bytes += wire_bytes
        self.num_values += num_values
        self.num_frames += 1


class Telemetry:
    """The metrics of one side, and those of its process: CPU time, memory, open files."""

    def __init__(self, side: str) -> None:
        self.registry = CollectorRegistry()
        labels = ("model", "codec")

        def counter(name: str, text: str, names: tuple[str, ...]) -> Counter:
            return Counter(f"dtufc_{side}_{name}", text, names, registry=self.registry)

        def histogram(name: str, text: str, names: tuple[str, ...], buckets: tuple[float, ...]) -> Histogram:
            return Histogram(f"dtufc_{side}_{name}", text, names, registry=self.registry, buckets=buckets)

        def gauge(name: str, text: str) -> Gauge:
            return Gauge(f"dtufc_{side}_{name}", text, registry=self.registry)

        self._requests = counter("requests_total", "Requests that ended, well or not.", ("task", *labels))
        self._errors = counter("errors_total", "Requests that failed, by reason.", ("task", "reason", *labels))
        self._raw = counter("raw_bytes_total", "Features as the model made them.", labels)
        self._coded = counter("coded_bytes_total", "Frames on the wire.", labels)
        self._values = counter("feature_values_total", "Feature values coded.", labels)
        self._seconds = histogram("request_seconds", "Whole requests.", ("task", *labels), _SECONDS)
        self._stage = histogram("stage_seconds", "Stages of requests.", ("stage", *labels), _SECONDS)
        self._bpfp = histogram("bpfp", "Bits a feature value on the wire, by request.", (*labels, "quality"), _BPFP)
        self.desyncs = counter("desyncs_total", "Frames that decoded to other symbols than were encoded.", labels)
        self._running = gauge("running", "Requests that are being worked on or wait for it.")
        self._slots = gauge("slots", "Requests that may be worked on or wait for it; one more is rejected.")
        ProcessCollector(namespace=f"dtufc_{side}", registry=self.registry)

    def watch_queue(self, running: Callable[[], int], slots: int) -> None:
        """Takes the gauges of the queue from here on: `running` is asked at each scrape."""
        self._running.set_function(running)
        self._slots.set(slots)

    def expect(self, model: str, codecs: Iterable[str]) -> None:
        """Starts the counters of rare events at zero: Prometheus sees no increase in a series that begins with one."""
        for codec in codecs:
            self.desyncs.labels(model, codec)

    @contextmanager
    def request(self, task: str) -> Iterator[Record]:
        """Counts and logs one request, however it ends."""
        record = Record(task)
        start = time.perf_counter()
        reason = "CANCELLED"  # what is left where no other end was reached
        try:
            yield record
            reason = ""
        except DtufcError as error:
            reason = error.code
            raise
        except Exception:
            reason = Internal.code
            raise
        finally:
            self._count(record, reason, time.perf_counter() - start)

    def _count(self, record: Record, reason: str, seconds: float) -> None:
        labels = (record.model, record.codec)
        self._requests.labels(record.task, *labels).inc()
        self._seconds.labels(record.task, *labels).observe(seconds)
        stages = dict(record.stages.seconds)  # a cancelled call's thread may still add to it
        for stage, taken in stages.items():
            self._stage.labels(stage if stage in _STAGES else _OTHER, *labels).observe(taken)
        if reason:
            self._errors.labels(record.task, reason, *labels).inc()
        if record.num_values:
            self._raw.labels(*labels).inc(record.raw_bytes)
            self._coded.labels(*labels).inc(record.wire_bytes)
            self._values.labels(*labels).inc(record.num_values)
            self._bpfp.labels(*labels, record.quality).observe(record.bpfp_wire)
        line = {
            "task": record.task,
            "model": record.model,
            "codec": record.codec,
            "quality": record.quality,
            "outcome": reason or "OK",
            "seconds": round(seconds, 6),
            "frames": record.num_frames,
            "raw_bytes": record.raw_bytes,
            "wire_bytes": record.wire_bytes,
            "bpfp": round(record.bpfp_wire, 4),
            "stages": {stage: round(taken, 6) for stage, taken in stages.items()},
        }
        _log.info("request", extra={"fields": line})


class JsonLines(logging.Formatter):
    """One JSON object a line."""

    def format(self, record: logging.LogRecord) -> str:
        line: dict[str, object] = {
            "time": self.formatTime(record, "%Y-%m-%dT%H:%M:%S%z"),
            "level": record.levelname,
            "logger": record.name,
            "message": record.getMessage(),
            **getattr(record, "fields", {}),
        }
        if record.exc_info:
            line["trace"] = self.formatException(record.exc_info)
        return json.dumps(line)


def configure_logging(level: str) -> None:
    """JSON lines on standard error; for `__main__` alone."""
    handler = logging.StreamHandler()
    handler.setFormatter(JsonLines())
    logging.basicConfig(level=level, handlers=[handler], force=True)
