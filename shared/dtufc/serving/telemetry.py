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

from dtufc.errors import DtufcError, InputError, Internal, Overloaded, SessionLost, TooManyStreams
from dtufc.serving.cache_budget import CacheBudget

_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0)
_BPFP = (0.02, 0.05, 0.1, 0.15, 0.25, 0.5, 0.75, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0, 8.0, 16.0, 32.0)
_SHARING = (1.0, 2.0, 3.0, 4.0, 6.0, 8.0, 12.0, 16.0)  # up to MAX_SHARING
_STAGES: Final = frozenset(
    {"edge.preprocess", "edge.backbone", "edge.encode", "round_trip"}
    | {"cloud.parse", "cloud.decode", "cloud.head", "cloud.png"}
)
SESSION_ENDS: Final = ("closed", "idle", "drained", "lost", "error")
IMAGE_DECODER_ENDS: Final = ("time", "cancelled", "died", "fault")
REJECTED: Final = ("request", "list", "health", "reflection", "http")  # kinds of calls
_REJECTIONS: Final = (InputError.code, Overloaded.code, TooManyStreams.code)
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
    steps_s: float | None = None  # of a session at the cloud: the seconds of its steps
    tokens: dict[str, int] = field(default_factory=dict)  # of a text, by kind
    recoveries: int = 0

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
        self._rejected = counter(
            "rejected_total",
            "Calls that got no place, by kind; of those that take none (list, health, reflection) all that failed.",
            ("kind", "reason"),
        )
        for kind in REJECTED:
            for reason in _REJECTIONS:
                self._rejected.labels(kind, reason)
        self._raw = counter("raw_bytes_total", "Features as the model made them.", labels)
        self._coded = counter("coded_bytes_total", "Frames on the wire.", labels)
        self._values = counter("feature_values_total", "Feature values coded.", labels)
        self._seconds = histogram(
            "request_seconds",
            "Whole requests; of a session at the cloud, its steps alone.",
            ("task", *labels),
            _SECONDS,
        )
        self._stage = histogram("stage_seconds", "Stages of requests.", ("stage", *labels), _SECONDS)
        self._bpfp = histogram("bpfp", "Bits a feature value on the wire, by request.", (*labels, "quality"), _BPFP)
        self.desyncs = counter("desyncs_total", "Frames that decoded to other symbols than were encoded.", labels)
        self._first_token = histogram(
            "first_token_seconds", "From the prompt's tokens to the reply's first one.", labels, _SECONDS
        )
        self._token = histogram(
            "token_seconds", "Between tokens of a reply; those of one step share its time.", labels, _SECONDS
        )
        self._step = histogram("step_seconds", "Steps of sessions: a message's rows to its tokens.", labels, _SECONDS)
        self._tokens = counter(
            "tokens_total",
            "Tokens by kind: prompt, new, drafted, accepted (drafts that held); at the cloud sampled for new.",
            ("kind", *labels),
        )
        self._recoveries = counter("recoveries_total", "Sessions that were opened again at a cloud.", labels)
        self._ends = counter(
            "sessions_total",
            "Sessions that ended: closed by the edge, idle, drained, lost with the edge, or by an error.",
            ("reason", "model"),
        )
        self._decoders = counter(
            "image_decoders_ended_total",
            "Processes that decoded an image and were killed: its time was over (time), the call ended (cancelled), "
            "or it died or failed by itself.",
            ("reason",),
        )
        self._pass_sequences = histogram(
            "pass_sequences", "Sequences that share a pass through the model.", ("model",), _SHARING
        )
        self._sequences = gauge("sequences", "Texts that are being generated; at the cloud, open sessions.")
        self._cache = gauge("cache_bytes", "Reserved for their keys and values.")
        self._cache_limit = gauge("cache_limit_bytes", "What may be reserved; a text that needs more is rejected.")
        self._running = gauge("running", "Requests that are being worked on or wait for it.")
        self._slots = gauge("slots", "Requests that may be worked on or wait for it; one more is rejected.")
        self.reloads = counter("reloads_total", "Reloads of profiles and certificates: ok, or failed.", ("result",))
        for result in ("ok", "failed"):
            self.reloads.labels(result)
        ProcessCollector(namespace=f"dtufc_{side}", registry=self.registry)

    def watch_queue(self, running: Callable[[], int], slots: int) -> None:
        """Takes the gauges of the queue from here on: `running` is asked at each scrape."""
        self._running.set_function(running)
        self._slots.set(slots)

    def watch_cache(self, budget: CacheBudget) -> None:
        """Takes the gauges of sequences from here on: the budget is asked at each scrape."""
        self._sequences.set_function(lambda: budget.sequences)
        self._cache.set_function(lambda: budget.reserved)
        self._cache_limit.set(budget.limit)

    def watch_passes(self, model: str) -> Callable[[int], None]:
        """What takes the number of sequences of each pass through this model."""
        return self._pass_sequences.labels(model).observe

    def expect(self, model: str, codecs: Iterable[str]) -> None:
        """Starts the counters of rare events at zero: Prometheus sees no increase in a series that begins with one."""
        for codec in codecs:
            self.desyncs.labels(model, codec)
            self._recoveries.labels(model, codec)

    def expect_images(self) -> None:
        """`expect`, of the ends of processes that decode images."""
        for reason in IMAGE_DECODER_ENDS:
            self._decoders.labels(reason)

    def image_decoder_ended(self, reason: str) -> None:
        """Counts a process that decoded images."""
        self._decoders.labels(reason).inc()

    def expect_sessions(self, model: str) -> None:
        """`expect`, of the ends of sessions."""
        for reason in SESSION_ENDS:
            self._ends.labels(reason, model)

    def rejected(self, kind: str, reason: str) -> None:
        """Counts a call that was rejected before it was a request.

        Args:
            kind: of REJECTED, or "unknown".
            reason: the code of the error.
        """
        self._rejected.labels(kind, reason).inc()

    @contextmanager
    def session(self, model: str) -> Iterator[None]:
        """Counts the end of one session at the cloud. A SessionLost may name it by the fact `end`."""
        reason = "lost"  # what is left where no other end was reached: the call was cancelled
        try:
            yield
            reason = "closed"
        except SessionLost as lost:
            reason = lost.context.get("end", "error")
            raise
        except Exception:
            reason = "error"
            raise
        finally:
            self._ends.labels(reason, model).inc()

    def generated(self, record: Record, seconds: float, *, prompt: int, new: int, drafted: int) -> None:
        """Counts one step of a text at the edge.

        Args:
            record: of the request.
            seconds: that the step took.
            prompt: tokens of the prompt, in the first step; else 0.
            new: tokens that came.
            drafted: tokens that were guessed.
        """
        labels = (record.model, record.codec)
        if prompt:
            self._first_token.labels(*labels).observe(seconds)
        else:
            for _ in range(new):
                self._token.labels(*labels).observe(seconds / new)
        self._count_tokens(record, prompt=prompt, new=new, drafted=drafted, accepted=new - 1)

    def recovered(self, record: Record) -> None:
        """Counts a session that is opened again."""
        record.recoveries += 1
        self._recoveries.labels(record.model, record.codec).inc()

    def stepped(self, record: Record, seconds: float, *, sampled: int, drafted: int) -> None:
        """Counts one step of a session at the cloud; a step whose rows are held samples no token."""
        self._step.labels(record.model, record.codec).observe(seconds)
        record.steps_s = (record.steps_s or 0.0) + seconds
        self._count_tokens(record, sampled=sampled, drafted=drafted, accepted=max(0, sampled - 1))

    def _count_tokens(self, record: Record, **kinds: int) -> None:
        for kind, number in kinds.items():
            self._tokens.labels(kind, record.model, record.codec).inc(number)
            record.tokens[kind] = record.tokens.get(kind, 0) + number

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
            self._count(record, reason, time.perf_counter() - start if record.steps_s is None else record.steps_s)

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
        if record.tokens:
            line["tokens"] = record.tokens
        if record.recoveries:
            line["recoveries"] = record.recoveries
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
