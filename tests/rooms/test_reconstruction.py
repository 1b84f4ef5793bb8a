"""Reconstruction networks: each published mechanism is there, files come back as they went, warnings say what is so."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from small_recipes import CASCADE, PLAIN, body
from torch import Tensor

import medfm
from medfm.errors import AdapterMismatch, ConfigError, DataError, UnknownName
from medfm.heads.admm import ADMM, PiecewiseLinear, dct_filters, transfer
from medfm.heads.reconstruct import Refiner, Unrolled
from medfm.nn.complexes import ComplexConv, to_complex, to_real
from medfm.nn.critic import Critic, gradient_penalty
from medfm.physics.mri import Cartesian, fourier, inverse_fourier, sampling_mask
from medfm.reconstructor import Reconstructor, load_reconstructor
from medfm.scan import RawData


def sampled(size: tuple[int, int] = (32, 24)) -> tuple[Cartesian, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    operator = Cartesian(sampling_mask(size, acceleration=3, generator=generator)[None, None, None])
    x = torch.randn(2, 1, 1, *size, dtype=torch.complex64, generator=generator)
    return operator, x, operator.A(x)


def test_a_cascade_keeps_what_was_measured_and_the_loop_without_data_does_not() -> None:
    operator, _, y = sampled()
    for consistency, kept in (("exact", True), ("none", False)):
        torch.manual_seed(0)
        head = Unrolled(encoder=CASCADE["encoder"], channels=2, cascades=2, consistency=consistency)  # type: ignore[arg-type]
        for parameter in head.parameters():
            torch.nn.init.normal_(parameter, std=0.3)
        left = (operator.A(head(operator.start(y), y, operator, None)[-1]) - y).abs().max()
        assert bool(left < 1e-5) is kept


def test_complex_convolution_is_complex() -> None:
    layer = ComplexConv(2, 3, 4, (1, 3, 3), bias=False)
    x = torch.randn(2, 3, 9, 8, dtype=torch.complex64)
    kernel = torch.complex(layer.real, layer.imaginary)
    expected = torch.nn.functional.conv2d(x, kernel, padding=1)
    assert (to_complex(layer(to_real(x))) - expected).abs().max() < 1e-5
    turned = to_complex(layer(to_real(x * 1j)))
    assert (turned - 1j * expected).abs().max() < 1e-5


def test_admm_net_starts_as_plain_admm() -> None:
    """Against the textbook's three lines in numpy: x in closed form, soft threshold, multiplier."""
    operator, _, y = sampled()
    stages, rho, threshold = 4, 0.1, 0.02
    net = ADMM(channels=2, stages=stages, penalty=rho, threshold=threshold)
    for module in net.shrink:  # the threshold on the 101 points is a point: no rounding at the kink
        assert isinstance(module, PiecewiseLinear) and float(module.values.detach()[0, 50]) == 0
    found = net(operator.start(y), y, operator, None)[-1]
    h = transfer(dct_filters(3), (32, 24))[0].numpy()
    mask, k = operator.mask[0, 0, 0].numpy(), y[:, 0, 0].numpy()
    z = b = np.zeros((2, 8, 32, 24), dtype=np.complex64)

    def forward(a: np.ndarray) -> np.ndarray:
        return fourier(torch.from_numpy(a), 2).numpy()

    def back(a: np.ndarray) -> np.ndarray:
        return inverse_fourier(torch.from_numpy(a), 2).numpy()

    def soft(a: np.ndarray) -> np.ndarray:
        return np.sign(a) * np.maximum(np.abs(a) - threshold, 0)

    for _ in range(stages):
        top = mask * k + rho * (h.conj() * forward(z - b)).sum(1)
        x = back((top / (mask + rho * (np.abs(h) ** 2).sum(0)).clip(1e-6)).astype(np.complex64))
        c = back((h * forward(x[:, None])).astype(np.complex64))
        z = (soft((c + b).real) + 1j * soft((c + b).imag)).astype(np.complex64)
        b = b + c - z
    assert np.abs(found[:, 0, 0].numpy(force=True) - x).max() < 1e-4


def test_piecewise_linear_functions_go_on_beyond_their_ends() -> None:
    function = PiecewiseLinear(2, threshold=0.2)
    x = torch.linspace(-3, 3, 61).expand(1, 2, 61)
    expected = x.sign() * (x.abs() - 0.2).clamp(min=0)
    assert (function(x) - expected).abs().max() < 1e-3
    function(x).sum().backward()
    assert function.values.grad is not None and function.values.grad.abs().sum() > 0


