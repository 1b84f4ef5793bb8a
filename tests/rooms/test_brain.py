"""Brain MR painted from label maps: the truth that goes with an image is true, on its own side and of its own size."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from small_recipes import label_maps

from medfm.data.brain import Head, read_heads
from medfm.data.lesions import apart, contrast, plant
from medfm.data.synthetic import synthetic_scan
from medfm.errors import ConfigError, ScanError
from medfm.image.synthesis import acquire, blob, random_contrast, random_points, sample_labels


def draws(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@pytest.fixture(scope="module")
def head(tmp_path_factory: pytest.TempPathFactory) -> Head:
    return read_heads(label_maps(tmp_path_factory.mktemp("heads"), count=1))[0]


@pytest.mark.parametrize("volume", [0.5, 4.0, 20.0])
def test_a_lesion_has_the_volume_that_was_asked_for_and_stays_inside(volume: float) -> None:
    inside = torch.zeros(60, 60, 60, dtype=torch.bool)
    inside[10:50, 5:55, 8:52] = True
    mask = blob(inside, spacing=(1, 1, 1), volume=volume, generator=draws())
    assert float(mask.sum()) / 1000 == pytest.approx(volume, abs=0.001)
    assert not (mask & ~inside).any()
    with pytest.raises(ValueError, match="needs"):
        blob(inside, spacing=(1, 1, 1), volume=100, generator=draws())


def test_a_planted_lesion_lies_on_the_side_that_is_told(head: Head) -> None:
    structures = head.targets()[head.labels.long()]
    for seed in range(6):
        planted, (side,) = plant(structures, 1, (1.0, 5.0), head.spacing, draws(seed))
        assert (
            set(structures[planted > 0].tolist())
            <= {"left": {2, 3, 7, 8, 10, 11, 12}, "right": {41, 42, 46, 47, 49, 50, 51}}[side]
        )
        columns = (planted > 0).nonzero()[:, 2].float()  # W runs to the right
        assert (columns.mean() > head.centre[2]) == (side == "right")


@pytest.mark.parametrize("grey", [0.9, 0.1])
def test_contrast_counts_the_deviations_of_what_is_near(grey: float) -> None:
    image = 0.5 + 0.1 * torch.randn(30, 30, 30, generator=draws())
    brain, lesion = torch.ones(30, 30, 30, dtype=torch.bool), torch.zeros(30, 30, 30, dtype=torch.bool)
    lesion[12:17, 12:17, 12:17] = True
    image[:, :, :6] = 20.0  # too far to count
    assert contrast(image, lesion, brain, (1.0, 1.0, 1.0)) < 0.3
    image[lesion] = grey
    assert contrast(image, lesion, brain, (1.0, 1.0, 1.0)) == pytest.approx(4, rel=0.1)


def test_a_healthy_head_has_no_lesions_of_its_own(head: Head) -> None:
    ill = head.labels.clone()
    white = head.values.tolist().index(2)
    place = tuple((head.labels == white).nonzero()[40].tolist())
    ill[place] = len(head.values)
    found = replace(head, labels=ill, values=torch.cat([head.values, torch.tensor([25])])).healthy()
    assert found.labels[place] == white and (found.labels != head.labels).sum() == 0
    assert torch.equal(head.healthy().labels, head.labels)


def test_the_same_generator_paints_the_same_and_half_are_mirrored(head: Head) -> None:
    one, other = (head.sample((24, 24, 24), spacing=6, generator=draws(3)) for _ in range(2))
    assert all(torch.equal(a, b) for a, b in zip(one, other, strict=True))
    image, mask = one
    assert image.min() >= 0 and image.max() <= 1
    for seed in range(8):  # left structures lie to the left, mirrored or not
        _, mask = head.sample((32, 32, 32), spacing=5, generator=draws(seed), shift=0)
        assert (mask == 2).nonzero()[:, 2].float().mean() < (mask == 41).nonzero()[:, 2].float().mean()


def test_left_and_right_look_alike_and_a_lesion_does_not(head: Head) -> None:
    names = head.values.tolist()
    for seed in range(5):
        means, _ = random_contrast(*head.looks(), generator=draws(seed))
        assert means[names.index(2)] == means[names.index(41)]
        assert abs(apart(means[[names.index(2), names.index(3)]], draws(seed)) - means[names.index(2)]) >= 0.149


def test_usual_contrasts_have_the_order_of_t1_t2_or_flair(head: Head) -> None:
    names, found = head.values.tolist(), set()
    white, cortex, fluid = (names.index(value) for value in (2, 3, 4))
    for seed in range(12):
        means, _ = random_contrast(*head.looks(), generator=draws(seed), related=1.0, common=1.0)
        found.add(tuple(np.argsort([float(means[i]) for i in (white, cortex, fluid)]).tolist()))
    assert found == {(2, 1, 0), (0, 1, 2), (2, 0, 1)}  # darkest first


def test_labels_are_sampled_where_the_points_say(head: Head) -> None:
    still = random_points(
        head.labels.shape, spacing=head.spacing, generator=draws(), degrees=0, zoom=0, shear=0, shift=0, warp=0
    )
    middle = tuple((n - 1) / 2 for n in head.labels.shape)
    assert torch.equal(sample_labels(head.labels, still, spacing=head.spacing, centre=middle), head.labels)
    thick = acquire(torch.rand(20, 20, 20), spacing=(1, 1, 1), target=(1, 1, 4), generator=draws())
    assert thick.shape == (20, 20, 5)


def test_a_synthetic_scan_carries_its_truth_on_its_own_grid(head: Head) -> None:
    made = synthetic_scan(head, generator=draws(1), slices=(5.0, 6.0), lesions=1)
    scan, (lesion,) = made.scan, made.lesions
    assert scan.modality == "MR" and made.structures.array.shape == scan.data.shape[1:]
    found = made.lesion_mask.array == 1
    assert found.sum() * made.lesion_mask.voxel_volume / 1000 == pytest.approx(lesion.volume, rel=0.5, abs=0.3)
    w = np.argwhere(found)[:, 2].mean()
    assert (scan.affine[0, 0] * w + scan.affine[0, 3] > 0) == (lesion.side == "right") == (lesion.centre[0] > 0)


def test_what_is_no_head_is_refused(tmp_path: Path) -> None:
    import nibabel

    nibabel.save(nibabel.Nifti1Image(np.ones((8, 8, 8), np.int16), np.eye(4)), tmp_path / "no.nii.gz")
    with pytest.raises(ScanError, match="FreeSurfer"):
        read_heads([str(tmp_path / "no.nii.gz")])
    with pytest.raises(ConfigError, match="label maps"):
        read_heads([])
