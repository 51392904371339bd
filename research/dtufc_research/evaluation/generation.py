"""`python -m dtufc_research.evaluation.generation [SECTION ...]`: what generation costs, on the real pair.

Edge and cloud run as processes on loopback with their default settings, on as many threads as this process has.
Sections: length, speed, distance, together, recovery, rate. Each puts its own part into docs/results/generation.json,
measurement by measurement, so that it goes on where it stopped; from that docs/results/generation.md is written, and a
plot. A model whose profile has no fit of klt is fitted once, and the fit kept beside the weights.
"""

import argparse
import json
import sys
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from statistics import median
from threading import Semaphore, Thread
from typing import Any, Final

import numpy as np
import torch
from torch.nn import functional as F
from transformers import AutoModelForCausalLM, AutoTokenizer, GenerationConfig

import dtufc
from dtufc.coding import bitstream
from dtufc.coding.feature_codec import FeatureCodec, fit_calibration
from dtufc.models.cache import cache_folder
from dtufc.models.profile import load_profile
from dtufc.models.zoo import weights_folder
from dtufc.v1 import head_pb2, inference_pb2
from dtufc_research.data.extract import Decoder
from dtufc_research.data.sources import texts
from dtufc_research.evaluation.dry import in_own_process
from dtufc_research.evaluation.generation_page import RAW, SPAN, WHOLE, write_page
from dtufc_research.evaluation.machine import machine
from dtufc_research.evaluation.pair import Completion, Pair, pair

RESULTS: Final = Path(__file__).parents[3] / "docs" / "results"
PROFILES: Final = ("smollm2-135m", "qwen2.5-coder-1.5b")
KLT: Final = "klt"
DRAFTS: Final = {
    "off": inference_pb2.DRAFTS_OFF,
    "on": inference_pb2.DRAFTS_ON,
    "auto": inference_pb2.DRAFTS_AUTO,
}
STORY: Final = "Tell me a story about a lighthouse keeper and a whale."
CODE: Final = """\
Rewrite this function with the name `count_words`, and change nothing else:

def tally(lines, minimum=1):
    counts = {}
    for line in lines:
        for word in line.split():
            word = word.strip(".,;:!?").lower()
            counts[word] = counts.get(word, 0) + 1
    return {word: count for word, count in counts.items() if count >= minimum}
"""
_NEVER: Final = -100.0  # the bias of a token that shall not come
_NUM_FIT: Final = 10
_EXCERPT: Final = 240  # characters of a prompt
_TIMED: Final = 64  # tokens at both ends of a reply, at most


@dataclass(frozen=True, slots=True, kw_only=True)
class Effort:
    """How much is measured.

    Attributes:
        lengths: of replies, in tokens.
        tokens: of a reply in the other sections,
        other_tokens: and of a reply of the other profiles, which are larger.
        runs: of each side of a comparison of speed.
        round_trips_ms: of the network.
        sessions: at once.
        long_prompt: in tokens.
        kills: of a cloud, for each number of clouds.
        qualities: of klt.
        prompts: whose texts are held against those of raw.
        texts: held-out ones of the first profile,
        other_texts: and of the others.
        text_tokens: of each.
    """

    lengths: tuple[int, ...] = (8, 32, 96, 512)
    tokens: int = 64
    other_tokens: int = 32
    runs: int = 3
    round_trips_ms: tuple[int, ...] = (0, 20, 100, 400)
    sessions: int = 8
    long_prompt: int = 800
    kills: int = 20
    qualities: tuple[float, ...] = (0.2, 0.4, 0.5, 0.6, 0.8, 1.0)
    prompts: int = 20
    texts: int = 8
    other_texts: int = 2
    text_tokens: int = 256


