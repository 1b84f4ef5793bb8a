"""The laws of the shared encoder: one set of weights, pictures and volumes, any size, any spacing."""

from __future__ import annotations

import pytest
import torch
from peft import LoraConfig, get_peft_model

from medfm.encoders.hybrid import HybridEncoder
from medfm.errors import ShapeError
from medfm.nn.attention import Block, centred_positions
from medfm.nn.slices import DepthMix


@pytest.fixture(scope="module")
def encoder() -> HybridEncoder:
    torch.manual_seed(0)
    network = HybridEncoder(width=96, depth=2, heads=4).eval()
    for mix in network.mix.values():  # as after training on volumes: neighbours count
        torch.nn.init.normal_(mix.below, std=0.3)
        torch.nn.init.normal_(mix.above, std=0.3)
    return network


def test_picture_equals_volume_of_one_slice_whatever_its_thickness(encoder: HybridEncoder) -> None:
    x = torch.rand(2, 3, 1, 64, 96)
    thin = encoder(x, torch.tensor([[1.0, 0.5, 0.5]] * 2))
    thick = encoder(x, torch.tensor([[9.0, 0.5, 0.5]] * 2))
    for a, b in zip(thin, thick, strict=True):
        torch.testing.assert_close(a, b)


def test_far_apart_slices_are_read_like_pictures_by_the_convolutions(encoder: HybridEncoder) -> None:
    volume = torch.rand(1, 3, 3, 64, 64)
    apart = encoder(volume, torch.tensor([[1e9, 1.0, 1.0]]))
    alone = [encoder(volume[:, :, i : i + 1], torch.ones(1, 3)) for i in range(3)]
    for level in range(4):  # the last level attends across slices
        torch.testing.assert_close(apart[level], torch.cat([a[level] for a in alone], 2), atol=1e-4, rtol=1e-4)


def test_near_slices_talk_to_each_other(encoder: HybridEncoder) -> None:
    volume = torch.rand(1, 3, 3, 64, 64)
    changed = volume.clone()
    changed[:, :, 0] = 0
    a, b = encoder(volume, torch.ones(1, 3)), encoder(changed, torch.ones(1, 3))
    assert not torch.allclose(a[0][:, :, 1], b[0][:, :, 1])


@pytest.mark.parametrize(("depth", "height", "width"), [(1, 33, 47), (2, 65, 40), (5, 32, 101)])
def test_odd_sizes_round_up(encoder: HybridEncoder, depth: int, height: int, width: int) -> None:
    pyramid = encoder(torch.rand(1, 3, depth, height, width))
    for level, channels, (_, sy, sx) in zip(pyramid, encoder.channels, encoder.strides, strict=True):
        assert level.shape == (1, channels, depth, -(-height // sy), -(-width // sx))
        assert level.isfinite().all()


def test_spacing_changes_what_attention_sees(encoder: HybridEncoder) -> None:
    x = torch.rand(1, 3, 1, 64, 64)
    near, far = encoder(x, torch.ones(1, 3)), encoder(x, 5 * torch.ones(1, 3))
    assert not torch.allclose(near[-1], far[-1])
    torch.testing.assert_close(near[0], far[0])


def test_gradients_reach_every_weight() -> None:
    network = HybridEncoder(width=96, depth=1, heads=4)
    sum(level.square().mean() for level in network(torch.rand(2, 3, 3, 64, 64))).backward()
    silent = [n for n, p in network.named_parameters() if p.grad is None or not p.grad.abs().sum() > 0]
    assert silent == []


def test_lora_is_injected_and_starts_as_nothing(encoder: HybridEncoder) -> None:
    x = torch.rand(1, 3, 2, 64, 64)
    before = encoder(x)
    wrapped = get_peft_model(encoder, LoraConfig(r=2, target_modules=["query_key_value", "output", "up", "down"]))
    wrapped.eval()
    for a, b in zip(before, wrapped(x), strict=True):
        torch.testing.assert_close(a, b)
    trained = [n for n, p in wrapped.named_parameters() if p.requires_grad]
    assert trained and all("lora_" in n for n in trained)
    wrapped.unload()


def test_positions_are_centred_millimetres() -> None:
    positions = centred_positions((1, 2, 3), torch.tensor([[4.0, 2.0, 1.0]]))
    assert positions.tolist()[0] == [[0, -1, -1], [0, -1, 0], [0, -1, 1], [0, 1, -1], [0, 1, 0], [0, 1, 1]]


def test_attention_depends_on_distance_only() -> None:
    block = Block(48, 2, scale=1.0).eval()
    x, positions = torch.randn(1, 5, 48), torch.randn(1, 5, 3) * 50
    torch.testing.assert_close(block(x, positions), block(x, positions + 123.0), atol=1e-4, rtol=1e-4)


def test_depth_mix_starts_as_identity() -> None:
    x = torch.rand(1, 4, 3, 5, 5)
    torch.testing.assert_close(DepthMix(4)(x, torch.ones(1, 3), 4), x)


@pytest.mark.parametrize("shape", [(1, 1, 1, 64, 64), (1, 3, 64, 64), (1, 3, 1, 16, 64)])
def test_wrong_shapes_say_what_is_expected(encoder: HybridEncoder, shape: tuple[int, ...]) -> None:
    with pytest.raises(ShapeError, match="expected"):
        encoder(torch.rand(shape))


def test_stages_are_what_the_levels_are_made_of(encoder: HybridEncoder) -> None:
    x, spacing = torch.rand(1, 3, 2, 64, 64), torch.ones(1, 3)
    stages = encoder.convolve(x, spacing)
    assert [stage.shape[1] for stage in stages] == list(encoder.stage_channels)
    for a, b in zip(encoder.pyramid(stages, spacing), encoder(x, spacing), strict=True):
        torch.testing.assert_close(a, b)


@pytest.mark.parametrize("levels", [0, 6])
def test_an_encoder_of_no_or_too_many_levels_is_refused(levels: int) -> None:
    with pytest.raises(ShapeError, match="expected 1 to 5"):
        HybridEncoder(levels=levels)
