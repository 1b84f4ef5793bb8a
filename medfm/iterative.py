"""Registration by search instead of a network: rigid, affine, B-spline and demons, by SimpleITK.

Any two scans of one part of the body, of any contrast: the measure is mutual information unless asked for otherwise.
Deterministic: the same scans give the same alignment.
"""

from __future__ import annotations

import math
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, Literal

import numpy as np
import SimpleITK
from numpy.typing import NDArray

from medfm.errors import DataError
from medfm.progress import counting
from medfm.scan import Alignment, Scan

__all__ = ["METHODS", "iterate", "starting"]

Method = Literal["rigid", "affine", "bspline", "demons"]
Likeness = Literal["mi", "ncc"]
Matrix = NDArray[np.float64]

METHODS: tuple[Method, ...] = ("rigid", "affine", "bspline", "demons")
_STEPS = {"linear": 150, "bspline": 60, "demons": 50}  # of a search at each level, at most
_SAMPLES = 50_000  # voxels that a step of the search looks at
_VOXELS = 4_000_000  # of an image in memory; larger scans are searched at coarser voxels
_LPS = np.diag([-1.0, -1.0, 1.0, 1.0])


def iterate(
    moving: Scan, fixed: Scan, *, method: Method = "affine", likeness: Likeness = "mi", start: Matrix | None = None,
) -> Alignment:  # fmt: skip
    """Search for the alignment of `fixed` to `moving`, from coarse to fine.

    rigid: turn and shift. affine: after it also scales and shears. bspline: after these a free-form deformation of
    control points every 10 mm or more (Rueckert et al. 1999), likeness as below. demons: after these the diffeomorphic
    demons (Vercauteren et al. 2009), which compare intensities after matching histograms: for one contrast only.
    likeness: "mi", Mattes' mutual information of 32 bins, or "ncc", correlation, for scans of one contrast.
    start: 4x4 from fixed to moving RAS mm; default: the centres of the fields of view upon each other, or the headers
    where these agree better.

    Pictures (one slice) are registered in their plane.

    Raises:
        DataError: a scan is of one value only, a picture and a volume, one sagittal or coronal slice, or the search
        found no overlap.
    """
    flat = {scan.data.shape[1] == 1 for scan in (moving, fixed)}
    if len(flat) > 1:
        raise DataError("one scan is a picture of one slice, the other a volume; two of a kind can be registered")
    if any(1 in scan.data.shape[2:] for scan in (moving, fixed)):
        raise DataError("a single sagittal or coronal slice has no volume to search in; give more slices of it")
    a, b = (_image(scan, flat=flat == {True}) for scan in (moving, fixed))
    first = starting(moving, fixed) if start is None else start
    try:
        found = _linear(a, b, first, affine=method != "rigid", likeness=likeness)
        if method in ("rigid", "affine"):
            return Alignment(found, method=method)
        search = _bspline if method == "bspline" else _demons
        field = search(a, b, found, likeness)
    except RuntimeError as error:
        said = str(error).splitlines()[-1].partition("): ")
        raise DataError(f"{method} found no way from one scan to the other: {said[2] or said[0]}") from None
    vectors = SimpleITK.GetArrayFromImage(field)
    if flat == {True}:
        vectors = np.concatenate([vectors, np.zeros_like(vectors[..., :1])], -1)[None]
    moved = np.einsum("ij,dhwj->idhw", b.frame[:3, :3], vectors)
    return Alignment(found, np.ascontiguousarray(moved, dtype=np.float32), _grid(b), method)


def starting(moving: Scan, fixed: Scan, *, header: bool | None = None) -> Matrix:
    """4x4 from fixed to moving RAS mm that moves nothing (`header`) or lays the centres upon each other.

    header None: the one under which the scans correlate better, if both know their place in the patient.
    """
    still, centred = np.eye(4), np.eye(4)
    centres = [s.affine @ [*((np.array(s.data.shape[:0:-1]) - 1) / 2), 1] for s in (moving, fixed)]
    centred[:3, 3] = (centres[0] - centres[1])[:3]
    if header is not None:
        return still if header else centred
    if moving.frame == "image" or fixed.frame == "image":
        return centred
    likeness = [_correlation(moving, fixed, matrix) for matrix in (still, centred)]
    return still if likeness[0] >= likeness[1] and likeness[0] > -1 else centred


class _Image:
    """A scan as SimpleITK wants it, and the 4x4 `frame` from its points to RAS mm."""

    def __init__(self, image: Any, frame: Matrix) -> None:
        self.image, self.frame = image, frame