QUICK: Final = Effort(
    lengths=(8, 24),
    tokens=16,
    other_tokens=8,
    runs=1,
    round_trips_ms=(20,),
    sessions=3,
    long_prompt=400,
    kills=2,
    qualities=(0.4, 1.0),
    prompts=2,
    texts=1,
    other_texts=1,
    text_tokens=64,
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Run:
    """One section on its way.

    Attributes:
        profiles: to measure; sections with one take the first.
        effort: how much.
        rows: what has been found, by name.
        save: keeps it.
    """

    profiles: Sequence[str]
    effort: Effort
    rows: dict[str, Any]
    save: Callable[[], None]

    def add(self, name: str, found: Any) -> None:
        """Keeps one measurement."""
        self.rows[name] = found
        print(f"{name}: {_short(found)}", flush=True)
        self.save()


def length(run: Run) -> None:
    """Bytes and seconds against the number of tokens, beside the whole model in one process."""
    name, lengths = run.profiles[0], run.effort.lengths
    longest = max(lengths)
    if WHOLE not in run.rows:
        times_s = Whole(name).generate(STORY, longest)[1]
        run.add(WHOLE, _ends_of(times_s))
    counted = sorted({1, 1 + SPAN, longest - SPAN, *lengths})
    codecs = (KLT, RAW)
    if all(f"{codec} {count}" in run.rows for codec in codecs for count in counted):
        return
    with pair(_fitted(name)) as served:
        ask = Asker(name)
        for codec in codecs:
            served.complete(ask(STORY, SPAN, codec))  # warm
            for count in counted:
                if f"{codec} {count}" not in run.rows:
                    reply = served.complete(ask(STORY, count, codec))
                    run.add(f"{codec} {count}", {"codec": codec, "tokens": count, **_costs(reply)})


def speed(run: Run) -> None:
    """Tokens a second of the pair against the whole model's `generate`, in turn."""
    effort = run.effort
    for place, name in enumerate(run.profiles):
        if name not in run.rows:
            run.add(name, _compared(name, effort.other_tokens if place else effort.tokens, effort.runs))


def _compared(name: str, count: int, num_runs: int) -> dict[str, Any]:
    """Replies of `count` tokens of one model, as a whole and as a pair; the first run of each is to warm up."""
    whole, ask = Whole(name), Asker(name)
    with pair(_fitted(name)) as served:

        def seconds_of(way: str) -> float:
            start = time.monotonic()
            if way == WHOLE:
                ids[way] = whole.generate(STORY, count)[0]
            else:
                reply = served.complete(ask(STORY, count, way))
                ids[way], stages[way] = reply.ids, {**reply.stages, "all": reply.seconds}
            return time.monotonic() - start

        ids: dict[str, list[int]] = {}
        stages: dict[str, dict[str, float]] = {}
        ways = (WHOLE, RAW, KLT)
        runs = [{way: seconds_of(way) for way in ways} for _ in range(1 + num_runs)]
    return {
        "tokens": count,
        "seconds": {way: [each[way] for each in runs[1:]] for way in ways},
        "stages": stages,
        "raw is the whole model's": ids[RAW] == ids[WHOLE],
    }


def distance(run: Run) -> None:
    """Drafts at several round trips: a text that repeats its prompt, and one that does not."""
    name = run.profiles[0]
    cases = [
        (round_trip_ms, title, drafts)
        for round_trip_ms in run.effort.round_trips_ms
        for title in ("code", "story")
        for drafts in DRAFTS
    ]
    missing = [case for case in cases if " ".join(map(str, case)) not in run.rows]
    if not missing:
        return
    with pair(_fitted(name), forwards=True) as served:
        ask, prompts = Asker(name), {"code": CODE, "story": STORY}
        assert served.forwarder is not None
        served.complete(ask(STORY, SPAN, KLT))  # warm
        for round_trip_ms, title, drafts in missing:
            served.forwarder.round_trip_s = round_trip_ms / 1000
            before = served.forwarder.num_bytes
            request = ask(prompts[title], run.effort.tokens, KLT, drafts=DRAFTS[drafts], ends=True)
            reply = served.complete(request)
            found = {
                "round_trip_ms": round_trip_ms,
                "prompt": title,
                "drafts": drafts,
                "ids": reply.ids,
                "on the way": served.forwarder.num_bytes - before,
                **_costs(reply),
            }
            run.add(f"{round_trip_ms} {title} {drafts}", found)


def together(run: Run) -> None:
    """Several sessions at once against one, and a long prompt that comes while they run."""
    name, effort = run.profiles[0], run.effort
    ask = Asker(name)
    prompts = excerpts(effort.sessions)
    with pair(_fitted(name)) as served, ThreadPoolExecutor(effort.sessions + 1) as pool:
        served.complete(ask(STORY, SPAN, KLT))  # warm
        alone = served.complete(ask(prompts[0], effort.tokens, KLT))
        run.add("alone", {"sessions": 1, **_group([alone])})

        begun = Semaphore(0)

        def on_token(count: int) -> None:
            if count == 1:
                begun.release()

        def start() -> list[Future[Completion]]:
            return [pool.submit(served.complete, ask(prompt, effort.tokens, KLT), on_token) for prompt in prompts]

        run.add("together", {"sessions": effort.sessions, **_group([each.result() for each in start()])})
        others = start()
        for _ in range(2 * effort.sessions):  # of both groups
            begun.acquire()
        late = served.complete(ask(ask.of_tokens(effort.long_prompt), SPAN, KLT))
        found = {
            "sessions": effort.sessions,
            "prompt_tokens": late.last.generated.prompt_tokens,
            "its_first_token_s": late.times_s[0],
            **_group([each.result() for each in others]),
        }
        run.add("long prompt", found)


def recovery(run: Run) -> None:
    """A cloud is killed in the middle of each text, and started again at once: alone, and beside another."""
    name, effort = run.profiles[0], run.effort
    prompts, ask = excerpts(effort.kills), Asker(name)
    for num_clouds in (1, 2):
        missing = [number for number in range(effort.kills) if f"{num_clouds} {number}" not in run.rows]
        if not missing:
            continue
        with pair(_fitted(name), num_clouds=num_clouds) as served:
            for number in missing:
                run.add(f"{num_clouds} {number}", _disturbed(served, ask, prompts[number], effort.tokens, number))


def _disturbed(served: Pair, ask: "Asker", prompt: str, count: int, number: int) -> dict[str, Any]:
    """One text twice: undisturbed, and with a kill at a random moment between its first token and its last."""
    sampling = head_pb2.Sampling(temperature=0.8, top_p=0.95, seed=number)
    request = ask(prompt, count, KLT, sampling=sampling)
    calm = served.complete(request)
    delay_s = float(np.random.default_rng(number).uniform()) * (calm.times_s[-1] - calm.times_s[0])
    before = [cloud.cpu_s for cloud in served.clouds]

    def kill() -> None:
        time.sleep(delay_s)
        used = [cloud.cpu_s - earlier for cloud, earlier in zip(served.clouds, before, strict=True)]
        victim = served.clouds[int(np.argmax(used))]  # where the session is
        victim.kill()
        victim.start()

    killer = Thread(target=kill)

    def on_token(count: int) -> None:
        if count == 1:
            killer.start()

    hit = served.complete(request, on_token)
    killer.join()
    for cloud in served.clouds:
        cloud.wait()
    return {
        "clouds": len(served.clouds),
        "equal": hit.ids == calm.ids,
        "recoveries": hit.last.generated.recoveries,
        "longest_pause_s": max(hit.gaps_s),
        "calm_pause_s": max(calm.gaps_s),
    }


def rate(run: Run) -> None:
    """Bytes a token at several qualities, and how the text fares."""
    name, effort = run.profiles[0], run.effort
    for place, each in enumerate(run.profiles):
        if f"coded {each}" not in run.rows:
            count = effort.other_texts if place else effort.texts
            dtype = torch.bfloat16 if place else torch.float32
            run.add(f"coded {each}", in_own_process(coded, _fitted(each), dtype, effort, count))
    modes = [(mode, quality) for mode in ("tokens", "both") for quality in effort.qualities]
    missing = [(mode, quality) for mode, quality in modes if f"{mode} {quality}" not in run.rows]
    if not missing:
        return
    with pair(_fitted(name)) as served:
        ask, prompts = Asker(name), excerpts(effort.prompts)
        right = [served.complete(ask(prompt, effort.tokens, RAW)).ids for prompt in prompts]
        for mode, quality in missing:
            options: dict[str, Any] = {"quality": quality}
            if mode == "tokens":
                options = {"quality": 1.0, "token_quality": quality}
            requests = [ask(prompt, effort.tokens, KLT, **options) for prompt in prompts]
            same = [_num_same(served, request, ids) for request, ids in zip(requests, right, strict=True)]
            run.add(f"{mode} {quality}", {"mode": mode, "quality": quality, "tokens": effort.tokens, "same": same})


def _num_same(served: Pair, request: inference_pb2.CompleteRequest, ids: Sequence[int]) -> int:
    """Tokens at the start of the reply that are these; what follows the first other one is not waited for."""
    count = 0
    with served.stream(request) as replies:
        for reply in replies:
            if not reply.HasField("token") or reply.token.token_id != ids[count]:
                break
            count += 1
    return count


def coded(name: str, dtype: torch.dtype, effort: Effort, count: int) -> dict[str, Any]:
    """Held-out texts, features coded as one frame and row by row: bytes a token, and the perplexity behind them.

    Args:
        name: of a profile, or its folder.
        dtype: that the model runs in.
        effort: the qualities, and tokens a text.
        count: of texts.
    """
    profile = load_profile(name)
    codec, model = FeatureCodec(profile), Decoder.load(profile, dtype)
    rows = [ids[: effort.text_tokens] for ids in model.rows("test", count)]
    features = [model.features(ids).float() for ids in rows]

    def loss(decoded: torch.Tensor, ids: Sequence[int]) -> float:
        logits = model.head.logits(decoded.to(dtype))
        return float(F.cross_entropy(logits[:-1], torch.tensor(ids[1:])))

    def tell(sizes: Sequence[float], losses: Sequence[float]) -> dict[str, float]:
        return {"bytes": float(np.mean(sizes)), "perplexity": float(np.exp(np.mean(losses)))}

    exact = [loss(x, ids) for x, ids in zip(features, rows, strict=True)]
    single = codec.encode(features[0][:1], codec=RAW)
    found: dict[str, Any] = {
        "channels": features[0].shape[1],
        "texts": count,
        "tokens": effort.text_tokens,
        "dtype": str(dtype).removeprefix("torch."),
        RAW: tell([len(bitstream.pack_step(single.frame, 1))], exact),
    }
    for quality in effort.qualities:
        whole_sizes, row_sizes, whole_losses, row_losses = [], [], [], []
        for x, ids in zip(features, rows, strict=True):
            frame = codec.encode(x, codec=KLT, quality=quality)
            whole_sizes.append(len(frame) / len(x))
            whole_losses.append(loss(torch.from_numpy(np.array(codec.decode(frame))), ids))
            frames = [codec.encode(x[at : at + 1], codec=KLT, quality=quality) for at in range(len(x))]
            row_sizes += [len(bitstream.pack_step(each.frame, at)) for at, each in enumerate(frames)]
            decoded = np.concatenate([codec.decode(each) for each in frames])
            row_losses.append(loss(torch.from_numpy(decoded), ids))
        found[str(quality)] = {"frame": tell(whole_sizes, whole_losses), "rows": tell(row_sizes, row_losses)}
    return found


class Asker:
    """Requests to a profile's model, whose replies have the length that was asked for."""

    def __init__(self, name: str) -> None:
        self._name = load_profile(_fitted(name)).name
        folder = weights_folder(load_profile(name).spec)
        self._tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True)
        named = GenerationConfig.from_pretrained(folder, local_files_only=True).eos_token_id
        self._ends = {self._tokenizer.eos_token_id, *(named if isinstance(named, list) else [named])}

    def __call__(
        self,
        prompt: str,
        count: int,
        codec: str,
        *,
        quality: float | None = None,
        token_quality: float | None = None,
        drafts: inference_pb2.Drafts = inference_pb2.DRAFTS_OFF,
        sampling: head_pb2.Sampling | None = None,
        ends: bool = False,
    ) -> inference_pb2.CompleteRequest:
        """A user's turn and the length of the reply; `ends` lets the model end it earlier."""
        request = inference_pb2.CompleteRequest(
            coding=inference_pb2.Coding(profile=self._name, codec=codec, quality=None if codec == RAW else quality),
            prompt=prompt,
            max_tokens=count,
            sampling=sampling,
            token_quality=token_quality,
            drafts=drafts,
        )
        if not ends:
            for end in self._ends:
                request.sampling.logit_bias[end] = _NEVER
        return request

    def of_tokens(self, count: int) -> str:
        """A prompt of about so many tokens."""
        text = texts("test")[0][1]
        return str(self._tokenizer.decode(self._tokenizer(text[: 16 * count])["input_ids"][:count]))


