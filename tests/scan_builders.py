"""Small scans of known content, written as the files that the scan tests read back."""

from __future__ import annotations

import struct
import zlib
from pathlib import Path
from typing import Any

import numpy as np

NAME = "SECRETNAME^PATIENT"  # must never be seen outside the Scan's private part
PATIENT_ID = "ID987654"


def phantom(shape: tuple[int, int, int] = (6, 8, 10)) -> np.ndarray:
    """(D, H, W) int16 in which every voxel tells its place: 1000 + 100 d + 10 h + w."""
    d, h, w = np.indices(shape)
    return (1000 + 100 * d + 10 * h + w).astype(np.int16)


def ras_affine(spacing: tuple[float, float, float] = (0.8, 1.2, 2.5), *, angle: float = 0.0) -> np.ndarray:
    """Affine of (w, h, d) to RAS mm, turned by `angle` degrees about the patient's left-right and head axes."""
    a = np.radians(angle)
    about_x = np.array([[1, 0, 0], [0, np.cos(a), -np.sin(a)], [0, np.sin(a), np.cos(a)]])
    about_z = np.array([[np.cos(a / 2), -np.sin(a / 2), 0], [np.sin(a / 2), np.cos(a / 2), 0], [0, 0, 1]])
    affine = np.eye(4)
    affine[:3, :3] = (about_x @ about_z) * spacing
    affine[:3, 3] = (-20.0, 15.0, 40.0)
    return affine


def dicom(pixels: np.ndarray, **elements: Any) -> Any:
    """A minimal valid image with a patient's name in it; `elements` set or (None) remove elements by keyword."""
    from pydicom.dataset import Dataset, FileMetaDataset
    from pydicom.uid import CTImageStorage, ExplicitVRLittleEndian, generate_uid

    ds = Dataset()
    ds.file_meta = FileMetaDataset()
    ds.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    ds.file_meta.MediaStorageSOPClassUID = ds.SOPClassUID = CTImageStorage
    ds.file_meta.MediaStorageSOPInstanceUID = ds.SOPInstanceUID = generate_uid()
    ds.PatientName, ds.PatientID, ds.PatientBirthDate = NAME, PATIENT_ID, "19501231"
    ds.SeriesInstanceUID, ds.StudyInstanceUID, ds.Modality, ds.InstanceNumber = "1.2.3.4", "1.2.3", "CT", 1
    ds.Rows, ds.Columns = pixels.shape[:2]
    ds.SamplesPerPixel = 3 if pixels.ndim == 3 else 1
    ds.PhotometricInterpretation = "RGB" if pixels.ndim == 3 else "MONOCHROME2"
    if pixels.ndim == 3:
        ds.PlanarConfiguration = 0
    ds.BitsAllocated = ds.BitsStored = 8 * pixels.dtype.itemsize
    ds.HighBit = ds.BitsStored - 1
    ds.PixelRepresentation = 1 if pixels.dtype.kind == "i" else 0
    ds.ImagePositionPatient, ds.ImageOrientationPatient = [0, 0, 0], [1, 0, 0, 0, 1, 0]
    ds.PixelSpacing, ds.SliceThickness, ds.RescaleSlope, ds.RescaleIntercept = [0.5, 0.25], 2.0, 1, 0
    ds.PixelData = pixels.tobytes()
    for keyword, value in elements.items():
        if value is None:
            delattr(ds, keyword)
        else:
            setattr(ds, keyword, value)
    return ds