def _image(scan: Scan, *, flat: bool) -> _Image:
    array = scan.data.astype(np.float32).mean(0)
    if array.min() == array.max():
        raise DataError("a scan has the same value everywhere; there is nothing to register")
    spacing = np.array(scan.spacing)
    if flat:
        image = SimpleITK.GetImageFromArray(array[0])
        image.SetSpacing(spacing[:2].tolist())
        return _Image(_bounded(image), scan.affine @ np.diag([*(1 / spacing), 1.0]))
    image = SimpleITK.GetImageFromArray(array)
    lps = _LPS @ scan.affine
    image.SetSpacing(spacing.tolist())
    image.SetOrigin(lps[:3, 3].tolist())
    image.SetDirection((lps[:3, :3] / spacing).ravel().tolist())
    return _Image(_bounded(image), _LPS)


def _bounded(image: Any) -> Any:
    count, n = image.GetNumberOfPixels(), image.GetDimension()
    return _shrunk(image, math.ceil((count / _VOXELS) ** (1 / n)))


def _grid(of: _Image) -> Matrix:
    """4x4 from the index (w, h, d) of an image to RAS mm."""
    n = of.image.GetDimension()
    inside = np.eye(4)
    inside[:n, :n] = np.reshape(of.image.GetDirection(), (n, n)) * of.image.GetSpacing()
    inside[:n, 3] = of.image.GetOrigin()
    return of.frame @ inside


def _linear(a: _Image, b: _Image, first: Matrix, *, affine: bool, likeness: Likeness) -> Matrix:
    """The 4x4 in RAS: `first`, then turns and shifts, then all twelve numbers."""
    n = b.image.GetDimension()
    middle = b.image.TransformContinuousIndexToPhysicalPoint([(s - 1) / 2 for s in b.image.GetSize()])
    transform: Any = SimpleITK.Euler2DTransform() if n == 2 else SimpleITK.Euler3DTransform()
    transform.SetCenter(middle)
    given = _itk_affine(np.linalg.inv(a.frame) @ first @ b.frame, n)
    for stage in ("rigid", "affine") if affine else ("rigid",):
        if stage == "affine":
            wider = SimpleITK.AffineTransform(n)
            wider.SetCenter(middle)
            wider.SetMatrix(transform.GetMatrix())
            wider.SetTranslation(transform.GetTranslation())
            transform = wider
        search = _search(b, likeness)
        search.SetOptimizerAsRegularStepGradientDescent(
            learningRate=1.0, minStep=1e-3, numberOfIterations=_STEPS["linear"], relaxationFactor=0.6
        )
        search.SetOptimizerScalesFromPhysicalShift()
        search.SetMovingInitialTransform(given)
        search.SetInitialTransform(transform, inPlace=True)
        step = counting(_STEPS["linear"] * len(_levels(b.image.GetSize())))
        _told(search, search.StopRegistration, step, b.image, a.image)
    return a.frame @ _four(given) @ _four(transform) @ np.linalg.inv(b.frame)


def _search(b: _Image, likeness: Likeness) -> Any:
    search = SimpleITK.ImageRegistrationMethod()
    search.SetNumberOfWorkUnits(1)  # several add up in the order in which they end: never twice the same
    if likeness == "mi":
        search.SetMetricAsMattesMutualInformation(32)
    else:
        search.SetMetricAsCorrelation()
    share = min(1.0, _SAMPLES / b.image.GetNumberOfPixels())
    search.SetMetricSamplingStrategy(search.REGULAR if share < 1 else search.NONE)
    search.SetMetricSamplingPercentage(share, 1)
    search.SetInterpolator(SimpleITK.sitkLinear)
    factors = _levels(b.image.GetSize())
    search.SetShrinkFactorsPerLevel(factors)
    search.SetSmoothingSigmasPerLevel([float(f - 1) if min(b.image.GetSize()) > 3 else 0.0 for f in factors])
    search.SmoothingSigmasAreSpecifiedInPhysicalUnitsOff()
    return search


