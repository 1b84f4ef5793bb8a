"""Convolutions at full resolution, one after the other: what most published reconstruction networks are made of."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from medfm.errors import ConfigError
from medfm.nn.complexes import ComplexConv
from medfm.nn.slices import check_channels, fold, unfold
from medfm.nn.stages import Activation, Norm, activation, convolution, normalisation, triple

__all__ = ["StackEncoder"]


class StackEncoder(nn.Module):
    """(B, inputs, D, H, W) -> the input itself and what each layer gives, all at full resolution.

    Args:
        channels: of each layer; of complex ones, complex channels (twice as many numbers).
        kernel: an odd int or [D, H, W]. padded: else every layer cuts its edges (RED-CNN).
        complex: complex convolutions (`ComplexConv`) and an activation of each part.
        residual: layers after the first are blocks of two convolutions whose input is added (DeepcomplexMRI).
        centred: the first layer's filters begin with sums of zero: a mean of 1 drowns noise of 0.03.
        norm, act: see `medfm.nn.stages`. drop: share of channels dropped in training, and in `samples` of predictions.
    """

    def __init__(
        self, *, ndim: int = 2, inputs: int = 1, channels: list[int], kernel: int | list[int] = 3, padded: bool = True,
        complex: bool = False, residual: bool = False, centred: bool = False, norm: Norm = "none",
        act: Activation = "relu", drop: float = 0.0,
    ) -> None:  # fmt: skip
        super().__init__()
        size = triple(kernel, ndim=ndim)
        if complex and (centred or norm != "none" or inputs % 2 or not padded):
            raise ConfigError("complex layers take an even number of inputs, padding, no norm, and are not centred")
        if residual and (not padded or len(set(channels)) > 1):
            raise ConfigError(f"residual layers are padded and equally wide; found {channels}, padded {padded}")
        self.ndim, self.inputs, self.complex, self.residual = ndim, inputs, complex, residual
        parts = 2 if complex else 1
        self.channels = (inputs, *(parts * c for c in channels))
        self.strides = ((1, 1, 1),) * len(self.channels)
        self.layers = nn.ModuleList()
        width = inputs // parts
        for index, out in enumerate(channels):
            layers: list[nn.Module] = []
            for step in range(2 if residual and index else 1):
                entering = out if step else width
                if complex:
                    layers.append(ComplexConv(ndim, entering, out, size))
                else:
                    layers.append(_convolution(ndim, entering, out, size, padded=padded, centred=centred and not index))
                layers += [normalisation(norm, ndim, out), activation(act, parts * out)]
            if drop:
                layers.append((nn.Dropout2d if ndim == 2 else nn.Dropout3d)(drop))
            self.layers.append(nn.Sequential(*layers))
            width = out

    def forward(self, x: Tensor, spacing: Tensor | None = None) -> list[Tensor]:
        """The input and one level a layer. `spacing` is taken and not used. Raises ShapeError for other channels."""
        check_channels(x, self.inputs)
        batch = len(x)
        levels = [fold(x) if self.ndim == 2 else x]
        for index, layer in enumerate(self.layers):
            y = layer(levels[-1])
            levels.append(levels[-1] + y if self.residual and index else y)
        return [unfold(level, batch) for level in levels] if self.ndim == 2 else levels


def _convolution(
    ndim: int, entering: int, out: int, size: tuple[int, int, int], *, padded: bool, centred: bool
) -> nn.Module:
    """Begun with He's variance (ICCV 2015): with torch's own, what passes a layer shrinks to 0.4, and nothing here
    normalises it again; seven layers then learn from a five-hundredth."""
    if padded:
        layer = convolution(ndim, entering, out, size)
    else:
        layer = nn.Conv2d(entering, out, size[-2:]) if ndim == 2 else nn.Conv3d(entering, out, size)
    assert isinstance(layer, nn.Conv2d | nn.Conv3d) and layer.bias is not None
    nn.init.kaiming_normal_(layer.weight, nonlinearity="relu")
    nn.init.zeros_(layer.bias)
    if centred:
        with torch.no_grad():
            layer.weight -= layer.weight.mean(dim=list(range(1, layer.weight.ndim)), keepdim=True)
    return layer
