"""A foreign tower keeps the encoder's promises: grids, one slice = a picture, gradients, LoRA, save and load."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn

from medfm import config
from medfm.encoders.hub import HubEncoder
from medfm.errors import ShapeError, UnknownName, WeightsError

TEXT = {"context_length": 8, "vocab_size": 32, "width": 16, "heads": 2, "layers": 1}
VISION = {
    "tiny-vit": {"image_size": 48, "layers": 5, "width": 32, "head_width": 16, "patch_size": 16},
    "tiny-resnet": {"image_size": 64, "layers": [1, 1, 1, 1], "width": 8},
    "tiny-convnext": {"image_size": 64, "timm_model_name": "convnext_atto", "timm_model_pretrained": False},
    "tiny-timm-vit": {"image_size": 32, "timm_model_name": "test_vit", "timm_model_pretrained": False},
}
TARGETS = {"tiny-vit": "c_fc", "tiny-resnet": "conv2", "tiny-convnext": "fc1", "tiny-timm-vit": "qkv"}


@pytest.fixture(scope="module", autouse=True)
def towers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Tiny towers of each kind, known to open_clip while this file is tested; yields the folder of their cards."""
    import open_clip
    from open_clip import factory

    folder = tmp_path_factory.mktemp("towers")
    for name, vision in VISION.items():
        card = {"embed_dim": 16, "vision_cfg": vision, "text_cfg": TEXT}
        (folder / f"{name}.json").write_text(json.dumps(card))
    open_clip.add_model_config(folder)
    yield folder
    factory._MODEL_CONFIG_PATHS.remove(folder)
    for name in VISION:
        factory._MODEL_CONFIGS.pop(name, None)


@pytest.fixture(scope="module", params=sorted(VISION))
def encoder(request: pytest.FixtureRequest, towers: Path) -> HubEncoder:
    torch.manual_seed(0)
    return HubEncoder(request.param).eval()


@pytest.mark.parametrize("shape", [(1, 48, 48), (3, 33, 70), (2, 7, 5), (1, 1, 1), (1, 200, 31)])
@pytest.mark.parametrize("channels", [1, 3])
def test_levels_have_the_promised_grids(encoder: HubEncoder, shape: tuple[int, int, int], channels: int) -> None:
    with torch.no_grad():
        pyramid = encoder(torch.rand(2, channels, *shape))
    assert len(pyramid) == len(encoder.channels) == len(encoder.strides)
    for level, width, strides in zip(pyramid, encoder.channels, encoder.strides, strict=True):
        assert level.shape == (2, width, *(math.ceil(n / s) for n, s in zip(shape, strides, strict=True)))
        assert torch.isfinite(level).all()
    areas = [math.prod(stride) for stride in encoder.strides]
    assert areas == sorted(areas) and all(stride[0] == 1 for stride in encoder.strides)


def test_a_convolutional_tower_gives_a_pyramid_and_a_vit_four_taps(encoder: HubEncoder) -> None:
    expected = [16, 16, 16, 16] if "vit" in _name(encoder) else [4, 8, 16, 32]
    assert [stride for _, stride, _ in encoder.strides] == expected


def test_a_volume_is_its_slices(encoder: HubEncoder) -> None:
    x = torch.rand(2, 1, 3, 40, 52)
    with torch.no_grad():
        whole = encoder(x)
        alone = [encoder(x[:, :, k : k + 1]) for k in range(3)]
        repeated = encoder(x.expand(-1, 3, -1, -1, -1))
        placed = encoder(x, torch.rand(2, 3))
    for n, level in enumerate(whole):
        torch.testing.assert_close(level, torch.cat([one[n] for one in alone], 2), rtol=1e-4, atol=1e-4)
        assert torch.equal(level, repeated[n]) and torch.equal(level, placed[n])


def test_a_picture_of_the_towers_size_is_what_open_clip_sees(encoder: HubEncoder) -> None:
    x = torch.rand(1, 3, 1, *encoder.size)
    with torch.no_grad():
        picture = (x[:, :, 0] - encoder.mean) / encoder.std
        theirs = encoder.tower.forward_intermediates(picture, indices=encoder.levels, intermediates_only=True)
        ours = encoder(x)
    for level, their in zip(ours, theirs["image_intermediates"], strict=True):
        assert torch.equal(level[:, :, 0], their)