def test_red_cnn_is_five_and_five_unpadded_with_three_shortcuts() -> None:
    encoder = {"name": "stack", "channels": [4] * 5, "kernel": 5, "padded": False}
    net = Refiner(encoder=encoder, channels=1, form="mirror", kernel=5, levels=[0, 2, 4])
    x = torch.rand(1, 1, 2, 40, 33)
    assert [level.shape[-1] for level in net.encoder(x)] == [33, 29, 25, 21, 17, 13]
    assert net(x).shape == x.shape and float(net(x).detach().min()) >= 0
    assert torch.allclose(net(x), x, atol=0.1)  # before training, the picture itself by the outer shortcut


def test_critic_penalty_measures_the_gradient() -> None:
    critic = Critic(patch=16, width=4, dense=8)
    a, b = torch.rand(2, 3, 1, 1, 16, 16)
    penalty, norm = gradient_penalty(critic, a, b, torch.rand(3, 1, 1, 1, 1))
    assert penalty.requires_grad and float(penalty.detach()) == pytest.approx(float((norm - 1) ** 2), abs=0.3)


@pytest.mark.parametrize("settings", [CASCADE, PLAIN], ids=["cascade", "plain"])
def test_save_load_same_numbers(settings: dict[str, Any], tmp_path: Path) -> None:
    model = Reconstructor(**settings, about={"residual": 0.1}).eval()
    for parameter in model.parameters():
        parameter.data = parameter.half().float()  # what is kept is half precision
    model.save(tmp_path / "run")
    again = load_reconstructor(tmp_path / "run")
    if settings is CASCADE:
        operator, _, y = sampled()
        pairs = [m.reconstruct(operator.start(y), y, operator)[0] for m in (model, again)]
    else:
        pairs = [
            m.reconstruct(torch.rand(1, 1, 2, 40, 40, generator=torch.Generator().manual_seed(0)))[0]
            for m in (model, again)
        ]
    assert torch.equal(*pairs)
    (tmp_path / "run" / "medfm.json").write_text('{"kind": "segment"}')
    with pytest.raises(UnknownName, match="kind 'segment'"):
        load_reconstructor(tmp_path / "run")


def test_weights_of_another_network_are_told(tmp_path: Path) -> None:
    Reconstructor(**CASCADE).save(tmp_path / "run")
    text = (tmp_path / "run" / "medfm.json").read_text().replace('"cascades": 2', '"cascades": 3')
    (tmp_path / "run" / "medfm.json").write_text(text)
    with pytest.raises(AdapterMismatch, match="do not fit"):
        load_reconstructor(tmp_path / "run")


def test_shared_encoder_is_not_saved_again(tmp_path: Path) -> None:
    from safetensors.torch import load_file

    refiner = {"form": "decoder", "stem": 4, "decoder": {"widths": [4, 4, 4, 4, 4], "convs": 1}}
    model = Reconstructor(
        encoder={"name": "shared", "tune": "none"}, head={"name": "direct", "refiner": refiner}, physics={"name": "ct"}
    )
    model.save(tmp_path)
    assert not any(".encoder." in name for name in load_file(tmp_path / "reconstruct.safetensors"))
    x = torch.rand(1, 1, 1, 40, 40)
    assert torch.allclose(load_reconstructor(tmp_path).reconstruct(x)[0], model.reconstruct(x)[0], atol=2e-3)


def kspace(folder: Path, *, coils: int = 0) -> Path:
    operator, x, _ = sampled((64, 64))
    far = torch.linspace(-1, 1, 64).square()
    x = x[:1] * 0.05 + ((far[:, None] + far) < 0.5)
    data = (fourier(x, 2) * operator.mask)[0, 0, 0].numpy()
    np.save(folder / "k.npy", data if not coils else np.stack([data] * coils))
    return folder / "k.npy"


