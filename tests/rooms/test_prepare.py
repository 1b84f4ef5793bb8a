"""prepare(scan): windows, spacing and padding, the same numbers everywhere."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from medfm.errors import ConfigError
from medfm.grid import GridPrepare
from medfm.image.intensity import CT_WINDOWS
from medfm.prepare import Prepare
from medfm.scan import Scan


def ct(shape: tuple[int, int, int], spacing: tuple[float, float, float] = (1, 1, 2), value: float = 0) -> Scan:
    data = np.full(shape, value, np.int16)
    return Scan.from_array(data, affine=np.diag([*spacing, 1]), modality="CT", units="HU")


def test_ct_becomes_three_windows_of_hounsfield_units() -> None:
    x = Prepare(size=64, windows=CT_WINDOWS)(ct((1, 64, 64), value=50)).x
    assert x[:, 0, 32, 32].tolist() == pytest.approx([(50 + 1350) / 1500, 0.5, (50 + 500) / 1800], abs=1e-4)


def test_ct_in_grey_is_shown_as_teaching_sets_show_it() -> None:
    """Slices with lungs in the window of lungs, others, also on a mattress of foam, in that of soft tissue."""
    rows, columns = np.mgrid[:128, :128]
    body = ((rows - 64) / 45) ** 2 + ((columns - 64) / 58) ** 2 < 1
    plain = np.where(body, 50, -1000).astype(np.int16)
    lungs, foam = plain.copy(), plain.copy()
    for middle in (40, 88):
        lungs[((rows - 64) / 25) ** 2 + ((columns - middle) / 16) ** 2 < 1] = -850
    foam[111:113], foam[113:125], foam[125:127] = 0, -850, 0
    x = Prepare(size=128)(
        Scan.from_array(np.stack([plain, lungs, foam]), affine=np.eye(4), modality="CT", units="HU")
    ).x
    assert torch.equal(x[0], x[1]) and torch.equal(x[0], x[2])
    soft, lung = (50 + 150) / 400, (50 + 1250) / 1500
    assert x[0, :, 64, 64].tolist() == pytest.approx([soft, lung, soft], abs=1e-3)


def test_a_long_volume_is_averaged_so_no_slice_is_lost() -> None:
    data = np.zeros((50, 64, 64), np.int16)
    data[37] = 1000
    prepared = Prepare(size=64, max_slices=8)(
        Scan.from_array(data, affine=np.diag([1, 1, 2, 1]), modality="CT", units="HU")
    )
    assert prepared.x.shape == (3, 8, 64, 64)
    bright = prepared.x[2].amax((1, 2))
    assert int(bright.argmax()) == 37 * 8 // 50 and bright.max() > bright.min()
    assert prepared.spacing.tolist() == pytest.approx([2 * 50 / 8, 1, 1])


def test_slab_means_are_exact_for_uneven_slabs() -> None:
    values = np.arange(10, dtype=np.int16) * 10
    data = np.broadcast_to(values[:, None, None], (10, 64, 64)).copy()
    scan = Scan.from_array(data, affine=np.diag([1, 1, 3, 1]), modality="CT", units="HU")
    x = Prepare(size=64, max_slices=4, windows=CT_WINDOWS)(scan).x[2, :, 32, 32] * 1800 - 500
    assert x.tolist() == pytest.approx([8, 32.0, 58, 82], abs=0.1)


def test_aspect_is_kept_and_padding_is_black() -> None:
    prepared = Prepare(size=64)(Scan.from_array(np.full((32, 128), 200, np.uint8)))
    assert prepared.offset == (24, 0) and prepared.scale == 0.5
    assert prepared.x[:, 0, :24].max() == 0 and prepared.x[0, 0, 32, 32] == pytest.approx(200 / 255, abs=1e-3)


def test_unknown_spacing_takes_the_nominal_field_of_view() -> None:
    prepared = Prepare(size=64, field_of_view=320)(Scan.from_array(np.zeros((128, 64), np.uint8)))
    assert prepared.spacing.tolist()[1:] == pytest.approx([5, 5])


def test_one_voxel_is_read_as_any_volume() -> None:
    """numpy keeps the negative strides of a flipped axis of one voxel, which torch refuses."""
    scan = Scan.from_array(np.ones((1, 1, 1), np.float32), affine=np.eye(4))
    assert Prepare(size=64)(scan).x.shape == (3, 1, 64, 64)


def test_photographs_keep_their_colours() -> None:
    picture = np.zeros((64, 64, 3), np.uint8)
    picture[..., 0] = 255
    assert Prepare(size=64)(Scan.from_array(picture)).x[:, 0, 9, 9].tolist() == [1, 0, 0]


def test_robust_scaling_ignores_hot_voxels() -> None:
    data = np.random.default_rng(0).uniform(0, 100, (4, 64, 64)).astype(np.float32)
    data[0, 0, 0] = 1e6
    x = Prepare(size=64)(Scan.from_array(data, affine=np.diag([1, 1, 5, 1]), modality="MR")).x
    assert 0.4 < x.mean() < 0.6


def test_scale_of_intensities_without_a_unit_does_not_matter() -> None:
    data = np.random.default_rng(0).uniform(0, 100, (4, 64, 64)).astype(np.float32)
    a, b = (Prepare(size=64)(Scan.from_array(data * s, affine=np.diag([1, 1, 5, 1]), modality="MR")).x for s in (1, 37))
    torch.testing.assert_close(a, b, atol=1e-4, rtol=1e-4)


def test_saved_and_loaded_is_the_same() -> None:
    prepare = Prepare(size=128, max_slices=7)
    assert Prepare.from_dict(prepare.to_dict()) == prepare


def test_wrong_sizes_are_refused() -> None:
    with pytest.raises(ConfigError, match="multiple of 64"):
        Prepare(size=100)


@pytest.mark.parametrize("value", [np.uint64(2**63), np.float32(1e30), np.float32(-1e30), np.int16(-1000), np.uint8(0)])
@pytest.mark.parametrize("intensity", ["range", "zscore", "windows"])
def test_a_constant_scan_of_any_size_of_number_is_finite(value: np.generic, intensity: str) -> None:
    scan = Scan.from_array(np.full((2, 40, 40), value), spacing=1.0)
    numbers = GridPrepare(intensity=intensity, channels=3)(scan).numbers()  # type: ignore[arg-type]
    assert bool(numbers.isfinite().all())
