"""2D layers on (B, C, D, H, W), and the one layer that lets neighbouring slices talk.

Slices are folded into the batch, so 2D pretrained kernels run as fast 2D convolutions: they are the middle slice of a
3D kernel whose other slices live, factorised, in `DepthMix`.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from medfm.errors import ShapeError

__all__ = ["DepthMix", "InvertedBottleneck", "SameConv", "check_channels", "fold", "unfold"]


def check_channels(x: Tensor, channels: int) -> None:
    """Raise ShapeError where x is not (B, channels, D, H, W)."""
    if x.ndim != 5 or x.shape[1] != channels:
        raise ShapeError(f"found an input of shape {tuple(x.shape)}, expected (B, {channels}, D, H, W)")


def fold(x: Tensor) -> Tensor:
    """(B, C, D, H, W) -> (B*D, C, H, W)."""
    return x.transpose(1, 2).flatten(0, 1)


def unfold(x: Tensor, batch: int) -> Tensor:
    """(B*D, C, H, W) -> (B, C, D, H, W)."""
    return x.unflatten(0, (batch, -1)).transpose(1, 2)


class SameConv(nn.Conv2d):
    """Convolution with TensorFlow's "same" padding: out = ceil(in / stride), the extra pixel at the end.

    The ImageNet weights were trained so; symmetric padding would shift every stride-2 layer by half a pixel.
    """

    def forward(self, x: Tensor) -> Tensor:
        pads = []
        for size, kernel, stride in zip(x.shape[:1:-1], self.kernel_size[::-1], self.stride[::-1], strict=True):
            total = max((-(-size // stride) - 1) * stride + kernel - size, 0)
            pads += [total // 2, total - total // 2]
        if pads[0] == pads[1] and pads[2] == pads[3]:
            return F.conv2d(x, self.weight, self.bias, self.stride, (pads[2], pads[0]), self.dilation, self.groups)
        return F.conv2d(F.pad(x, pads), self.weight, self.bias, self.stride, 0, self.dilation, self.groups)


class InvertedBottleneck(nn.Module):
    """MobileNetV2's block without squeeze-and-excitation, as in EfficientNet-Lite: expand, depthwise, project.

    Source: Sandler et al., MobileNetV2, CVPR 2018; Tan & Le, EfficientNet, ICML 2019 (Lite: ReLU6).
    """

    def __init__(
        self, width_in: int, width_out: int, *, kernel: int, stride: int, expand: int, drop_path: float = 0.0
    ) -> None:
        super().__init__()
        hidden = width_in * expand
        self.expand = (
            nn.Sequential(SameConv(width_in, hidden, 1, bias=False), nn.BatchNorm2d(hidden, eps=1e-3, momentum=0.01))
            if expand > 1
            else None
        )
        self.depthwise = nn.Sequential(
            SameConv(hidden, hidden, kernel, stride=stride, groups=hidden, bias=False),
            nn.BatchNorm2d(hidden, eps=1e-3, momentum=0.01),
        )
        self.project = nn.Sequential(
            SameConv(hidden, width_out, 1, bias=False), nn.BatchNorm2d(width_out, eps=1e-3, momentum=0.01)
        )
        self.residual = stride == 1 and width_in == width_out
        self.drop_path = drop_path

    def forward(self, x: Tensor) -> Tensor:
        y = x if self.expand is None else F.relu6(self.expand(x), inplace=True)
        y = self.project(F.relu6(self.depthwise(y), inplace=True))
        if not self.residual:
            return y
        if self.training and self.drop_path:
            keep = torch.rand(len(y), 1, 1, 1, device=y.device) >= self.drop_path
            y = y * keep / (1 - self.drop_path)
        return x + y


class DepthMix(nn.Module):
    """Depthwise convolution over three neighbouring slices, each counted by its distance in mm.

    A neighbour at slice distance s mm, at a level whose pixels measure p mm, enters with weight min(1, p / s): thick
    slices say little about each other, thin ones much. Starts as the identity. A picture has no neighbours, so a
    volume of one slice gives the same numbers as the picture.
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        self.middle = nn.Parameter(torch.ones(width, 1, 1, 1))
        self.below = nn.Parameter(torch.zeros(width, 1, 1, 1))
        self.above = nn.Parameter(torch.zeros(width, 1, 1, 1))

    def forward(self, x: Tensor, spacing: Tensor, stride: int) -> Tensor:
        """x (B, C, D, H, W); spacing (B, 3) mm of the input voxels (D, H, W); stride of this level in H and W."""
        y = x * self.middle
        if x.shape[2] == 1:
            return y
        near = (spacing[:, 1:].mean(1) * stride / spacing[:, 0]).clamp(max=1.0).view(-1, 1, 1, 1, 1).to(x.dtype)
        below = F.pad(x[:, :, :-1], (0, 0, 0, 0, 1, 0)) * self.below
        above = F.pad(x[:, :, 1:], (0, 0, 0, 0, 0, 1)) * self.above
        return y + near * (below + above)
