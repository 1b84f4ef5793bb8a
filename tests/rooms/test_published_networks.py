"""The published segmentation networks are what their papers say: sizes, wiring, and equality with reference code."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from medfm import config
from medfm.config import load_recipe
from medfm.encoders.conv import ConvEncoder
from medfm.encoders.resnet_vit import ResNetVit
from medfm.encoders.shared import SharedEncoder
from medfm.encoders.swin import SwinBlocks, SwinEncoder
from medfm.encoders.vit import VitEncoder
from medfm.errors import ConfigError
from medfm.grid import Grid
from medfm.heads.expand import Expand, ExpandHead
from medfm.heads.segment import SegmentHead
from medfm.heads.unetr import UnetrHead
from medfm.losses import SegmentLoss
from medfm.segmenter import Segmenter

RECIPES = ["unet", "residual", "se_unet", "vnet", "transunet", "swin_unet", "unetr", "nnunet", "shared"]


def built(name: str, *, classes: int = 3) -> tuple[nn.Module, nn.Module, int]:
    objective = load_recipe(f"segmentation/{name}")["objective"]
    encoder = config.build("encoders", objective["model"]["encoder"])
    head = config.build(
        "heads", {"name": "segment", **objective["model"]["head"]}, channels=encoder.channels, strides=encoder.strides,
        classes=classes,
    )  # fmt: skip
    return encoder, head, objective["prepare"].get("channels", 1)


def millions(*parts: nn.Module) -> float:
    return sum(p.numel() for part in parts for p in part.parameters()) / 1e6


@pytest.mark.parametrize("name", RECIPES)
def test_every_size_gets_logits_of_that_size_and_gradients_reach_every_weight(name: str) -> None:
    encoder, head, channels = built(name)
    encoder.eval(), head.eval()
    x = torch.rand(1, channels, 3, 37, 45)
    logits = head(encoder(x, torch.ones(1, 3)), x.shape[2:])
    assert logits[0].shape == (1, 3, 3, 37, 45)
    for level, width in zip(encoder(x), encoder.channels, strict=True):
        assert level.shape[:2] == (1, width)
    if name != "shared":  # frozen
        head.train()
        sum(part.square().mean() for part in head(encoder(x), x.shape[2:])).backward()
        parameters = [*encoder.named_parameters(), *head.named_parameters()]
        assert not [n for n, p in parameters if p.grad is None and "cross" not in n]  # MONAI's blocks hold a norm
        # for cross attention that is not used


@pytest.mark.parametrize("name", ["transunet", "swin_unet", "shared"])
def test_slicewise_networks_read_each_slice_alone(name: str) -> None:
    encoder, head, channels = built(name)
    encoder.eval(), head.eval()
    x = torch.rand(1, channels, 3, 48, 48)
    if name == "shared":  # its attention looks across slices: the law of one slice is in tests/laws
        return
    whole = head(encoder(x), x.shape[2:])[0]
    alone = head(encoder(x[:, :, 1:2]), (1, 48, 48))[0]
    torch.testing.assert_close(whole[:, :, 1:2], alone, atol=1e-4, rtol=1e-4)


def test_unetr_is_monais_weight_by_weight() -> None:
    from monai.networks.nets import UNETR

    torch.manual_seed(0)
    theirs = UNETR(1, 3, (32, 32, 32), feature_size=4, hidden_size=48, mlp_dim=96, num_heads=4).eval()
    encoder = VitEncoder(
        size=[32, 32, 32], width=48, heads=4, hidden=96, taps=[4, 7, 10, 12]
    ).eval()  # it counts from 0
    head = UnetrHead(encoder.channels, encoder.strides, 3, width=4).eval()
    encoder.vit.load_state_dict(theirs.vit.state_dict())
    names = {"encoder1": "first", "encoder2": "skips.0", "encoder3": "skips.1", "encoder4": "skips.2"}
    names |= {"decoder5": "ups.0", "decoder4": "ups.1", "decoder3": "ups.2", "decoder2": "ups.3", "out": "logits"}
    state = {
        names[key.split(".", 1)[0]] + "." + key.split(".", 1)[1]: value
        for key, value in theirs.state_dict().items()
        if not key.startswith("vit.")
    }
    head.load_state_dict(state)
    x = torch.randn(1, 1, 32, 32, 32)
    torch.testing.assert_close(head(encoder(x), (32, 32, 32))[0], theirs(x), atol=1e-5, rtol=1e-5)
    other = VitEncoder(size=[32, 32, 32], width=48, heads=4, hidden=96).eval()
    other.load_state_dict(encoder.state_dict())
    assert not torch.allclose(head(other(x), (32, 32, 32))[0], theirs(x), atol=1e-3)  # which layer is tapped matters


@pytest.mark.parametrize("name", ["unetr", "swin_unet", "transunet"])
def test_a_scan_smaller_than_the_patch_is_read_in_the_patchs_frame(name: str) -> None:
    """Windows and positions then lie where they lay in training."""
    torch.manual_seed(0)
    node = load_recipe(f"segmentation/{name}")["objective"]
    model = Segmenter(**node["model"], labels=["a", "b"], prepare=node["prepare"], patch=node["tile"]).eval()
    x = torch.randn(1, 15, 40, 30)
    larger = (0, 0 if model.head.ndim == 2 else node["tile"][0] - 15, node["tile"][1] - 40, node["tile"][2] - 30)
    padded = np.pad(x.numpy(), [(0, n) for n in larger], mode="edge")
    small, framed = (
        model.probabilities(Grid.of(each, torch.ones(3), model.preparation)) for each in (x, torch.from_numpy(padded))
    )
    torch.testing.assert_close(small, framed[:, :15, :40, :30])
    depths: list[int] = []
    model.encoder.register_forward_pre_hook(lambda _, given: depths.append(given[0].shape[2]))
    model.probabilities(Grid.of(x[:, :1], torch.ones(3), model.preparation))
    assert depths == [1 if model.head.ndim == 2 else node["tile"][0]]  # slices that are read alone get no company


def test_smaller_patches_take_a_shorter_way_up() -> None:
    encoder = VitEncoder(size=[16, 24, 16], patch=8, width=24, depth=3, heads=2, hidden=24, taps=[1, 2, 3])
    head = UnetrHead(encoder.channels, encoder.strides, 3, width=4)
    assert encoder.grid == (2, 3, 2) and len(head.ups) == 3 and len(head.skips) == 2
    assert head(encoder(torch.rand(1, 1, 13, 24, 16)), (13, 24, 16))[0].shape == (1, 3, 13, 24, 16)


def test_published_sizes() -> None:
    with torch.device("meta"):
        vit = VitEncoder()
        assert millions(vit, UnetrHead(vit.channels, vit.strides, 14)) == pytest.approx(92.8, rel=0.005)
        trans = ResNetVit(inputs=3)
        style = {"ndim": 2, "up": "linear", "enter": 512, "widths": [64, 128, 256], "full": 16, "norm": "batch"}
        cascade = SegmentHead(trans.channels, trans.strides, 9, **style)  # type: ignore[arg-type]
        assert millions(trans, cascade) == pytest.approx(105.28, rel=0.005)
        swin = SwinEncoder(inputs=3)
        assert millions(swin, ExpandHead(swin.channels, swin.strides, 9)) == pytest.approx(27.17, rel=0.005)
        vnet = ConvEncoder(
            channels=[16, 32, 64, 128, 256],
            convs=[1, 2, 3, 3, 3],
            kernels=5,
            down="patch",
            residual=True,
            act="prelu",
            norm="none",
        )
        assert [type(m).__name__ for m in vnet.modules()].count("MaxPool3d") == 0
        assert {tuple(m.kernel_size) for m in vnet.modules() if isinstance(m, nn.Conv3d)} == {
            (5, 5, 5), (2, 2, 2), (1, 1, 1),
        }  # fmt: skip


def test_vnets_decoder_adds_what_came_up_and_the_skip_without_a_projection() -> None:
    head = SegmentHead(
        (4, 8, 16), ((1, 1, 1), (2, 2, 2), (4, 4, 4)), 2, widths=[8, 16], residual=True, act="prelu", kernel=5
    )
    assert all(isinstance(s, nn.Identity) for stage in head.stages for s in stage.shortcuts)


def test_shifted_windows_are_masked_attention() -> None:
    """Window attention on a rolled map equals attention over all cells with everything outside a window masked."""
    torch.manual_seed(0)
    blocks = SwinBlocks(8, 2, 2, window=4).eval()
    block, (h, w) = blocks.blocks[1], (8, 12)
    x = torch.randn(1, h, w, 8)
    blocks(x)
    attention = block.attn
    nn.init.normal_(attention.relative_position_bias_table, std=0.5)
    found = block._attn(x)
    rows, columns = torch.meshgrid(torch.arange(h), torch.arange(w), indexing="ij")
    window = ((rows + 2) // 4 * 100 + (columns + 2) // 4).flatten()  # windows begin at -2: shifted by half of one
    place = torch.stack([rows.flatten(), columns.flatten()], 1)
    far = place[:, None] - place[None]
    table = attention.relative_position_bias_table
    inside = window[:, None] == window[None]
    index = (far[..., 0].clamp(-3, 3) + 3) * 7 + far[..., 1].clamp(-3, 3) + 3
    bias = table[index].permute(2, 0, 1).masked_fill(~inside, float("-inf"))
    q, k, v = attention.qkv(x.flatten(1, 2)).unflatten(-1, (3, 2, 4)).permute(2, 0, 3, 1, 4)
    expected = torch.softmax(q @ k.transpose(-1, -2) / 2 + bias, -1) @ v
    expected = attention.proj(expected.transpose(1, 2).flatten(2)).view(1, h, w, 8)
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-5)


def test_expanding_undoes_merging_in_shape() -> None:
    from timm.models.swin_transformer import PatchMerging

    x = torch.randn(2, 6, 10, 8)
    assert Expand(16)(PatchMerging(8)(x)).shape == x.shape


def test_squeeze_and_excitation_is_half_open_when_it_says_nothing_and_costs_what_it_should() -> None:
    plain = ConvEncoder(channels=[32], kernels=3)
    gated = ConvEncoder(channels=[32], kernels=3, squeeze=16)
    extra = (millions(gated) - millions(plain)) * 1e6
    assert round(extra) == 2 * 32 * 32 / 16 + 32 / 16 + 32  # the weights 2 C^2 / r, and the biases
    gate = gated.stages[0].gates[0]
    for layer in gate.fc:
        if isinstance(layer, nn.Linear):
            last = layer
    nn.init.zeros_(last.weight), nn.init.zeros_(last.bias)
    x = torch.randn(1, 32, 4, 4, 4)
    torch.testing.assert_close(gate(x), x / 2)


def test_parts_that_do_not_fit_say_so() -> None:
    with pytest.raises(ConfigError, match="taps"):
        VitEncoder(size=[32, 32, 32], depth=4, taps=[1, 2, 3])
    with pytest.raises(ConfigError, match="doubled"):
        ExpandHead((8, 24), ((1, 4, 4), (1, 8, 8)), 2)
    with pytest.raises(ConfigError, match="log2"):
        UnetrHead((1, 8, 8), ((1, 1, 1), (2, 2, 2), (2, 2, 2)), 2)


def logits_of(p: Tensor) -> Tensor:
    """Two classes whose softmax gives `p` to the second."""
    return torch.stack([torch.zeros_like(p), torch.logit(p)])[None]


def test_focal_loss_with_gamma_zero_is_cross_entropy_and_weighs_easy_voxels_little() -> None:
    logits, target = torch.randn(2, 3, 4, 5, 6), torch.randint(0, 3, (2, 4, 5, 6))
    focal = SegmentLoss(dice=0, entropy=0, focal=1, gamma=0)(logits, target)
    entropy = SegmentLoss(dice=0, entropy=1)(logits, target)
    torch.testing.assert_close(focal * 3, entropy)  # MONAI's mean is over the three classes too
    one = torch.ones(1, 2, 2, 2).long()
    ratios = []
    for p in (0.9, 0.5):
        at = logits_of(torch.full((2, 2, 2), p))
        with_focus = SegmentLoss(dice=0, entropy=0, focal=1)(at, one)
        ratios.append(float(with_focus / SegmentLoss(dice=0, entropy=0, focal=1, gamma=0)(at, one)))
    assert ratios[0] / ratios[1] == pytest.approx((0.1 / 0.5) ** 2, rel=1e-3)


def test_both_dice_denominators() -> None:
    p = torch.full((4, 4, 4), 0.5)
    target = torch.zeros(1, 4, 4, 4).long()
    target[:, :2] = 1
    plain = SegmentLoss(entropy=0)(logits_of(p), target)
    squared = SegmentLoss(entropy=0, squared=True)(logits_of(p), target)
    assert float(plain) == pytest.approx(1 - (2 * 16 + 1) / (32 + 32 + 1), rel=1e-4)  # 2 sum pg / (sum p + sum g)
    assert float(squared) == pytest.approx(1 - (2 * 16 + 1) / (16 + 32 + 1), rel=1e-4)  # 2 sum pg / (sum p² + sum g²)
    sure = logits_of(torch.where(target[0] == 1, 1 - 1e-6, 1e-6)).requires_grad_()
    SegmentLoss(entropy=0, squared=True)(sure, target).backward()
    assert sure.grad is not None and sure.grad.abs().max() < 1e-6  # nothing is left to learn where p = g


def test_boundary_loss_prefers_near_misses() -> None:
    target = torch.zeros(1, 1, 24, 24).long()
    target[:, :, 8:14, 8:14] = 1
    loss = SegmentLoss(dice=0, entropy=0, boundary=1)

    def shifted(by: int) -> Tensor:
        return logits_of(torch.where(target[0].roll(by, -1) == 1, 0.99, 0.01))

    assert loss(shifted(0), target) < loss(shifted(2), target) < loss(shifted(6), target)


def test_an_encoder_from_nothing_evaluates_as_it_trains_after_a_short_training() -> None:
    torch.manual_seed(0)
    encoder = SharedEncoder(tune="random", levels=2).train()
    x = torch.rand(4, 3, 1, 48, 48)
    for block in encoder.modules():
        if hasattr(block, "drop_path"):
            block.drop_path = 0.0
    with torch.no_grad():
        for _ in range(120):
            learning = encoder(x)[-1]
        asked = encoder.eval()(x)[-1]
    assert (asked - learning).abs().mean() < 0.05 * learning.abs().mean()