class Whole:
    """The whole model in this process, as transformers runs it."""

    def __init__(self, name: str) -> None:
        folder = weights_folder(load_profile(name).spec)
        self._tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True)
        self._model: Any = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32, local_files_only=True)

    def generate(self, prompt: str, count: int) -> tuple[list[int], list[float]]:
        """The most probable reply of so many tokens: their ids, and when each came, in seconds."""
        turns = [{"role": "user", "content": prompt}]
        ids = self._tokenizer.apply_chat_template(
            turns, add_generation_prompt=True, return_tensors="pt", return_dict=True
        )
        streamer = _Times()
        greedy = {"do_sample": False, "temperature": None, "top_p": None, "top_k": None, "repetition_penalty": 1.0}
        made = self._model.generate(**ids, max_new_tokens=count, min_new_tokens=count, streamer=streamer, **greedy)
        return made[0, ids["input_ids"].shape[1] :].tolist(), streamer.times_s[1:]  # the first is the prompt


class _Times:
    """A streamer that keeps the time of what it is told."""

    def __init__(self) -> None:
        self._start = time.monotonic()
        self.times_s: list[float] = []

    def put(self, value: torch.Tensor) -> None:
        self.times_s.append(time.monotonic() - self._start)

    def end(self) -> None:
        pass


