"""Raw data of scanners: ISMRMRD and fastMRI files keep their place and their holes; what is no raw data is told."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from medfm.errors import ScanError
from medfm.physics.mri import fourier
from medfm.scan import RawData

HEADER = """<?xml version="1.0"?><ismrmrdHeader xmlns="http://www.ismrm.org/ISMRMRD">
<experimentalConditions><H1resonanceFrequency_Hz>63000000</H1resonanceFrequency_Hz></experimentalConditions><encoding>
<encodedSpace><matrixSize><x>40</x><y>24</y><z>1</z></matrixSize><fieldOfView_mm><x>80</x><y>72</y><z>5</z></fieldOfView_mm>
</encodedSpace><reconSpace><matrixSize><x>20</x><y>24</y><z>1</z></matrixSize><fieldOfView_mm><x>40</x><y>72</y><z>5</z>
</fieldOfView_mm></reconSpace><encodingLimits><kspace_encoding_step_1><minimum>0</minimum><maximum>23</maximum>
<center>12</center></kspace_encoding_step_1></encodingLimits><trajectory>cartesian</trajectory></encoding></ismrmrdHeader>"""


def oversampled() -> tuple[np.ndarray, np.ndarray]:
    """Pictures (2 slices, 3 coils, 24, 40) within the middle 20 columns, and their k-space."""
    x = np.zeros((2, 3, 24, 40), dtype=np.complex64)
    x[..., 10:30] = np.random.default_rng(0).normal(size=(2, 3, 24, 20)) + 1
    return x, fourier(torch.from_numpy(x), 2).numpy()


def test_ismrmrd_files_keep_their_place(tmp_path: Path) -> None:
    ismrmrd = pytest.importorskip("ismrmrd")
    x, k = oversampled()
    archive = ismrmrd.Dataset(str(tmp_path / "raw.h5"), "dataset", create_if_needed=True)
    archive.write_xml_header(HEADER)
    for d in range(2):
        for h in range(0, 24, 2):
            line = ismrmrd.Acquisition.from_array(np.ascontiguousarray(k[d, :, h]), center_sample=20)
            line.idx.kspace_encode_step_1, line.idx.slice = h, d
            for name, value in (("read_dir", (1, 0, 0)), ("phase_dir", (0, 1, 0)), ("slice_dir", (0, 0, 1))):
                getattr(line, name)[:] = value
            line.position[:] = (10, 20, 30 + 7 * d)
            archive.append_acquisition(line)
    archive.close()
    raw = RawData.read(tmp_path / "raw.h5")
    assert raw.data.shape == (3, 2, 24, 20) and raw.affine is not None
    assert np.allclose(raw.affine @ [10, 12, 0, 1], [-10, -20, 30, 1])  # the middle of the first slice, LPS to RAS
    assert np.allclose(np.abs(np.diag(raw.affine))[:3], [2, 3, 7])
    assert raw.mask[:, ::2].all() and not raw.mask[:, 1::2].any()
    full = fourier(torch.from_numpy(x[..., 10:30]), 2).numpy()
    assert np.abs(raw.data[:, :, ::2] - np.moveaxis(full, 1, 0)[:, :, ::2]).max() < 1e-3


YAPS = """### ASCCONV BEGIN ###
sKSpace.lBaseResolution = 20
sKSpace.lPhaseEncodingLines = 24
sKSpace.ucDimension = 2
sKSpace.ucTrajectory = {trajectory}
sPat.ucRefScanMode = 2
sSliceArray.asSlice[0].dReadoutFOV = 40.0
sSliceArray.asSlice[0].dPhaseFOV = 72.0
sSliceArray.asSlice[0].dThickness = 5.0
sSliceArray.asSlice[1].dThickness = 5.0
### ASCCONV END ###
"""


def twix(path: Path, k: np.ndarray, *, trajectory: int = 1) -> Path:
    """A Siemens file of (slices, coils, lines, columns): a noise scan, every second line, and lines to calibrate."""
    twixtools = pytest.importorskip("twixtools")
    text = YAPS.format(trajectory=trajectory).encode()
    header = b"MeasYaps\0" + len(text).to_bytes(4, "little") + text
    header = (len(header) + 8).to_bytes(4, "little") + (1).to_bytes(4, "little") + header
    blocks = []
    for d, h, flag in [(0, 0, "NOISEADJSCAN"), *((d, h, "") for d in (0, 1) for h in range(4, 24, 2)),
                       *((d, h, "PATREFSCAN") for d in (0, 1) for h in (11, 13))]:  # fmt: skip
        block = twixtools.mdb.Mdb_local(k[d, :, h])
        if flag:
            block.add_flag(flag)
        block.mdh.Counter.Lin, block.mdh.Counter.Sli = h - 4, d  # partial Fourier: counted from the first line read
        block.mdh.CenterLin, block.mdh.CenterCol = 8, 20
        blocks.append(block)
    scan = {"hdr_str": np.frombuffer(header, dtype="S1"), "mdb": blocks}
    twixtools.write_twix([scan], str(path))
    return path


def test_siemens_files(tmp_path: Path) -> None:
    x, k = oversampled()
    raw = RawData.read(twix(tmp_path / "meas.dat", k))
    assert raw.data.shape == (3, 2, 24, 20) and raw.spacing == (2.0, 3.0, 5.0) and raw.affine is None
    sampled = raw.mask.all((0, 2))
    assert sampled.nonzero()[0].tolist() == sorted([*range(4, 24, 2), 11, 13]) and raw.mask.any((0, 2))[sampled].all()
    full = np.moveaxis(fourier(torch.from_numpy(x[..., 10:30]), 2).numpy(), 1, 0)
    assert np.abs(raw.data[:, :, sampled] - full[:, :, sampled]).max() < 1e-3
    assert "patient" in raw.notes[0]


@pytest.mark.parametrize("how", ["spiral", "cut", "header", "zeros"])
def test_siemens_files_that_cannot_be_read(how: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = twix(tmp_path / "meas.dat", oversampled()[1], trajectory=4 if how == "spiral" else 1)
    content = file.read_bytes()
    broken = {
        "spiral": content, "cut": content[:20000], "header": content[:10300],
        "zeros": content[:12000] + bytes(len(content) - 12000),
    }  # fmt: skip
    file.write_bytes(broken[how])
    capsys.readouterr()  # what the writer printed
    with pytest.raises(ScanError, match="trajectory 4" if how == "spiral" else "damaged|header"):
        RawData.read(file)
    assert not capsys.readouterr().out


def test_siemens_files_without_their_reader(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "twixtools", None)
    (tmp_path / "meas.dat").write_bytes(bytes(20000))
    with pytest.raises(ScanError, match=r"pip install 'medfm\[twix\]'"):
        RawData.read(tmp_path / "meas.dat")


def test_fastmri_files(tmp_path: Path) -> None:
    h5py = pytest.importorskip("h5py")
    x, k = oversampled()
    with h5py.File(tmp_path / "f.h5", "w") as archive:
        archive["kspace"] = np.swapaxes(k, 2, 3)  # fastMRI's readout is the first of the two axes
        archive["mask"] = np.arange(24) % 2 == 0
        archive["ismrmrd_header"] = HEADER
    raw = RawData.read(tmp_path / "f.h5")
    assert raw.data.shape == (3, 2, 20, 24) and raw.spacing == (3.0, 2.0, 5.0)
    assert not raw.mask[..., 1::2].any()
    full = fourier(torch.from_numpy(np.swapaxes(x[..., 10:30], 2, 3).copy()), 2).numpy()
    assert np.abs(raw.data[..., ::2] - np.moveaxis(full, 1, 0)[..., ::2]).max() < 1e-3


@pytest.mark.parametrize(
    ("content", "told"),
    [(b"", "no raw data known"), (b"\x89HDF\r\n\x1a\n", "truncated or damaged"), (b"\x93NUMPY\x01\x00", "truncated")],
)
def test_bad_raw_files_are_told(tmp_path: Path, content: bytes, told: str) -> None:
    pytest.importorskip("h5py")
    (tmp_path / "raw").write_bytes(content)
    with pytest.raises(ScanError, match=told):
        RawData.read(tmp_path / "raw")


def test_real_numbers_are_no_k_space(tmp_path: Path) -> None:
    np.save(tmp_path / "x.npy", np.zeros((4, 4)))
    with pytest.raises(ScanError, match="--sinogram"):
        RawData.read(tmp_path / "x.npy")
    with pytest.raises(ScanError, match="no such file"):
        RawData.read(tmp_path / "nothing.npy")