def test_a_network_reconstructs_raw_data_and_says_what_it_filled_in(tmp_path: Path) -> None:
    raw = RawData.read(kspace(tmp_path), spacing=(1.0, 1.5, 4.0))
    models = [Reconstructor(**CASCADE, about={"residual": 0.0}) for _ in range(2)]
    found = medfm.reconstruct(raw, models=models)
    assert found.scan.spacing == (1.0, 1.5, 4.0) and found.scan.modality == "MR"
    assert found.residual is not None and found.residual < 1e-5 and found.uncertainty is not None
    assert any("proves nothing about the rest" in text for text in found.warnings)
    dropped = medfm.reconstruct(raw, models=models[:1], samples=4)
    assert dropped.uncertainty is not None and float(dropped.uncertainty.data.max()) > 0
    with pytest.raises(ConfigError, match="without dropout"):
        medfm.reconstruct(
            raw, models=[Reconstructor(**{**CASCADE, "encoder": {**CASCADE["encoder"], "drop": 0.0}})], samples=2
        )


def test_sampled_columns_are_read_as_rows(tmp_path: Path) -> None:
    raw = RawData.read(kspace(tmp_path), spacing=(1.0, 1.5, 4.0))
    turned = replace(raw, data=np.ascontiguousarray(raw.data.swapaxes(2, 3)), spacing=(1.5, 1.0, 4.0))
    model = Reconstructor(**CASCADE)
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.1)
    one, other = (medfm.reconstruct(part, models=[model]).scan.data for part in (raw, turned))
    assert np.abs(one - other.swapaxes(2, 3)).max() < 1e-4 * np.abs(one).max()


