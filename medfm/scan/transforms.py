"""Alignments as ITK's transforms and vector images, which count in LPS, and back."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from medfm.errors import ScanError

__all__ = ["read_transform", "write_field", "write_transform"]

LPS = np.diag([-1.0, -1.0, 1.0, 1.0])


Affine = NDArray[np.float64]
Field = NDArray[np.float32]


def write_transform(path: Path, matrix: Affine, field: Field | None, affine: Affine | None) -> None:
    """Write the parts of an `Alignment` for SimpleITK, `antsApplyTransforms -t` and Slicer: fixed to moving, LPS mm.

    A field follows the affine transform in one composite, whose last part is applied first.
    """
    import SimpleITK

    if path.suffix not in (".h5", ".tfm"):
        raise ScanError(f"{path.name}: transforms are written as .h5 or .tfm; end the name so.")
    matrix = LPS @ matrix @ LPS
    linear = SimpleITK.AffineTransform(3)
    linear.SetMatrix(matrix[:3, :3].ravel().tolist())
    linear.SetTranslation(matrix[:3, 3].tolist())
    parts: list[Any] = [linear]
    if field is not None and affine is not None:
        vectors = _vectors(field, affine, SimpleITK.sitkVectorFloat64)
        parts.append(SimpleITK.DisplacementFieldTransform(vectors))
    path.parent.mkdir(parents=True, exist_ok=True)
    SimpleITK.WriteTransform(SimpleITK.CompositeTransform(parts), str(path))


def read_transform(path: Path) -> tuple[Affine, Field | None, Affine | None]:
    """The matrix, field and affine of an `Alignment`, from linear transforms and displacement fields.

    Either may be alone; in a composite the field comes after the linear ones. Raises ScanError for anything else.
    """
    import SimpleITK

    try:
        transform = SimpleITK.ReadTransform(str(path))
    except RuntimeError as error:
        raise ScanError(f"{path.name}: not a transform that ITK reads ({str(error).splitlines()[-1]}).") from None
    if transform.GetDimension() != 3:
        raise ScanError(f"{path.name}: a transform of {transform.GetDimension()} dimensions; expected 3.")
    composite = transform.GetName() == "CompositeTransform"
    parts = [transform]
    if composite:
        stack = SimpleITK.CompositeTransform(transform)
        parts = [stack.GetNthTransform(i) for i in range(stack.GetNumberOfTransforms())]
    matrix, field, affine = np.eye(4), None, None
    for part in parts:
        if field is not None:
            raise ScanError(f"{path.name}: a displacement field that is not applied first; compose it to one field.")
        if part.GetName() == "DisplacementFieldTransform":
            image = SimpleITK.DisplacementFieldTransform(part).GetDisplacementField()
            field, affine = _from_vectors(image)
        elif part.IsLinear():
            matrix = matrix @ _matrix(part)
        else:
            raise ScanError(f"{path.name}: holds a {part.GetName()}; expected linear ones and a displacement field.")
    return LPS @ matrix @ LPS, field, affine


def write_field(path: Path, field: Field, affine: Affine) -> None:
    """(3, D, H, W) RAS mm -> a vector image in LPS; NIfTI gets the shape (W, H, D, 1, 3) and the intent "vector"."""
    import SimpleITK

    if not path.name.endswith((".nii", ".nii.gz", ".mha", ".nrrd")):
        raise ScanError(f"{path.name}: fields are written as NIfTI; end the name in .nii or .nii.gz.")
    path.parent.mkdir(parents=True, exist_ok=True)
    SimpleITK.WriteImage(_vectors(field, affine, SimpleITK.sitkVectorFloat32), str(path))


def _vectors(field: Field, affine: Affine, kind: int) -> Any:
    import SimpleITK

    lps = LPS @ affine
    spacing = np.linalg.norm(lps[:3, :3], axis=0)
    image = SimpleITK.GetImageFromArray(np.ascontiguousarray(field.transpose(1, 2, 3, 0) * [-1, -1, 1]), isVector=True)
    image.SetSpacing(spacing.tolist())
    image.SetOrigin(lps[:3, 3].tolist())
    image.SetDirection((lps[:3, :3] / spacing).ravel().tolist())
    return SimpleITK.Cast(image, kind)


def _from_vectors(image: Any) -> tuple[Field, Affine]:
    import SimpleITK

    values = SimpleITK.GetArrayFromImage(image) * [-1, -1, 1]
    affine = np.eye(4)
    affine[:3, :3] = np.reshape(image.GetDirection(), (3, 3)) * image.GetSpacing()
    affine[:3, 3] = image.GetOrigin()
    return np.ascontiguousarray(values.transpose(3, 0, 1, 2), dtype=np.float32), LPS @ affine


def _matrix(transform: Any) -> Affine:
    """The 4x4 of a linear transform, whatever its parameters: where the origin and the three axes go."""
    origin = np.array(transform.TransformPoint((0.0, 0.0, 0.0)))
    result = np.eye(4)
    for axis in range(3):
        result[:3, axis] = np.array(transform.TransformPoint(tuple(np.eye(3)[axis].tolist()))) - origin
    result[:3, 3] = origin
    return result
