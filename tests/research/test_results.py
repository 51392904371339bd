"""Tables and figures: what is computed from points that were measured elsewhere."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from dtufc.coding.transform import PeakyToBalanced
from dtufc.models.profile import load_profile
from dtufc_research.paper import paper
from dtufc_research.paper.compare import (
    accuracy_within,
    bd_rate,
    improving,
    is_monotone,
    mean_gain,
    reaches,
)
from dtufc_research.paper.distributions import (
    Activation,
    Distributions,
    distributions_of,
    load_distributions,
    save_distributions,
)
from dtufc_research.paper.figures import codec_figure, figure2, figure3, figure4, figure5
from dtufc_research.paper.histograms import TaskValues, companding_cost, entropy, kl_divergence, transformed_divergences
from dtufc_research.paper.measure import PROFILES, is_trained, measure, of_one_network, points_path
from dtufc_research.paper.page import results_page, sections_of, verdict_table
from dtufc_research.paper.points import Point, load_points, save_points, tasks_of
from dtufc_research.paper.report import trainings_of, write_pages
from dtufc_research.paper.rows import point_table
from dtufc_research.paper.tables import (
    figure2_section,
    figure3_section,
    table1,
    table2,
    table4,
    table6,
)
from dtufc_research.paper.verdicts import (
    Claim,
    accepts_truncated,
    aligned,
    balanced,
    cheaper,
    generalizes,
    more_active,
    reached,
    transfers,
)

RESULTS = Path(__file__).parents[2] / "docs" / "results"
CLAIM = Claim(source="5.3", text="x")
RATES = (0.0, 0.2, 0.4, 0.6, 0.8, 1.0)


def point(curve: str, task: str, rate: float | None, bpfp: float, accuracy: float) -> Point:
    return Point(
        curve=curve,
        task=task,
        rate=rate,
        bpfp_payload=bpfp,
        bpfp_wire=1.05 * bpfp,
        accuracy=accuracy,
        mse=1 / bpfp,
        encode_ms=40.0,
        decode_ms=60.0,
    )


def curve(name: str, task: str = "llm", *, times: float = 1.0, top: float = 0.99) -> list[Point]:
    """Six points; `times` the bits of the reference curve, accuracy up to about `top`."""
    return [
        point(name, task, rate, times * 0.1 * 25**rate, top * (1 - float(np.exp(-1.0 - 4.0 * rate)))) for rate in RATES
    ]


def measured() -> list[Point]:
    """All curves on both tasks, ours cheaper than the baselines, and single points."""
    networks = {"hyperprior-hybrid": 1.0, "hyperprior-llm": 0.9, "hyperprior-vit": 1.1, "elic-hybrid": 0.8}
    others = {"baseline-hybrid": 2.0, "baseline-llm": 1.8, "baseline-vit": 2.2, "klt": 1.2}
    changes = {
        "hyperprior-hybrid, floor": 1.1,
        "affine-hybrid": 0.9,
        "baseline-hybrid, transformed features": 1.5,
        "hyperprior-hybrid, truncated features": 1.9,
    }
    found = [point(name, task, None, bpfp, 0.999) for task in ("llm", "vit") for name, bpfp in SINGLE.items()]
    for task in ("llm", "vit"):
        for name, times in (networks | others | changes).items():
            found += curve(name, task, times=times)
    return found + curve("hyperprior-hybrid", "llm-16", times=1.3)


SINGLE = {"levels": 5.5, "blockwise 8 bit, zstd": 7.1}


def values(task: str, scale: float, seed: int) -> TaskValues:
    rng = np.random.default_rng(seed)
    sampled = (scale * rng.laplace(size=20_000)).astype(np.float32)
    sampled[:20] *= 30
    transform = PeakyToBalanced.fit(sampled)
    return TaskValues(
        task=task,
        values=sampled,
        transform=transform,
        trimmed=np.ones(256),
        trimmed_transform=transform,
        channelwise=np.ones(256),
        pca_arranged=np.ones(256),
    )


def distributions() -> Distributions:
    noise = np.random.default_rng(0).exponential(size=192)
    activations = [
        Activation(curve="baseline-hybrid", mean_abs=noise**3 / 10),
        Activation(curve="hyperprior-hybrid", mean_abs=noise),
    ]
    tasks = [values("llm", 1.0, 0), values("vit", 9.0, 1)]
    return distributions_of(tasks, activations, {"llm": 1, "vit": 1})


def test_even_levels_cost_nothing_and_those_of_a_normal_distribution_what_theory_says() -> None:
    even = PeakyToBalanced(np.linspace(-4, 4, 256, dtype=np.float32))
    assert companding_cost(np.ones(256), even) == pytest.approx(0, abs=1e-4)
    sampled = np.random.default_rng(0).standard_normal(1_000_000).astype(np.float32)
    fitted = PeakyToBalanced.fit(sampled)
    counts = np.bincount(fitted.forward(sampled), minlength=256)
    theory = np.log2((2 * np.pi) ** (1 / 3) * 3 ** (1 / 2)) / 2 - np.log2(2 * np.pi * np.e) / 6  # steps as p^(-1/3)
    assert companding_cost(counts, fitted) == pytest.approx(theory, abs=0.04)  # of infinitely many levels


def test_points_come_back_from_json_rounded_to_six_digits(tmp_path: Path) -> None:
    points = [*measured(), point("klt", "llm", 0.123, 1 / 3, 2 / 3)]
    save_points(points, tmp_path / "points.json")
    loaded = load_points(tmp_path / "points.json")
    assert len(loaded) == len(points)
    (one,) = (p for p in loaded if p.rate == 0.123)
    assert one.bpfp_payload == 0.333333
    assert one.accuracy == 0.666667
    save_points(loaded, tmp_path / "again.json")
    assert (tmp_path / "again.json").read_bytes() == (tmp_path / "points.json").read_bytes()


def test_json_is_the_same_whatever_the_order_of_measurement(tmp_path: Path) -> None:
    save_points(measured(), tmp_path / "a.json")
    save_points(measured()[::-1], tmp_path / "b.json")
    assert (tmp_path / "a.json").read_text() == (tmp_path / "b.json").read_text()
    assert list(json.loads((tmp_path / "a.json").read_text())["klt"]["llm"])[:2] == ["0", "0.2"]


def test_two_points_of_one_rate_are_rejected(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="two points of 'levels'"):
        save_points([point("levels", "llm", None, 5.0, 1.0)] * 2, tmp_path / "points.json")


def test_tasks_come_in_the_tables_order_and_unknown_ones_last() -> None:
    assert tasks_of(curve("a", "zzz") + curve("a", "vit") + curve("a", "llm")) == ["llm", "vit", "zzz"]


def test_bd_rate_of_a_curve_against_itself_is_nought() -> None:
    found = bd_rate(curve("a"), curve("a"))
    assert found.percent == pytest.approx(0)
    assert found.span == pytest.approx(1)


def test_bd_rate_at_twice_the_bits_is_a_hundred_percent_more() -> None:
    assert bd_rate(curve("a"), curve("a", times=2)).percent == pytest.approx(100)
    assert bd_rate(curve("a", times=2), curve("a")).percent == pytest.approx(-50)


def test_a_point_that_costs_more_for_less_does_not_move_the_bd_rate() -> None:
    bad = point("a", "llm", 0.9, 2.0, 0.3)
    assert bad not in improving([*curve("a"), bad])
    assert bd_rate(curve("a"), [*curve("a"), bad]).percent == pytest.approx(0)


def test_no_bd_rate_without_four_points_in_a_wide_enough_common_range() -> None:
    narrow = bd_rate(curve("a"), curve("a", top=0.65))
    assert narrow.percent is None
    assert narrow.reason is not None
    assert bd_rate(curve("a"), curve("a")[:3]).percent is None
    disjoint = bd_rate([replace(p, accuracy=p.accuracy / 10) for p in curve("a")], curve("b"))
    assert disjoint.reason == "the common accuracy range is 0% of both curves' range"
    assert bd_rate([], curve("a")).reason == "a curve was not measured"
    assert bd_rate(curve("a")[:1], curve("a")[:1]).percent is None


def test_accuracy_within_a_rate_never_falls_and_is_open_below_the_cheapest_point() -> None:
    points = curve("a")
    assert accuracy_within(points, 0.05) is None
    assert accuracy_within(points, points[2].bpfp_payload) == pytest.approx(points[2].accuracy)
    assert accuracy_within(points, 1000) == pytest.approx(points[-1].accuracy)
    assert accuracy_within([], 1.0) is None


def test_gain_at_equal_rate_has_a_sign_and_needs_a_common_rate() -> None:
    assert mean_gain(curve("a", top=0.8), curve("a")) == pytest.approx(0.19 * 0.86, abs=0.05)
    assert mean_gain(curve("a"), curve("a")) == pytest.approx(0)
    assert mean_gain(curve("a"), curve("a", times=1000)) is None
    assert mean_gain(curve("a"), curve("a")[:1]) is None


def test_a_curve_is_monotone_until_it_falls_by_more_than_noise() -> None:
    points = curve("a")
    assert is_monotone(points)
    assert is_monotone(points[::-1])
    assert is_monotone([*points[:-1], replace(points[-1], accuracy=points[-2].accuracy - 0.009)])
    assert not is_monotone([*points[:-1], replace(points[-1], accuracy=points[-2].accuracy - 0.011)])
    assert not is_monotone([*points[:-1], replace(points[-1], bpfp_payload=0.01)])


def test_many_small_falls_are_no_noise() -> None:
    falling = [replace(p, accuracy=0.9 - 0.008 * i) for i, p in enumerate(curve("a"))]
    assert not is_monotone(falling)


def test_a_useful_curve_reaches_ninety_percent_of_the_best() -> None:
    assert reaches(curve("a"), 0.99)
    assert not reaches(curve("a", top=0.8), 0.99)


def test_equal_histograms_are_at_no_distance() -> None:
    counts = np.array([1.0, 0.0, 7.0, 2.0])
    assert kl_divergence(counts, counts) == 0
    assert kl_divergence(counts, 3 * counts) == pytest.approx(0)


def test_the_divergence_is_in_nats() -> None:
    assert kl_divergence(np.array([1.0, 0.0]), np.array([1.0, 1.0])) == pytest.approx(np.log(2))


@given(st.lists(st.integers(0, 1000), min_size=2, max_size=50))
def test_a_divergence_is_finite_and_not_negative(counts: list[int]) -> None:
    p = np.array([*counts, 1], float)
    assert 0 <= kl_divergence(p, p[::-1]) < 25


def test_the_transform_brings_scaled_copies_together() -> None:
    found = transformed_divergences([values("llm", 1.0, 0), values("vit", 50.0, 0)])
    assert found["llm", "vit"] < 0.1


def test_alignment_flips_with_the_numbers() -> None:
    before, after = {("a", "b"): 3.0, ("b", "a"): 2.0}, {("a", "b"): 0.5, ("b", "a"): 0.6}
    assert aligned(CLAIM, before, after).agrees
    flipped = aligned(CLAIM, before, after | {("b", "a"): 2.5})
    assert flipped.agrees is False
    assert verdict_table([flipped]).rows == [
        ["5.3", "x", "no", "a from b", "3.00 -> 0.50", "yes"],
        ["5.3", "x", "no", "b from a", "2.00 -> 2.50", "no"],
    ]


def test_cheaper_flips_with_the_numbers_and_stays_open_without() -> None:
    points, pairs = [*curve("a"), *curve("b", times=2)], [("llm", "a", "b")]
    assert cheaper(CLAIM, points, pairs).found == "llm -50.0 % bits"
    assert cheaper(CLAIM, points, pairs).word == "yes"
    assert cheaper(CLAIM, points, [("llm", "b", "a")]).agrees is False
    assert cheaper(CLAIM, points, [("vit", "a", "b")]).agrees is None
    assert cheaper(CLAIM, points, []).found == "not measured"


def test_many_findings_are_counted() -> None:
    points = [*curve("a"), *curve("b", times=2)]
    verdict = cheaper(CLAIM, points, [("llm", "a", "b")] * 3 + [("llm", "b", "a")])
    assert verdict.found == "3 of 4 cases"
    assert verdict.agrees is False


def test_where_accuracies_do_not_overlap_equal_rates_decide() -> None:
    low = [replace(p, curve="low", accuracy=p.accuracy / 10) for p in curve("a")]
    verdict = cheaper(CLAIM, [*curve("a"), *low], [("llm", "a", "low")])
    assert verdict.agrees
    assert "accuracy +" in verdict.found
    assert cheaper(CLAIM, [*curve("a"), *low], [("llm", "low", "a")]).agrees is False


def test_what_was_reached_flips_with_the_numbers() -> None:
    fact = {"llm": paper.Reached(bpfp=1.5, share=0.95, source="")}
    assert reached(CLAIM, curve("a"), "a", fact).agrees
    assert reached(CLAIM, curve("a", top=0.9), "a", fact).agrees is False
    assert reached(CLAIM, curve("a", times=100), "a", fact).agrees is None


def test_transfer_flips_when_one_curve_falls_short() -> None:
    assert transfers(CLAIM, measured(), "hyperprior").agrees
    short = [
        replace(p, accuracy=p.accuracy * 0.8) if (p.curve, p.task) == ("hyperprior-llm", "vit") else p
        for p in measured()
    ]
    verdict = transfers(CLAIM, short, "hyperprior")
    assert verdict.agrees is False
    assert "hyperprior-llm on vit" in {f.subject for f in verdict.findings if not f.holds}


def test_truncation_needs_the_papers_gain_on_text() -> None:
    base, ours = curve("base", top=0.4), curve("ours")
    assert accepts_truncated(CLAIM, [*base, *ours], "ours", "base").agrees
    assert accepts_truncated(CLAIM, [*curve("base"), *ours], "ours", "base").agrees is False
    images = [*curve("base", "vit"), *curve("ours", "vit", top=0.985)]
    assert accepts_truncated(CLAIM, images, "ours", "base").agrees
    assert accepts_truncated(CLAIM, [*images[:6], *curve("ours", "vit", top=0.9)], "ours", "base").agrees is False


def test_generalization_needs_a_falling_error() -> None:
    points = curve("a", "cnn", times=0.1, top=1.0)
    fact = paper.Reached(bpfp=0.43, share=0.98, source="")
    assert generalizes(CLAIM, points, "a", ["cnn"], fact).agrees
    assert generalizes(CLAIM, [replace(p, mse=1 / p.mse) for p in points], "a", ["cnn"], fact).agrees is False
    assert generalizes(CLAIM, points, "a", ["tti"], fact).agrees is None


def test_an_even_distribution_is_the_balanced_one() -> None:
    assert entropy(np.array([5.0, 5.0, 5.0, 5.0, 0.0])) == pytest.approx(2.0)
    assert balanced(CLAIM, {"llm": 3.0, "vit": 5.0}, {"llm": 7.0, "vit": 5.1}).agrees
    assert balanced(CLAIM, {"llm": 3.0, "vit": 5.0}, {"llm": 7.0, "vit": 4.9}).agrees is False
    (verdict,) = figure2_section(distributions()).verdicts
    assert verdict.agrees


def test_distributions_are_kept_as_they_are_shown(tmp_path: Path) -> None:
    made, path = distributions(), tmp_path / "distributions.json"
    save_distributions(made, path)
    found = load_distributions(path)
    transformed = transformed_divergences([values("llm", 1.0, 0), values("vit", 9.0, 1)])
    kept = found.divergences["transformed, the paper's levels"]
    assert kept["vit", "llm"] == pytest.approx(transformed["vit", "llm"], rel=1e-5)
    assert found.tasks[1].transform.centroids == pytest.approx(made.tasks[1].transform.centroids, rel=1e-5)
    assert found.tasks[0].counts.sum() == 20_000
    assert [a.curve for a in found.activations] == ["baseline-hybrid", "hyperprior-hybrid"]
    save_distributions(found, tmp_path / "again.json")
    assert (tmp_path / "again.json").read_bytes() == path.read_bytes()


def test_idle_channels_flip() -> None:
    idle, busy = np.array([0.01, 0.01, 1.0, 2.0]), np.array([0.01, 0.5, 1.0, 2.0])
    assert more_active(CLAIM, idle, busy).agrees
    assert more_active(CLAIM, busy, idle).agrees is False
    found = replace(
        distributions(), activations=[Activation(curve=c, mean_abs=y) for c, y in (("a", idle), ("b", busy))]
    )
    assert figure3_section(found).verdicts[0].found.startswith("25% of the channels idle")


def test_the_page_has_a_line_for_every_verdict() -> None:
    sections = sections_of(measured(), distributions())
    page = results_page(measured(), sections)
    verdicts = [verdict for section in sections for verdict in section.verdicts]
    assert all(f"| {verdict.claim.text} | {verdict.found} |" in page for verdict in verdicts)
    assert "Not measured: TTI of SD3, classification of ResNet-50" in page
    assert "`vit` (dinov2-small, split 12) for the paper's Seg of DINOv2" in page
    assert "`llm-16` is smollm2-135m at split 16" in page


def test_a_page_of_no_points_says_so() -> None:
    page = results_page([], sections_of([], distributions()))
    assert "None of the paper's tasks was measured" in page
    assert page.count("not measured") >= 4


def test_rows_of_every_table_have_as_many_cells_as_columns() -> None:
    tables = [table for section in sections_of(measured(), distributions()) for table in section.tables]
    assert len({table.name for table in tables}) == len(tables) == 16
    for table in tables:
        assert {len(row) for row in table.rows} <= {len(table.columns)}, table.name
        assert table.csv().splitlines()[0] == ",".join(table.columns)


def test_the_committed_pages_come_from_the_kept_numbers(tmp_path: Path) -> None:
    for path in RESULTS.glob("*.json"):
        shutil.copy(path, tmp_path)
    write_pages(tmp_path)
    for path in (RESULTS / "README.md", *(RESULTS / "tables").iterdir()):
        assert (tmp_path / path.relative_to(RESULTS)).read_text() == path.read_text(), path.name


def test_later_tasks_need_no_change() -> None:
    points = [
        *measured(),
        *curve("hyperprior-hybrid", "tti"),
        *curve("hyperprior-tti", "llm"),
        *curve("hyperprior-hybrid", "cnn"),
        *curve("kltprior", "cnn"),
    ]
    assert "tti" in {row[0] for row in table2(points).tables[0].rows}
    assert "hyperprior-tti" in {row[1] for row in table4(points).tables[0].rows}
    untrained = [tuple(row[:2]) for row in table6(points).tables[0].rows]
    assert untrained.count(("cnn", "hyperprior-hybrid")) == untrained.count(("cnn", "kltprior")) == 6


def test_points_are_printed_task_by_task_and_curve_by_curve() -> None:
    table = point_table([*curve("klt", "cnn"), *curve("klt", "vit"), point("raw", "cnn", None, 32.0, 1.0)])
    lines = table.markdown().splitlines()
    assert [line.split("|")[1:3] for line in lines[2::6]] == [
        [" vit ", " klt "],
        [" cnn ", " klt "],
        [" cnn ", " raw "],
    ]


def test_points_that_are_kept_are_not_measured_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DTUFC_CACHE", str(tmp_path))  # the setting that a user has for it
    (tmp_path / "results").mkdir()
    paths = [points_path("klt", task) for task in ("vit", "cnn")]
    for task, path in zip(("vit", "cnn"), paths, strict=True):
        save_points(curve("klt", task), path)
    before = [path.stat().st_mtime_ns for path in paths]
    assert {p.task for p in measure("klt", ["cnn", "vit"])} == {"cnn", "vit"}
    assert [p.task for p in measure("klt", ["cnn"])] == ["cnn"] * 6
    assert [path.stat().st_mtime_ns for path in paths] == before


def test_a_shipped_network_needs_no_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DTUFC_CACHE", str(tmp_path))
    names = ("klt", "elic-hybrid", "hyperprior-hybrid, floor", "hyperprior-hybrid, fitted tables", "baseline-hybrid")
    assert [is_trained(name) for name in names] == [True, True, True, False, False]


def test_a_network_that_is_trained_again_remeasures_all_its_curves(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DTUFC_CACHE", str(tmp_path))
    assert of_one_network(["hyperprior-hybrid", "klt"]) == ["hyperprior-hybrid", "klt"]  # as shipped
    run = tmp_path / "runs" / "baseline-hybrid"
    run.mkdir(parents=True)
    (run / "best.ckpt").touch()
    remeasured = of_one_network(["baseline-hybrid", "klt"])
    assert remeasured == ["baseline-hybrid", "baseline-hybrid, transformed features", "klt"]


def test_points_of_another_network_are_kept_elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DTUFC_CACHE", str(tmp_path))
    before = points_path("hyperprior-hybrid", "llm")
    other = tmp_path / "other.safetensors"
    other.write_bytes(b"another network")
    monkeypatch.setattr("dtufc_research.paper.measure.shipped_network", lambda _: other)
    assert points_path("hyperprior-hybrid", "llm") != before
    with pytest.raises(FileNotFoundError):
        points_path("baseline-hybrid", "llm")


def test_how_a_network_was_trained_is_kept_where_it_is_not_trained_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DTUFC_CACHE", str(tmp_path))
    kept = {"baseline-hybrid": {"steps": 4000, "validation_loss": 1.5}}
    path = tmp_path / "networks.json"
    path.write_text(json.dumps(kept), encoding="utf-8")
    run = tmp_path / "runs" / "hyperprior-llm"
    run.mkdir(parents=True)
    best = {"best_model_score": torch.tensor(2.25)}
    state = {"global_step": 1500, "state_dict": {}, "callbacks": {"ModelCheckpoint{'monitor': 'val/loss'}": best}}
    torch.save(state, run / "best.ckpt")
    found = trainings_of([*curve("hyperprior-llm"), *curve("elic-hybrid")], path)
    assert found == {**kept, "hyperprior-llm": {"steps": 1500, "validation_loss": 2.25}}
    assert json.loads(path.read_text(encoding="utf-8")) == found


def test_points_of_another_fit_are_kept_elsewhere(monkeypatch: pytest.MonkeyPatch) -> None:
    before = [points_path(name, "tti") for name in ("klt", "hyperprior-hybrid", "kltprior")]
    profile = load_profile(*PROFILES["tti"])
    refitted = replace(profile, calibration={**profile.calibration, "klt.step": np.ones(1, np.float32)})
    monkeypatch.setattr("dtufc_research.paper.measure.load_profile", lambda *_: refitted)
    after = [points_path(name, "tti") for name in ("klt", "hyperprior-hybrid", "kltprior")]
    assert after[0] != before[0]
    assert after[1] == before[1]  # its network and its plane transform are its own
    assert after[2] != before[2]  # its plane transform is the profile's


def test_table_1_has_every_ordered_pair() -> None:
    (table,) = table1(distributions()).tables
    assert len(table.rows) == 6 * 2  # two ordered pairs in six representations
    assert "natural logarithm" in table.text


def test_every_figure_is_about_1200_pixels_wide(tmp_path: Path) -> None:
    points, noise = measured(), np.random.default_rng(0).exponential(size=192)
    figure2(distributions().tasks, tmp_path / "2.png")
    transformed = Activation(curve="hyperprior-hybrid", mean_abs=noise)
    figure3(Activation(curve="baseline-hybrid", mean_abs=noise**3 / 10), transformed, tmp_path / "3.png")
    figure4(points, tmp_path / "4.png")
    figure5(points, tmp_path / "5.png")
    codec_figure(points, "llm", tmp_path / "6.png")
    for path in tmp_path.glob("*.png"):
        assert int.from_bytes(path.read_bytes()[16:20], "big") == 1200
    assert len(list(tmp_path.glob("*.png"))) == 5
