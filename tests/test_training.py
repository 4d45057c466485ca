"""Training: what it learns, and that it stops and goes on without a trace."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from rprloc.errors import InputError
from rprloc.geometry import Grid
from rprloc.model.body import BodyMap
from rprloc.model.network import Pnet
from rprloc.training import training
from rprloc.training.body_frame import make_body_frame
from rprloc.training.config import TrainingConfig
from rprloc.training.losses import Batch, _descriptor_loss, coarse_draw, coarse_loss, fine_draw, fine_loss, standardize
from rprloc.training.sampling import TrainingScan
from rprloc.training.training import _held_out, _write_config, fit, train
from tests.persons import person

LAYERS = ((8, 4, 2, 1), (16, 3, 2, 1), (16, 3, 1, 1))


@pytest.fixture(scope="module")
def scans() -> list[TrainingScan]:
    return [person(np.zeros(3), 1.0, 0, 300), person(np.array([40.0, 0, 0]), 1.0, 100, 480)]


@pytest.fixture(scope="module")
def maps(scans: list[TrainingScan]) -> list[BodyMap]:
    """The true maps of the drawn persons, around their middle."""
    found = []
    for scan, first_mm in zip(scans, (0.0, 100.0), strict=True):
        affine = np.eye(4)
        affine[:3, 3] = (
            np.array([-144.0, -112.0, first_mm - 240.0]) - scan.grid.bounds.min_ras * [1, 1, 1] - [2.0, 2, 2]
        )
        controls = Grid.isotropic((2, 2, 2), 300.0, scan.grid.bounds.min_ras)
        found.append(BodyMap(affine, np.zeros((3, 2, 2, 2), np.float32), controls))
    return found


def net(seed: int = 0, descriptor_channels: int = 0) -> Pnet:
    torch.manual_seed(seed)
    return Pnet(LAYERS, descriptor_channels)


def test_a_resumed_run_ends_with_the_weights_of_an_unbroken_one(
    tmp_path: Path, scans: list[TrainingScan], maps: list[BodyMap]
) -> None:
    config = TrainingConfig(coarse_outputs=4, checkpoint_steps=3)
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    unbroken, broken = net(), net()
    draw = coarse_draw(scans, maps, unbroken, config)
    fit("coarse", unbroken, draw, coarse_loss, 6, tmp_path / "a", config, resume=False)

    calls = 0

    def stops_in_the_fifth_step(net: Pnet, batch: Batch) -> tuple[torch.Tensor, torch.Tensor]:
        nonlocal calls
        calls += 1
        if calls == 5:
            raise KeyboardInterrupt
        return coarse_loss(net, batch)

    with pytest.raises(KeyboardInterrupt):
        fit("coarse", broken, draw, stops_in_the_fifth_step, 6, tmp_path / "b", config, resume=False)
    again = net(seed=7)
    fit("coarse", again, draw, coarse_loss, 6, tmp_path / "b", config, resume=True)
    for ours, theirs in zip(again.parameters(), unbroken.parameters(), strict=True):
        torch.testing.assert_close(ours, theirs, atol=1e-6, rtol=1e-5)


@pytest.mark.slow
def test_the_coarse_net_learns_where_places_are(tmp_path: Path, scans: list[TrainingScan], maps: list[BodyMap]) -> None:
    config = TrainingConfig(coarse_outputs=6, learning_rate=3e-3)
    learner = net()
    draw = coarse_draw(scans, maps, learner, config)
    standardize(learner, [crop for n in range(4) for crop in draw(np.random.default_rng((1, n))).crops])
    fit("coarse", learner, draw, coarse_loss, 300, tmp_path, config, resume=False)
    rows = np.loadtxt(tmp_path / "coarse.csv", delimiter=",", skiprows=1, usecols=(2, 3))
    assert (rows[-1] < 0.7 * rows[0]).all()  # across the body; its length takes more context and time


def test_measures_on_held_out_scans_are_the_same_each_time_and_know_the_truth(
    scans: list[TrainingScan], maps: list[BodyMap]
) -> None:
    config, learner = TrainingConfig(coarse_outputs=4), net()
    measure = _held_out(scans, maps, 4, coarse_draw(scans, maps, learner, config), coarse_loss, config)
    first = measure(learner)
    assert list(first) == ["validation", "offsets", "views"]
    assert all(mm.shape == (3,) and np.isfinite(mm).all() and (mm > 0.0).all() for mm in first.values())
    for what, mm in measure(learner).items():
        np.testing.assert_array_equal(mm, first[what])
    with torch.no_grad():  # a shift of all latents is an error of places, but not of offsets nor of views
        learner.position.bias += 5.0
    shifted = measure(learner)
    assert (shifted["validation"] > first["validation"] + 50.0).all()
    for what in ("offsets", "views"):
        np.testing.assert_allclose(shifted[what], first[what], rtol=0.02, atol=0.02)
    with torch.no_grad():  # a network that says the same everywhere has offsets of zero, and views that agree
        learner.position.weight.zero_()
    flat = measure(learner)
    np.testing.assert_allclose(flat["views"], 0.0, atol=1e-3)
    assert (flat["offsets"] > 5.0).all()


def test_a_configuration_is_read_as_a_run_wrote_it(tmp_path: Path, scans: list[TrainingScan]) -> None:
    written = TrainingConfig(seed=3, learning_rate=1e-3, fine_steps=11)
    _write_config(tmp_path / "config.json", written, scans, [], None, torch.device("cpu"))
    assert TrainingConfig.read(tmp_path / "config.json") == written
    made_with = json.loads((tmp_path / "config.json").read_text())["made_with"]
    assert made_with["scans"] == 2 and made_with["torch"] == torch.__version__
    (tmp_path / "few.json").write_text('{"training": {"fine_steps": 11}}')
    assert TrainingConfig.read(tmp_path / "few.json") == TrainingConfig(fine_steps=11)


@pytest.mark.parametrize(
    ("text", "about"),
    [
        ("{", "cannot be read as JSON"),
        ("[]", "is no training configuration"),
        ('{"training": {"steps": 5}}', "'steps' was unexpected"),
        ('{"training": {"seed": 0.5}}', "0.5 is not of type 'integer'"),
        ('{"training": {"learning_rate": "fast"}}', "'fast' is not of type 'number'"),
        ('{"training": {"fine_steps": -1}}', "less than the minimum"),
    ],
)
def test_a_bad_configuration_is_refused(tmp_path: Path, text: str, about: str) -> None:
    (tmp_path / "config.json").write_text(text)
    with pytest.raises(InputError, match=about) as caught:
        TrainingConfig.read(tmp_path / "config.json")
    assert "coarse_steps" in str(caught.value)


def test_a_step_changes_every_weight(tmp_path: Path, scans: list[TrainingScan], maps: list[BodyMap]) -> None:
    config = TrainingConfig(coarse_outputs=4)
    learner, before = net(), net()
    fit("coarse", learner, coarse_draw(scans, maps, learner, config), coarse_loss, 2, tmp_path, config, resume=False)
    assert all(not torch.equal(a, b) for a, b in zip(learner.parameters(), before.parameters(), strict=True))


def test_every_two_crops_of_the_fine_network_show_one_part_of_a_scan(
    scans: list[TrainingScan], maps: list[BodyMap]
) -> None:
    learner, config = net(), TrainingConfig(fine_outputs=5)
    batch = fine_draw(scans, maps, learner, config)(np.random.default_rng(2))
    middles_ras = np.array([crop.source_ras.mean((0, 1, 2)) for crop in batch.crops]).reshape(-1, 2, 3)
    apart_mm = np.linalg.norm(middles_ras[:, 0] - middles_ras[:, 1], axis=1)
    assert (apart_mm > 0.5).all() and (apart_mm < 30.0).all()
    for crop, body_mm in zip(batch.crops, batch.body_mm, strict=True):  # the drawn persons' maps are shifts
        shift_mm = body_mm - crop.source_ras
        np.testing.assert_allclose(shift_mm, np.broadcast_to(shift_mm[0, 0, 0], shift_mm.shape), atol=1e-3)


def test_the_fine_loss_reaches_every_weight(scans: list[TrainingScan], maps: list[BodyMap]) -> None:
    learner = net(descriptor_channels=8)
    config = TrainingConfig(fine_outputs=5)
    loss, error_mm = fine_loss(learner, fine_draw(scans, maps, learner, config)(np.random.default_rng(0)))
    loss.backward()
    assert error_mm.shape == (3,)
    assert all(p.grad is not None and torch.isfinite(p.grad).all() and p.grad.any() for p in learner.parameters())


def test_descriptor_loss_is_small_only_when_the_right_places_match() -> None:
    places = torch.from_numpy(np.random.default_rng(0).uniform(0, 200, (60, 3))).float()
    descriptors = torch.nn.functional.normalize(torch.randn(60, 16, generator=torch.Generator().manual_seed(0)), dim=1)
    right = _descriptor_loss(descriptors, descriptors, places, places)
    wrong = _descriptor_loss(descriptors, descriptors.roll(1, 0), places, places)
    assert float(right) < 0.2 < 5.0 < float(wrong)


def test_descriptor_loss_without_common_places_is_zero_and_has_a_gradient() -> None:
    descriptors = torch.randn(5, 4, requires_grad=True)
    loss = _descriptor_loss(descriptors, torch.randn(6, 4), torch.zeros(5, 3), torch.full((6, 3), 500.0))
    loss.backward()
    assert float(loss.detach()) == 0.0
    assert descriptors.grad is not None


FEW = TrainingConfig(coarse_steps=1, fine_steps=1, coarse_outputs=3, fine_outputs=3)


def test_a_run_that_began_anew_and_stopped_goes_on_from_nothing_older(
    tmp_path: Path, scans: list[TrainingScan], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The earlier run in its folder had all of its parts done."""
    cpu, config = torch.device("cpu"), replace(FEW, seed=1)
    named = [replace(scan, name=f"drawn{n}") for n, scan in enumerate(scans)]
    train(named, tmp_path / "a", FEW, device=cpu)
    (tmp_path / "a" / "second_body_frame.npz").write_bytes(b"of the earlier run")

    def stop(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as stopped, pytest.raises(KeyboardInterrupt):
        stopped.setattr(training, "_fit_stage", stop)
        train(named, tmp_path / "a", config, device=cpu)
    assert not (tmp_path / "a" / "second_body_frame.npz").exists()
    again = train(named, tmp_path / "a", config, device=cpu, resume=True)
    unbroken = train(named, tmp_path / "b", config, device=cpu)
    for ours, theirs in zip(again.parameters(), unbroken.parameters(), strict=True):
        torch.testing.assert_close(ours, theirs, atol=1e-5, rtol=1e-4)


def test_a_run_does_not_go_on_in_the_frame_of_other_scans(tmp_path: Path, scans: list[TrainingScan]) -> None:
    """Its networks, and scans of a second modality, lie in the frame that it began with."""
    named = [replace(scan, name=f"drawn{n}") for n, scan in enumerate(scans)]
    maps, _ = make_body_frame(named, [], tmp_path / "body_frame.npz", None, resume=True)  # nothing was kept yet
    again, _ = make_body_frame(named, [], tmp_path / "body_frame.npz", None, resume=True)
    np.testing.assert_array_equal(maps[0].body_from_ras, again[0].body_from_ras)
    more = [*named, replace(scans[0], name="another")]
    with pytest.raises(InputError, match="began with other scans"):
        make_body_frame(more, [], tmp_path / "body_frame.npz", None, resume=True)