def test_a_bright_spot_stays_where_it_is(encoder: HubEncoder) -> None:
    # 2 : 1 pictures are scaled and padded; the change that a spot makes must come out in the same corner of the grid
    side = 2 * max(stride[1] for stride in encoder.strides)
    dark = torch.zeros(1, 1, 1, 2 * side, 4 * side)
    spot = dark.clone()
    spot[..., : side // 2, -side // 2 :] = 1
    with torch.no_grad():
        change = [(a - b).abs().sum(1)[0, 0] for a, b in zip(encoder(spot), encoder(dark), strict=True)]
    rows, columns = change[0].shape
    found = divmod(int(change[0].argmax()), columns)
    assert found[0] < rows / 2 and found[1] >= columns / 2


def test_every_parameter_left_gets_a_gradient(encoder: HubEncoder) -> None:
    fresh = HubEncoder(_name(encoder)).train()
    x = torch.rand(2, 1, 2, 50, 40, requires_grad=True)
    sum(level.square().mean() for level in fresh(x)).backward()
    assert x.grad is not None and x.grad.abs().sum() > 0
    assert [name for name, p in fresh.named_parameters() if p.requires_grad and p.grad is None] == []


def test_lora_goes_in_and_starts_as_no_change(encoder: HubEncoder) -> None:
    from peft import LoraConfig, inject_adapter_in_model

    fresh = HubEncoder(_name(encoder)).eval()
    x = torch.rand(1, 1, 2, 40, 40)
    with torch.no_grad():
        before = fresh(x)
        inject_adapter_in_model(LoraConfig(r=2, target_modules=[TARGETS[_name(encoder)]]), fresh)
        after = fresh(x)
    assert all(torch.allclose(a, b, atol=1e-5) for a, b in zip(before, after, strict=True))
    fresh(x)[-1].sum().backward()
    trained = [name for name, p in fresh.named_parameters() if p.grad is not None]
    assert trained and all("lora_" in name for name in trained)


def test_save_and_load_give_the_same_numbers(encoder: HubEncoder, tmp_path: Path) -> None:
    encoder.mean.fill_(0.4)  # as a tag with its own normalisation would set it
    save_file({n: t.contiguous() for n, t in encoder.state_dict().items()}, tmp_path / "encoder.safetensors")
    other = HubEncoder(_name(encoder)).eval()
    other.load_state_dict(load_file(tmp_path / "encoder.safetensors"))
    x = torch.rand(1, 1, 1, 37, 41)
    with torch.no_grad():
        assert all(torch.equal(a, b) for a, b in zip(encoder(x), other(x), strict=True))


def test_weights_from_a_file_or_a_folder(towers: Path, tmp_path: Path) -> None:
    import open_clip

    model = open_clip.create_model("tiny-vit")
    weights = {name: tensor.contiguous() for name, tensor in model.state_dict().items()}
    save_file(weights, tmp_path / "open_clip_model.safetensors")
    card = json.loads((towers / "tiny-vit.json").read_text())
    (tmp_path / "open_clip_config.json").write_text(
        json.dumps({"model_cfg": card, "preprocess_cfg": {"mean": [0.5] * 3}})
    )
    by_file = config.build(
        "encoders", {"name": "hub", "tower": "tiny-vit", "pretrained": str(tmp_path / "open_clip_model.safetensors")}
    )
    by_folder = HubEncoder(f"local-dir:{tmp_path}")
    for built in (by_file, by_folder):
        assert torch.equal(built.tower.conv1.weight, model.visual.conv1.weight)
    assert by_folder.mean.flatten().tolist() == [0.5] * 3


def test_another_size_of_picture(towers: Path) -> None:
    assert HubEncoder("tiny-vit", image_size=96).size == (96, 96)
    with pytest.raises(ShapeError, match="image_size 50 does not fit 'tiny-vit'; expected a multiple of 16"):
        HubEncoder("tiny-vit", image_size=50)


def test_errors_say_what_to_do(encoder: HubEncoder) -> None:
    with pytest.raises(UnknownName, match=r"open_clip has no tower called 'ViT-B-23'.*Did you mean 'ViT-B-32'"):
        HubEncoder("ViT-B-23")
    with pytest.raises(WeightsError, match="cannot be had"):
        HubEncoder("tiny-vit", pretrained="no-such-tag")
    with pytest.raises(WeightsError, match="cannot be had"):
        HubEncoder("local-dir:/no/such/folder")
    for shape in ((1, 3, 32, 32), (1, 2, 1, 32, 32), (1, 3, 0, 32, 32)):
        with pytest.raises(ShapeError, match="expected \\(B, 1 or 3, D, H, W\\)"):
            encoder(torch.rand(shape))


def _name(encoder: nn.Module) -> str:
    kinds = {"VisionTransformer": "tiny-vit", "ModifiedResNet": "tiny-resnet"}
    tower = encoder.tower
    if hasattr(tower, "trunk"):
        return "tiny-convnext" if "ConvNeXt" in type(tower.trunk).__name__ else "tiny-timm-vit"
    return kinds[type(tower).__name__]