def _levels(size: tuple[int, ...]) -> list[int]:
    """Shrink factors, coarse first, that leave eight voxels along each axis."""
    return [f for f in (4, 2) if min(size) // f >= 8] + [1]


def _bspline(a: _Image, b: _Image, linear: Matrix, likeness: Likeness) -> Any:
    n = b.image.GetDimension()
    extent = [s * mm for s, mm in zip(b.image.GetSize(), b.image.GetSpacing(), strict=True)]
    search = _search(b, likeness)
    levels = len(_levels(b.image.GetSize()))
    mesh = [max(1, min(8, round(mm / 10 / 2 ** (levels - 1)))) for mm in extent]  # doubled at each finer level
    transform = SimpleITK.BSplineTransformInitializer(b.image, mesh, order=3)
    search.SetMovingInitialTransform(_itk_affine(np.linalg.inv(a.frame) @ linear @ b.frame, n))
    search.SetInitialTransformAsBSpline(transform, inPlace=True, scaleFactors=[2**i for i in range(levels)])
    search.SetOptimizerAsLBFGS2(
        solutionAccuracy=1e-4, numberOfIterations=_STEPS["bspline"], deltaConvergenceTolerance=1e-3
    )
    _told(search, search.StopRegistration, counting(_STEPS["bspline"] * levels), b.image, a.image)
    return _as_field(transform, b.image)


def _told(search: Any, stop: Callable[[], Any], step: Callable[[], None], *given: Any) -> Any:
    """What `search` makes of `given`, each of its steps told by `step`. What that raises ends the search by `stop`, and
    so does Ctrl-C: an error must not cross SimpleITK, which would print it and raise one of its own."""
    raised: list[BaseException] = []

    def tell() -> None:
        try:
            if not raised:
                step()
        except Exception as error:
            raised.append(error)
        if raised:  # at each level anew
            stop()

    search.AddCommand(SimpleITK.sitkIterationEvent, tell)
    try:
        with _interrupts(lambda: raised.append(KeyboardInterrupt())):
            return search.Execute(*given)
    finally:
        search.RemoveAllCommands()
        if raised:
            raise raised[0]


@contextmanager
def _interrupts(heard: Callable[[], None]) -> Iterator[None]:
    """Within it, Ctrl-C calls `heard` instead of raising where nothing can catch it. Signals reach the main thread."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGINT, lambda *_: heard())
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


def _demons(a: _Image, b: _Image, linear: Matrix, likeness: Likeness) -> Any:
    n = b.image.GetDimension()
    moved = SimpleITK.Resample(
        a.image, b.image, _itk_affine(np.linalg.inv(a.frame) @ linear @ b.frame, n), SimpleITK.sitkLinear
    )
    moved = SimpleITK.HistogramMatching(moved, b.image, 256, 7, thresholdAtMeanIntensity=False)
    demons = SimpleITK.DiffeomorphicDemonsRegistrationFilter()
    demons.SetNumberOfIterations(_STEPS["demons"])
    demons.SetSmoothDisplacementField(True)
    demons.SetStandardDeviations(1.5)
    field, levels = None, _levels(b.image.GetSize())
    step = counting(_STEPS["demons"] * len(levels))
    for factor in levels:
        one, other = (_shrunk(image, factor) for image in (b.image, moved))
        given: list[Any] = [] if field is None else [SimpleITK.Resample(field, one)]
        field = _told(demons, demons.Abort, step, one, other, *given)
    return field


def _shrunk(image: Any, factor: int) -> Any:
    if factor == 1:
        return image
    smooth = SimpleITK.SmoothingRecursiveGaussian(image, [0.5 * factor * mm for mm in image.GetSpacing()])
    return SimpleITK.Shrink(smooth, [factor] * image.GetDimension())


def _as_field(transform: Any, like: Any) -> Any:
    return SimpleITK.TransformToDisplacementField(
        transform, SimpleITK.sitkVectorFloat64, like.GetSize(), like.GetOrigin(), like.GetSpacing(), like.GetDirection()
    )


def _itk_affine(matrix: Matrix, n: int) -> Any:
    transform = SimpleITK.AffineTransform(n)
    transform.SetMatrix(matrix[:n, :n].ravel().tolist())
    transform.SetTranslation(matrix[:n, 3].tolist())
    return transform


def _four(transform: Any) -> Matrix:
    """The 4x4 of a linear transform about any centre."""
    n = transform.GetDimension()
    matrix, centre = np.reshape(transform.GetMatrix(), (n, n)), np.array(transform.GetCenter())
    result = np.eye(4)
    result[:n, :n] = matrix
    result[:n, 3] = transform.GetTranslation() + centre - matrix @ centre
    return result


def _correlation(moving: Scan, fixed: Scan, matrix: Matrix) -> float:
    """Of the voxels of `fixed`, some 4000 of them, that lie in `moving`; -1 for too few."""
    from scipy.ndimage import map_coordinates

    shape = np.array(fixed.data.shape[1:])
    axes = [np.unique(np.linspace(0, s - 1, 16).round().astype(int)) for s in shape]
    d, h, w = (part.ravel() for part in np.meshgrid(*axes, indexing="ij"))
    way = np.linalg.inv(moving.affine) @ matrix @ fixed.affine
    index = (way @ np.stack([w, h, d, np.ones_like(w)]))[:3][::-1]
    inside = ((index > -0.5) & (index < np.array(moving.data.shape[1:])[:, None] - 0.5)).all(0)
    if inside.mean() < 0.03:  # a slab of a few slices in a whole trunk is more than that
        return -1.0
    one = map_coordinates(moving.data[0], index[:, inside], output=np.float32, order=1, mode="nearest")
    other = fixed.data[0][d, h, w][inside].astype(np.float32)
    if one.std() == 0 or other.std() == 0:
        return -1.0
    return float(np.corrcoef(one, other)[0, 1])