def enhanced(times: int = 1) -> Any:
    """An enhanced CT of 4 x 5 pixels: frames in shuffled order, geometry in the functional groups only; frame k of time
    t holds 10 t + k - 1000 everywhere."""
    from pydicom.dataset import Dataset
    from pydicom.uid import EnhancedCTImageStorage

    frames = [(time, k) for time in range(times) for k in (2, 0, 3, 1)]
    ds = dicom(np.zeros((4, 5), np.int16), NumberOfFrames=len(frames), SOPClassUID=EnhancedCTImageStorage)
    ds.file_meta.MediaStorageSOPClassUID = EnhancedCTImageStorage
    ds.PixelData = b"".join(np.full((4, 5), 10 * time + k, np.int16).tobytes() for time, k in frames)
    del ds.ImagePositionPatient, ds.ImageOrientationPatient, ds.PixelSpacing, ds.SliceThickness
    del ds.RescaleSlope, ds.RescaleIntercept

    def group(**items: dict[str, Any]) -> Any:
        out = Dataset()
        for name, values in items.items():
            inner = Dataset()
            for keyword, value in values.items():
                setattr(inner, keyword, value)
            setattr(out, name, [inner])
        return out

    ds.SharedFunctionalGroupsSequence = [
        group(
            PlaneOrientationSequence={"ImageOrientationPatient": [1, 0, 0, 0, 1, 0]},
            PixelMeasuresSequence={"PixelSpacing": [0.5, 0.25], "SliceThickness": 3},
            PixelValueTransformationSequence={"RescaleSlope": 1, "RescaleIntercept": -1000, "RescaleType": "HU"},
        )
    ]
    ds.PerFrameFunctionalGroupsSequence = [
        group(
            PlanePositionSequence={"ImagePositionPatient": [1, 2, 3 * k]},
            FrameContentSequence={"TemporalPositionIndex": time + 1},
        )
        for time, k in frames
    ]
    return ds


def save(ds: Any, path: Path, *, preamble: bool = True) -> Path:
    """Write a dataset, by default as a proper file."""
    if preamble:
        ds.save_as(path, enforce_file_format=True)
    else:
        meta = ds.file_meta
        del ds.file_meta
        ds.save_as(path, implicit_vr=True, little_endian=True)
        ds.file_meta = meta
    return path


def series(folder: Path, volume: np.ndarray, affine: np.ndarray, *, uid: str = "1.2.3.4", **elements: Any) -> Path:
    """Write canonical (D, H, W) values as one axial series: RAS affine to LPS, names and instance numbers shuffled."""
    folder.mkdir(parents=True, exist_ok=True)
    lps = np.diag([-1.0, -1.0, 1.0, 1.0]) @ affine
    spacing = np.linalg.norm(lps[:3, :3], axis=0)
    axes = lps[:3, :3] / spacing
    order = np.random.default_rng(7).permutation(len(volume))
    for k, plane in enumerate(volume):
        position = lps @ [0, 0, k, 1]
        ds = dicom(
            np.ascontiguousarray(plane),
            ImagePositionPatient=[float(f"{v:.8f}") for v in position[:3]],
            ImageOrientationPatient=[float(f"{v:.8f}") for v in (*axes[:, 0], *axes[:, 1])],
            PixelSpacing=[float(spacing[1]), float(spacing[0])],
            SliceThickness=float(spacing[2]),
            InstanceNumber=int(order[k]) + 1,
            SeriesInstanceUID=uid,
        )
        for keyword, value in elements.items():
            setattr(ds, keyword, value)
        save(ds, folder / f"IM{order[k]:04d}")
    return folder


def nifti(path: Path, volume: np.ndarray, affine: np.ndarray) -> Path:
    """Write canonical (D, H, W) values with nibabel."""
    import nibabel

    nibabel.save(nibabel.Nifti1Image(volume.transpose(2, 1, 0), affine), path)
    return path


def itk_image(volume: np.ndarray, affine: np.ndarray) -> Any:
    """Canonical (D, H, W) values as a SimpleITK image in LPS."""
    import SimpleITK

    lps = np.diag([-1.0, -1.0, 1.0, 1.0]) @ affine
    spacing = np.linalg.norm(lps[:3, :3], axis=0)
    image = SimpleITK.GetImageFromArray(volume)
    image.SetSpacing(spacing.tolist())
    image.SetDirection((lps[:3, :3] / spacing).ravel().tolist())
    image.SetOrigin(lps[:3, 3].tolist())
    return image


def itk(path: Path, volume: np.ndarray, affine: np.ndarray, *, packed: bool = False) -> Path:
    """Write canonical (D, H, W) values with SimpleITK, by the ending of the path."""
    import SimpleITK

    SimpleITK.WriteImage(itk_image(volume, affine), str(path), packed)
    return path


def png_header(width: int, height: int) -> bytes:
    """A PNG that promises a size and holds next to nothing."""
    body = b"IHDR" + struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    data = b"IDAT" + zlib.compress(b"\0" * 10)
    chunks = (body, data, b"IEND")
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(chunk) - 4) + chunk + struct.pack(">I", zlib.crc32(chunk)) for chunk in chunks
    )
