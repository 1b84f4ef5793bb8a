"""What a scan shows as a whole: calibrated probabilities, what holds at the operating points, and where it was seen."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from medfm.errors import ConfigError
from medfm.grid import blank
from medfm.predict.called import verb
from medfm.scan import Scan, Scores

if TYPE_CHECKING:
    from medfm.classifier import Classifier

__all__ = ["classify", "explain"]


@verb
def classify(model: Classifier | Sequence[Classifier], scan: Scan) -> Scores:
    """The probability of each of `model.labels`, and which are called present at the model's two operating points.

    Of several models, trained from different starts, the mean of the probabilities (Gulshan et al. 2016 take ten); they
    have to know the same labels, else ConfigError. The operating points are then the mean of theirs.
    """
    models = [model] if not isinstance(model, Sequence) else list(model)
    labels = models[0].labels
    if wrong := [m.name for m in models if m.labels != labels]:
        raise ConfigError(f"{wrong[0]!r} knows other labels than {models[0].name!r}: {labels}; expected the same")
    p = np.mean([m.probabilities(m.preparation(scan)).numpy() for m in models], 0)
    probabilities = {name: float(v) for name, v in zip(labels, p, strict=True)}
    thresholds = {
        name: {kind: float(np.mean([m.settings["points"][name][kind] for m in models])) for kind in found}
        for name, found in models[0].settings["points"].items()
    }
    return Scores(probabilities, thresholds)


def explain(model: Classifier, scan: Scan, label: str) -> NDArray[np.float32]:
    """(D, H, W) on the scan's own grid, 0 to 1: where the model saw `label` (class activation maps, blown up from the
    cells of the pyramid). It shows what moved this model, not where the disease is. Raises ConfigError for an unknown
    label."""
    import torch.nn.functional as F

    if label not in model.labels:
        raise ConfigError(f"{model.name!r} knows no label {label!r}; it knows {', '.join(model.labels)}")
    heat = model.heat(model.preparation(scan), label)[None, None]
    fine, view = blank(scan, model.preparation, np.float32)
    size = (view.shape[0], view.shape[1], view.shape[2])
    view[:] = F.interpolate(heat, size, mode="trilinear", align_corners=False)[0, 0].numpy()
    return fine