def test_a_shipped_network_is_taken_where_it_fits(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import medfm.reconstructor as room
    from medfm.predict.reconstructing import fitting

    mr = {"head": {"name": "unrolled"}, "physics": {"name": "mri", "kind": "lines", "acceleration": 3}}
    ct = {"head": {"name": "direct"}, "physics": {"name": "ct"}}
    monkeypatch.setattr(room, "shipped", lambda kind: {"lines": mr, "ct": ct})
    raw = RawData.read(kspace(tmp_path))
    assert fitting(raw) == ["lines"]
    points = raw.data * (np.random.default_rng(0).random(raw.data.shape) < 0.5)
    assert fitting(replace(raw, data=points)) == [] == fitting(RawData.read(kspace(tmp_path, coils=2)))


def test_methods_are_told_apart(tmp_path: Path) -> None:
    raw = RawData.read(kspace(tmp_path))
    direct = medfm.reconstruct(raw, method="direct")
    bregman = medfm.reconstruct(raw, method="bregman")
    assert bregman.method == "bregman" and direct.residual == pytest.approx(0, abs=1e-5)
    with pytest.raises(ConfigError, match="least-squares"):
        medfm.reconstruct(raw, method="least-squares")
    with pytest.raises(DataError, match="every n-th row"):
        medfm.reconstruct(raw, method="grappa")
    with pytest.raises(DataError, match="own kind"):
        medfm.reconstruct(raw, models=[Reconstructor(**PLAIN)])
    with pytest.raises(DataError, match="nothing was measured"):
        medfm.reconstruct(replace(raw, data=np.zeros_like(raw.data)))


def test_a_sinogram_becomes_hounsfield_units_and_invented_structure_is_told(tmp_path: Path) -> None:
    pytest.importorskip("deepinv")
    from medfm.physics.ct import Projection, from_hu, measured

    scan = medfm.Scan.read(body(tmp_path))
    hu = torch.from_numpy(scan.data[:, 40:42].astype(np.float32))[None]
    operator = Projection((24, 24), pixel=3.0, views=60)
    y = measured(operator.A(from_hu(hu)), photons=1e5, generator=torch.Generator().manual_seed(0))
    np.savez(tmp_path / "s.npz", sinogram=y[0, 0].numpy(), pixel=3.0, size=24)
    raw = RawData.read(tmp_path / "s.npz")
    found = medfm.reconstruct(raw)
    assert found.scan.units == "HU" and found.scan.data.shape == (1, 2, 24, 24)
    inside = hu[0, 0, :, 9:15, 9:15].mean()
    assert float(found.scan.data[0, :, 9:15, 9:15].mean()) == pytest.approx(float(inside), abs=30)
    honest, liar = Reconstructor(**PLAIN), Reconstructor(**PLAIN)
    liar.head.forward = lambda x, y, operator, spacing: [torch.cat([x[..., :10] * 0, x[..., 10:]], -1)]  # type: ignore[method-assign]
    for model, told in ((honest, False), (liar, True)):
        warnings = medfm.reconstruct(raw, models=[model]).warnings
        assert any("Structure" in text for text in warnings) is told


def test_denoising_keeps_the_scans_space(tmp_path: Path) -> None:
    scan = medfm.Scan.read(body(tmp_path))
    found = medfm.denoise(scan, models=[Reconstructor(**PLAIN)])
    assert found.scan.data.shape == scan.data.shape and np.array_equal(found.scan.affine, scan.affine)
    assert found.scan.units == "HU" and np.abs(found.scan.data - scan.data).max() < 200
    with pytest.raises(DataError, match="reads pictures"):
        medfm.denoise(scan, models=[Reconstructor(**CASCADE)])
    with pytest.raises(DataError, match="none ships"):
        medfm.denoise(scan, models=[])


def test_a_conversation_lays_the_less_noisy_picture_beside_the_scan(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from types import SimpleNamespace

    from medfm.assistant import TOOLS, Call, Conversation, run_tool, task_models
    from medfm.assistant.routing import route

    monkeypatch.setattr(task_models, "denoisers_for", lambda scan: [Reconstructor(**PLAIN)])
    call = route("Please reduce the noise", tools=TOOLS, structures=["Liver"])
    assert call == Call("denoise") != route("Is there noise?", tools=TOOLS, structures=[])
    talk, scan = Conversation("test"), medfm.Scan.read(body(tmp_path))
    talk.open(scan)
    states = []
    for _ in range(2):
        *_, turn = run_tool(talk, call, SimpleNamespace(vision=None, name=""))  # type: ignore[arg-type]
        states.append((turn.state, "HU" in turn.text))
    assert states == [("done", True), ("failed", False)]  # the second time the place is taken
    assert talk.current is scan and talk.prior is not None and talk.prior.data.shape == scan.data.shape


def test_evaluation_stands_beside_direct_and_classical(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import json
    import sys

    from medfm.cli import main

    pytest.importorskip("sigpy")
    scan = body(tmp_path)
    Reconstructor(**CASCADE, about={"size": 32, "held out": ["body:40", "body:41"]}).save(tmp_path / "run")
    words = ["evaluate", "reconstruct", str(scan), "--model", str(tmp_path / "run"), "--held-out", "--output"]
    monkeypatch.setattr(sys, "argv", ["medfm", *words, str(tmp_path / "figures")])
    with pytest.raises(SystemExit) as end:
        main()
    assert not end.value.code
    metrics = json.loads((tmp_path / "figures" / "metrics.json").read_text())
    assert metrics["data"]["cases"] == 2 and metrics["psnr"]["n"] == 2
    assert metrics["classical"]["psnr"]["value"] > metrics["start"]["psnr"]["value"]
    assert len((tmp_path / "figures" / "cases.jsonl").read_text().splitlines()) == 2


def test_a_network_that_invents_is_seen_on_an_even_disc(tmp_path: Path) -> None:
    pytest.importorskip("deepinv")
    from medfm.evaluate.reconstruct import evaluate_reconstruct

    noisy = {**PLAIN, "physics": {"name": "ct", "views": 90, "photons": 3e3, "truth": "dose"}, "about": {"size": 32}}
    scan, honest, liar = body(tmp_path), Reconstructor(**noisy), Reconstructor(**noisy)
    liar.head.forward = lambda x, y, operator, spacing: [torch.cat([x[..., :14] + 0.5, x[..., 14:]], -1)]  # type: ignore[method-assign]
    found = [evaluate_reconstruct(m, [scan], output=tmp_path / "out", limit=1) for m in (honest, liar)]
    plain, tried = [metrics["plain"] for metrics in found], found[0]["tried"]
    assert max(v for name, v in tried.items() if "bands" in name) > found[0]["start"]["psnr"]["value"] + 0.5
    assert abs(plain[0]["network"] - plain[0]["start"]) < 1
    assert plain[1]["network"] < plain[1]["start"] - 3


def test_reconstruct_command_writes_what_it_says(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    import json
    import sys

    from medfm.cli import main

    words = ["reconstruct", str(kspace(tmp_path)), "--method", "bregman", "--output", str(tmp_path / "out")]
    monkeypatch.setattr(sys, "argv", ["medfm", *words])
    with pytest.raises(SystemExit) as end:
        main()
    assert not end.value.code
    assert "does not explain" in capsys.readouterr().out
    names = {p.name for p in (tmp_path / "out").iterdir()}
    assert names == {"reconstruction.nii.gz", "start.nii.gz", "unexplained.nii.gz", "overview.png", "about.json"}
    assert json.loads((tmp_path / "out" / "about.json").read_text())["method"] == "bregman"
