"""Answer metrics: examples a person would agree with, laws, and figures computed by hand."""

import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy import ndimage
from scipy.spatial.distance import cdist

from medfm import metrics
from medfm.evaluate.markdown import interval, minutes, print_table, with_ablation
from medfm.evaluate.overlap import agreement

LATIN = st.text(st.characters(max_codepoint=0x24F))


@pytest.mark.parametrize(
    ("said", "truth"),
    [
        ("Yes.", "yes"),
        ("the left lung", "Left Lung"),
        ("T2-weighted", "t2 weighted"),
        ("two", "2"),
        ("Liver, Heart", "liver heart"),
        ("  a   CT ", "CT"),
        ("The", "the"),
        ("ＭＲＩ", "MRI"),
    ],
)
def test_same_answer(said: str, truth: str) -> None:
    assert metrics.exact_match(said, truth) == 1.0


@pytest.mark.parametrize(("said", "truth"), [("1.5", "15"), ("left", "right"), ("", "yes"), ("no", "not")])
def test_other_answer(said: str, truth: str) -> None:
    assert metrics.exact_match(said, truth) == 0.0


@given(LATIN)
def test_normalising_twice_changes_nothing(text: str) -> None:
    once = metrics.normalise_answer(text)
    assert metrics.normalise_answer(once) == once
    assert once == " ".join(once.split())


@given(LATIN, LATIN)
def test_token_f1_is_symmetric_bounded_and_one_where_exact(a: str, b: str) -> None:
    assert 0.0 <= metrics.token_f1(a, b) == metrics.token_f1(b, a) <= 1.0
    assert metrics.token_f1(a, a) == 1.0
    assert metrics.exact_match(a, b) <= metrics.token_f1(a, b)


def test_token_f1_by_hand() -> None:
    assert metrics.token_f1("left upper lobe", "upper lobe") == pytest.approx(2 * (2 / 3) * 1 / (2 / 3 + 1))
    assert metrics.token_f1("heart heart", "heart") == pytest.approx(2 / 3)  # a repeated word is counted once


@given(st.lists(st.tuples(st.integers(0, 5), st.booleans()), min_size=1, max_size=60))
def test_interval_holds_the_mean_and_repeats(rows: list[tuple[int, bool]]) -> None:
    clusters, scores = [r[0] for r in rows], [float(r[1]) for r in rows]
    one = metrics.bootstrap_interval(scores, clusters, resamples=200)
    assert one == metrics.bootstrap_interval(scores, clusters, resamples=200)
    assert min(scores) <= one.low <= one.high <= max(scores)
    assert one.value == pytest.approx(np.mean(scores))
    assert one.n == len(rows)


def test_images_are_resampled_not_questions() -> None:
    """Ten questions about one image say as much as one: the interval must not shrink when rows are repeated."""
    scores = [1.0, 0.0, 1.0, 1.0, 0.0, 1.0, 1.0, 0.0]
    images = list(range(8))
    single = metrics.bootstrap_interval(scores, images)
    repeated = metrics.bootstrap_interval(np.repeat(scores, 10), [i for i in images for _ in range(10)])
    assert (repeated.low, repeated.high) == pytest.approx((single.low, single.high))
    as_if_independent = metrics.bootstrap_interval(np.repeat(scores, 10), range(80))
    assert as_if_independent.high - as_if_independent.low < single.high - single.low


def test_interval_has_about_its_level() -> None:
    """95 % intervals of a known mean hold it in about 95 % of repeated experiments."""
    random = np.random.default_rng(0)
    hits = 0
    for seed in range(200):
        interval = metrics.bootstrap_interval(random.random(100) < 0.7, range(100), resamples=400, seed=seed)
        hits += interval.low <= 0.7 <= interval.high
    assert 0.9 <= hits / 200 <= 0.99


def test_nothing_measured_is_said_so() -> None:
    empty = metrics.bootstrap_interval([], [])
    assert math.isnan(empty.value)
    assert empty.as_dict() == {"value": None, "low": None, "high": None, "n": 0}


def test_lengths_must_agree() -> None:
    with pytest.raises(ValueError, match="one name per score"):
        metrics.bootstrap_interval([1.0], ["a", "b"])