def _fitted(name: str) -> str:
    """A profile with a fit of klt: this one, or a folder beside the weights."""
    profile = load_profile(name)
    if any(key.startswith(f"{KLT}.") for key in profile.calibration):
        return name
    folder = cache_folder() / "research" / f"{profile.name}.split{profile.split}"
    if not (folder / "profile.yaml").is_file():
        print(f"fitting klt to {name}, once: minutes", flush=True)
        in_own_process(_fit, name, folder)
    return str(folder)


def _fit(name: str, folder: Path) -> None:
    profile = load_profile(name)
    model = Decoder.load(profile, torch.bfloat16)
    samples = [model.features(ids).float() for ids in model.rows("fit", _NUM_FIT)]
    generator = torch.Generator().manual_seed(0)
    gradients = [model.head.gradient(x, generator) for x in samples]
    calibration, _ = fit_calibration(samples, profile.layout, gradients, learned=False)
    replace(profile, calibration=calibration).save(folder)


def excerpts(count: int) -> list[str]:
    """Prompts: excerpts of the held-out texts, in turn from each."""
    sources = [text for _, text in texts("test")]
    chosen = []
    for number in range(count):
        text = sources[number % len(sources)]
        start = (number // len(sources)) * len(text) * len(sources) // (count + len(sources))
        chosen.append(f"Continue this text:\n\n{text[start : start + _EXCERPT]}")
    return chosen


def _costs(reply: Completion) -> dict[str, Any]:
    generated = reply.last.generated
    return {
        "bytes": reply.last.cost.wire_bytes,
        "seconds": reply.seconds,
        "prompt_tokens": generated.prompt_tokens,
        "new_tokens": generated.new_tokens,
        "drafted": generated.drafted_tokens,
        "accepted": generated.accepted_tokens,
        **_ends_of(reply.times_s),
    }


def _ends_of(times_s: Sequence[float]) -> dict[str, float]:
    """When the first token came, and seconds a token at the start and at the end of a reply."""
    gaps = np.diff(times_s)
    span = min(_TIMED, max(1, len(gaps) // 3))
    if not len(gaps):
        return {"first_s": times_s[0]}
    return {"first_s": times_s[0], "start_s": float(np.median(gaps[:span])), "end_s": float(np.median(gaps[-span:]))}


def _group(replies: Sequence[Completion]) -> dict[str, Any]:
    """Of replies that were asked for at once."""
    firsts = [reply.times_s[0] for reply in replies]
    return {
        "tokens_per_s": sum(len(reply.ids) for reply in replies) / max(reply.seconds for reply in replies),
        "first_s": median(firsts),
        "worst_first_s": max(firsts),
        "gap_s": median(gap for reply in replies for gap in reply.gaps_s),
        "worst_gap_s": max(gap for reply in replies for gap in reply.gaps_s),
    }


def _short(found: Any) -> str:
    text = json.dumps(found)
    return text if len(text) <= 300 else f"{text[:300]} ..."


SECTIONS: Final[dict[str, Callable[[Run], None]]] = {
    "length": length,
    "speed": speed,
    "distance": distance,
    "together": together,
    "recovery": recovery,
    "rate": rate,
}


def measure(path: Path, section: str, profiles: Sequence[str], effort: Effort) -> None:
    """Runs one section, and writes its part of the JSON file; it goes on with one that was interrupted.

    Args:
        path: of the JSON file.
        section: one of SECTIONS.
        profiles: to measure.
        effort: how much.
    """
    results = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
    of = json.loads(json.dumps({"profiles": profiles, "effort": asdict(effort), "machine": _here()}))
    found = results.get(section, {})
    if found.get("done") or found.get("of") != of:
        found = {"of": of, "quick": effort != Effort(), "rows": {}}
    results[section] = found

    def save() -> None:
        path.write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")

    start = time.monotonic()
    SECTIONS[section](Run(profiles=profiles, effort=effort, rows=found["rows"], save=save))
    found["done"] = True
    save()
    print(f"{section}: {time.monotonic() - start:.0f} s", flush=True)


def _here() -> str:
    return f"{machine()}, dtufc {dtufc.__version__}, {torch.get_num_threads()} threads"


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("sections", nargs="*", metavar="SECTION", help=f"of {', '.join(SECTIONS)}; by default all")
    parser.add_argument("--profiles", nargs="+", default=list(PROFILES), help="the first for all, others for two")
    parser.add_argument("--quick", action="store_true", help="few tokens, few runs: shows that it works")
    parser.add_argument("--page-only", action="store_true", help="write the page again from the JSON file")
    parser.add_argument("--output", type=Path, default=RESULTS / "generation.json", help="the JSON file")
    given = parser.parse_args(arguments)
    unknown = sorted(set(given.sections) - set(SECTIONS))
    if unknown:
        parser.error(f"{', '.join(unknown)}: give some of {', '.join(SECTIONS)}")
    for section in () if given.page_only else given.sections or SECTIONS:
        measure(given.output, section, given.profiles, QUICK if given.quick else Effort())
        write_page(given.output)
    if given.page_only:
        write_page(given.output)
    return 0


if __name__ == "__main__":
    sys.exit(main())
