"""Reading a thin-slice CT as a folder of DICOM files, beside SimpleITK on the same files; shape and mean must agree."""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path

import numpy as np
import pydicom
from measure import in_process, show
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import CTImageStorage, ExplicitVRLittleEndian, generate_uid

OURS = """
import sys, time, hashlib
start = time.perf_counter()
from medfm.scan import Scan
scan = Scan.read(sys.argv[1])
seconds = time.perf_counter() - start
import numpy as np
print(scan.data.shape[1:], float(np.mean(scan.data, dtype=np.float64)))
"""
PLAIN = """
import sys, time
start = time.perf_counter()
import SimpleITK as sitk
reader = sitk.ImageSeriesReader()
reader.SetFileNames(reader.GetGDCMSeriesFileNames(sys.argv[1]))
array = sitk.GetArrayFromImage(reader.Execute())
seconds = time.perf_counter() - start
import numpy as np
print(array.shape, float(np.mean(array, dtype=np.float64)))
"""


def write_series(folder: Path, *, slices: int, side: int) -> None:
    """A phantom: a bright cylinder in air with noise, 0.7 x 0.7 x 1 mm, uncompressed, rescaled to HU."""
    rng = np.random.default_rng(0)
    rows, columns = np.mgrid[:side, :side] - side / 2
    body = np.where(rows**2 + columns**2 < (side * 0.4) ** 2, 1064, 0)
    study, series, frame = generate_uid(), generate_uid(), generate_uid()
    for index in range(slices):
        dataset, meta = Dataset(), FileMetaDataset()
        meta.TransferSyntaxUID = ExplicitVRLittleEndian
        meta.MediaStorageSOPClassUID = dataset.SOPClassUID = CTImageStorage
        meta.MediaStorageSOPInstanceUID = dataset.SOPInstanceUID = generate_uid()
        dataset.StudyInstanceUID, dataset.SeriesInstanceUID, dataset.FrameOfReferenceUID = study, series, frame
        dataset.Modality, dataset.PatientName, dataset.PatientID, dataset.InstanceNumber = "CT", "", "", index + 1
        dataset.Rows = dataset.Columns = side
        dataset.PixelSpacing, dataset.SliceThickness = [0.7, 0.7], 1
        dataset.ImageOrientationPatient, dataset.ImagePositionPatient = [1, 0, 0, 0, 1, 0], [0, 0, index]
        dataset.SamplesPerPixel, dataset.PhotometricInterpretation = 1, "MONOCHROME2"
        dataset.BitsAllocated, dataset.BitsStored, dataset.HighBit, dataset.PixelRepresentation = 16, 12, 11, 0
        dataset.RescaleSlope, dataset.RescaleIntercept = 1, -1024
        dataset.PixelData = (body + rng.integers(0, 60, body.shape)).astype("<u2").tobytes()
        dataset.file_meta = meta
        pydicom.dcmwrite(folder / f"{rng.integers(10**9)}.dcm", dataset, enforce_file_format=True)


def main() -> None:
    """Print the table."""
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("--slices", type=int, default=300)
    options.add_argument("--side", type=int, default=512)
    size = options.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        write_series(Path(folder), slices=size.slices, side=size.side)
        in_process(PLAIN, folder)  # the files are in the page cache from here on, for both
        plain, ours = in_process(PLAIN, folder), in_process(OURS, folder)
    if plain[2] != ours[2]:
        raise SystemExit(f"shape and mean differ: SimpleITK {plain[2]}, Scan.read {ours[2]}")
    rows = [("SimpleITK", *plain[:2]), ("Scan.read", *ours[:2])]
    show(f"{size.slices} DICOM files of {size.side} x {size.side}, import of the reader included", rows, against=0)


if __name__ == "__main__":
    main()