def test_calibration() -> None:
    assert metrics.expected_calibration_error([1.0, 1.0], [1.0, 1.0]) == pytest.approx(0.0)
    assert metrics.expected_calibration_error([0.9] * 10, [1.0] * 5 + [0.0] * 5) == pytest.approx(0.4, abs=1e-6)
    with pytest.raises(ValueError, match=r"outside 0\.\.1"):
        metrics.expected_calibration_error([1.2], [1.0])
    with pytest.raises(ValueError, match="non-zero"):
        metrics.expected_calibration_error([], [])


def test_dice_of_label_maps_by_hand() -> None:
    truth, found = torch.tensor([[0, 1, 1], [2, 2, 0]]), torch.tensor([[0, 1, 2], [2, 2, 2]], dtype=torch.uint8)
    one, two, three = metrics.label_dice(found, truth, 3).tolist()
    assert (one, two) == pytest.approx((2 / 3, 4 / 6)) and math.isnan(three)
    assert metrics.dice((found == 2).numpy(), (truth == 2).numpy()) == pytest.approx(two)
    assert metrics.dice(np.zeros(3, bool), np.zeros(3, bool)) == 0


@pytest.mark.parametrize("flat", [False, True])
def test_surface_distances_are_those_of_all_pairs_of_border_voxels(flat: bool) -> None:
    spacing = (3.0, 1.0, 0.5)
    place = np.indices((1, 24, 24) if flat else (8, 24, 24)).astype(float)
    balls = []
    for middle, radii in (((0 if flat else 4, 10, 9), (3, 7, 6)), ((0 if flat else 4, 12, 12), (3, 5, 8))):
        away = [(axis - m) / r for axis, m, r in zip(place, middle, radii, strict=True)]
        balls.append(np.square(away).sum(0) < 1)
    borders = []
    for ball in balls:
        kernel = ndimage.generate_binary_structure(3, 1)
        kernel[[0, 2]] &= not flat  # a picture has no surface above and below
        borders.append(np.argwhere(ball & ~ndimage.binary_erosion(ball, kernel)) * spacing)
    apart = cdist(*borders)
    there, back = apart.min(1), apart.min(0)
    found = agreement(*(ball.astype(np.uint8) for ball in balls), spacing=spacing, labels=["ball"])["ball"]
    assert found["hd95"] == pytest.approx(max(np.percentile(there, 95), np.percentile(back, 95)))
    near = (there <= 1).sum() + (back <= 1).sum()
    assert 0 < near < len(there) + len(back) and found["nsd"] == pytest.approx(near / (len(there) + len(back)))
    assert found["volume_ml"] == pytest.approx(balls[0].sum() * 1.5 / 1000)


def test_risk_and_coverage_by_hand() -> None:
    curve = metrics.risk_coverage([0.9, 0.8, 0.3], [1, 0, 1])
    told = [(row["threshold"], row["coverage"], row["risk"]) for row in curve]
    assert np.allclose(told, [(0.3, 1, 1 / 3), (0.8, 2 / 3, 1 / 2), (0.9, 1 / 3, 0)])


def test_figures_become_a_table_that_markdown_reads(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    figure = metrics.bootstrap_interval([0.5, 0.7], ["a", "b"]).as_dict()
    progress = tmp_path / "unet" / "checkpoint" / "progress.json"
    progress.parent.mkdir(parents=True)
    progress.write_text(json.dumps({"spent": 90.0}))
    rows = [("unet", interval(figure, digits=2), minutes(tmp_path, "unet")), ("vnet", "", minutes(tmp_path, "vnet"))]
    print_table(("recipe", "Dice", "minutes"), rows)
    expected = [
        "| recipe | Dice | minutes |",
        "|---|---|---|",
        "| unet | 0.60 (0.50 to 0.70) | 1.5 |",
        "| vnet |  |  |",
    ]
    assert capsys.readouterr().out.splitlines() == expected


def test_an_ablation_is_named_beside_its_network(tmp_path: Path) -> None:
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "metrics.json").write_text(json.dumps({"name": name}))
    assert with_ablation(f"{tmp_path}/a={tmp_path}/b") == ({"name": "a"}, {"name": "b"})
    assert with_ablation(f"{tmp_path}/b") == ({"name": "b"}, None)
