"""The Pnets' dense pass, and the position field it gives."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from rprloc.errors import InputError
from rprloc.geometry import Grid
from rprloc.model import dense
from rprloc.model.body import BodyAtlas, BodyMap
from rprloc.model.dense import LatentMap, compute_latents
from rprloc.model.field import compute_position_field, look_closer, look_coarsely, register_input
from rprloc.model.input import SPACING_MM, NetworkInput, prepare_input
from rprloc.model.network import Pnet, RPRNet, load_model, mixed_precision, save_model
from rprloc.volume import Volume
from tests.phantoms import Store

SMALL = ((8, 4, 2, 1), (8, 3, 1, 1), (8, 3, 2, 1), (8, 3, 1, 2))


@pytest.fixture(scope="module")
def net() -> Pnet:
    torch.manual_seed(0)
    return Pnet(SMALL, descriptor_channels=4).eval().requires_grad_(False)


@pytest.fixture(scope="module")
def model() -> RPRNet:
    torch.manual_seed(0)
    return RPRNet(SMALL, SMALL[:2], 4).eval().requires_grad_(False)


@pytest.fixture(scope="module")
def image() -> torch.Tensor:
    return torch.rand(32, 24, 40, generator=torch.Generator().manual_seed(1))


def test_receptive_field_and_stride_are_what_the_layers_make(net: Pnet) -> None:
    edge = net.receptive_field
    assert net(torch.zeros(1, 1, edge, edge, edge)).shape == (1, 7, 1, 1, 1)
    assert net(torch.zeros(1, 1, edge + net.stride, edge, edge)).shape[2] == 2
    with pytest.raises(RuntimeError):
        net(torch.zeros(1, 1, edge - 1, edge, edge))


def test_dense_evaluation_equals_patch_by_patch_evaluation(net: Pnet) -> None:
    edge, stride = net.receptive_field, net.stride
    image = torch.rand(
        1, 1, edge + 2 * stride, edge + stride, edge + stride, generator=torch.Generator().manual_seed(2)
    )
    dense = net(image)[0]
    for i, j, k in np.ndindex(tuple(dense.shape[1:])):
        patch = image[..., i * stride :, j * stride :, k * stride :][..., :edge, :edge, :edge]
        torch.testing.assert_close(net(patch)[0, :, 0, 0, 0], dense[:, i, j, k], atol=1e-4, rtol=0)


def test_descriptors_have_unit_length(net: Pnet) -> None:
    edge = net.receptive_field
    descriptor = net(torch.rand(1, 1, edge, edge, edge))[0, 3:]
    assert float(descriptor.norm(dim=0)) == pytest.approx(1.0, abs=1e-5)


def test_lattice_places_lie_at_the_centres_of_their_cells(net: Pnet, image: torch.Tensor) -> None:
    grid = Grid.isotropic(tuple(image.shape), SPACING_MM, [5.0, -7.0, 100.0])
    found = compute_latents(net, NetworkInput(image, image > 0, grid))
    assert found.grid.shape == tuple(n // net.stride for n in image.shape)
    np.testing.assert_allclose(found.grid.bounds.walls_mm, grid.bounds.walls_mm, atol=1e-9)


def test_field_moves_with_the_image(net: Pnet, image: torch.Tensor) -> None:
    """Equivariance, border included: air around the scan is what the padding is."""
    grid = Grid.isotropic(tuple(image.shape), SPACING_MM, [0.0, 0.0, 0.0])
    moved = torch.nn.functional.pad(image, [4, 8, 12, 4, 8, 4])
    wide = Grid.isotropic(tuple(moved.shape), SPACING_MM, [-8 * SPACING_MM, -12 * SPACING_MM, -4 * SPACING_MM])
    small, large = (
        compute_latents(net, NetworkInput(image, image > 0, grid)),
        compute_latents(net, NetworkInput(moved, moved > 0, wide)),
    )
    places = small.grid.centres_ras().reshape(-1, 3)
    np.testing.assert_allclose(small.at(places), large.at(places), atol=1e-3)


def test_slabs_give_the_same_field(net: Pnet, image: torch.Tensor, monkeypatch: pytest.MonkeyPatch) -> None:
    grid = Grid.isotropic(tuple(image.shape), SPACING_MM, [0.0, 0.0, 0.0])
    whole = compute_latents(net, NetworkInput(image, image > 0, grid))
    monkeypatch.setattr(dense, "MAX_INPUT_VOXELS", 40_000)
    torch.testing.assert_close(
        compute_latents(net, NetworkInput(image, image > 0, grid)).latents, whole.latents, atol=1e-4, rtol=0
    )


def test_places_at_the_border_can_be_left_out(net: Pnet, image: torch.Tensor) -> None:
    """What is left is what it was, at the same places in the world; an axis of few places keeps more than half."""
    image = image[:, :, :12]
    grid = Grid.isotropic(tuple(image.shape), SPACING_MM, [9.0, -3.0, 70.0])
    whole, inner = (
        compute_latents(net, NetworkInput(image, image > 0.3, grid)),
        compute_latents(net, NetworkInput(image, image > 0.3, grid), border=2),
    )
    assert whole.grid.shape == (8, 6, 3)
    assert inner.grid.shape == (6, 4, 3)  # (8 - 1) // 4 = 1 of 8 at either end
    places = inner.grid.centres_ras().reshape(-1, 3)
    np.testing.assert_allclose(inner.at(places), whole.at(places), atol=1e-4)
    assert torch.equal(inner.inside, whole.inside[1:-1, 1:-1])


def test_the_number_of_threads_is_asked_for_and_changes_nothing(net: Pnet, image: torch.Tensor) -> None:
    grid, asked = Grid.isotropic(tuple(image.shape), SPACING_MM, [0.0, 0.0, 0.0]), []
    before = torch.get_num_threads()
    try:
        found = compute_latents(
            net, NetworkInput(image, image > 0, grid), threads=lambda: asked.append(len(asked)) or 1 + len(asked) % 2
        )
    finally:
        torch.set_num_threads(before)
    assert len(asked) >= len(net.layers)
    torch.testing.assert_close(
        found.latents, compute_latents(net, NetworkInput(image, image > 0, grid)).latents, atol=1e-4, rtol=0
    )


def test_a_body_at_the_borders_alone_is_a_body(model: RPRNet) -> None:
    grid = Grid.isotropic((64, 24, 24), 4.0, [2.0, 2.0, 2.0])
    hu = np.full(grid.shape, -1000, np.int16)
    hu[:6] = hu[-6:] = 40
    assert np.isfinite(compute_position_field(model, Volume(hu, grid)).body.body(grid.centres_ras())).all()


def test_position_field_does_not_depend_on_how_the_scan_is_stored(
    model: RPRNet, phantom: Volume, store_otherwise: Store
) -> None:
    hu, grid = store_otherwise(phantom.hu, phantom.grid)
    ours, other = compute_position_field(model, phantom), compute_position_field(model, Volume(hu, grid))
    places, _ = ours.fine.places()
    assert len(places) > 50
    np.testing.assert_allclose(ours.at(places), other.at(places), atol=0.05)


def test_what_goes_on_side_by_side_gives_what_it_gives_alone(phantom: Volume) -> None:
    model, threads = load_model(), torch.get_num_threads()
    whole = compute_position_field(model, phantom)
    assert torch.get_num_threads() == threads
    seen = prepare_input(phantom, torch.device("cpu"))
    alone = register_input(model, seen, phantom.name)
    np.testing.assert_allclose(alone.body(seen.grid.centres_ras()), whole.body.body(seen.grid.centres_ras()), atol=1e-3)
    _, pose = look_coarsely(model, seen, phantom.name)
    with mixed_precision(torch.device("cpu")):
        fine = look_closer(model.fine, seen, pose, compute_latents(model.fine, seen), torch.get_num_threads)
    torch.testing.assert_close(fine.latents, whole.fine.latents, atol=0.05, rtol=0.01)


def test_head_and_neck_are_seen_enlarged(model: RPRNet) -> None:
    generator = torch.Generator().manual_seed(0)
    image = 0.4 + 0.2 * torch.rand(20, 16, 48, generator=generator)
    seen = NetworkInput.of(image, Grid.isotropic((20, 16, 48), SPACING_MM, [2.0, 2.0, 2.0]))
    fine, pose = compute_latents(model.fine, seen), BodyMap.affine(np.eye(3), [0.0, 0.0, -100.0])
    closer = look_closer(model.fine, seen, pose, fine, torch.get_num_threads)
    above = pose.body(fine.grid.centres_ras())[..., 2] > 20.0
    assert 0.2 < above.mean() < 0.8
    torch.testing.assert_close(closer.latents[:, ~torch.from_numpy(above)], fine.latents[:, ~torch.from_numpy(above)])
    torch.testing.assert_close(closer.latents[:3], fine.latents[:3])  # positions stay

    enlarged = F.interpolate(image[None, None], scale_factor=1.5, mode="trilinear")[0, 0]
    grid = Grid.isotropic(enlarged.shape, SPACING_MM / 1.5, [SPACING_MM / 3.0] * 3)
    np.testing.assert_allclose(grid.bounds.walls_mm, seen.grid.bounds.walls_mm)
    whole = compute_latents(model.fine, NetworkInput.of(enlarged, grid))
    expected = F.normalize(torch.from_numpy(whole.at(fine.grid.centres_ras()[above])[:, 3:]), dim=1)
    torch.testing.assert_close(closer.latents[3:, torch.from_numpy(above)].T, expected, atol=1e-3, rtol=0)


def test_a_scan_below_the_neck_is_seen_as_it_is(model: RPRNet) -> None:
    image = torch.full((20, 16, 24), 0.5)
    seen = NetworkInput.of(image, Grid.isotropic((20, 16, 24), SPACING_MM, [2.0, 2.0, 2.0]))
    fine, pose = compute_latents(model.fine, seen), BodyMap.affine(np.eye(3), [0.0, 0.0, -300.0])
    assert look_closer(model.fine, seen, pose, fine, torch.get_num_threads) is fine


def test_a_scan_of_air_is_refused(model: RPRNet) -> None:
    grid = Grid.isotropic((20, 20, 20), 4.0, [0.0, 0.0, 0.0])
    hu = np.full(grid.shape, -1000, np.int16)
    hu[3, 3, 3] = -990
    with pytest.raises(InputError, match="no body"):
        compute_position_field(model, Volume(hu, grid, "empty"))


def test_a_speck_too_small_for_a_coarse_place_is_no_body(model: RPRNet) -> None:
    grid = Grid.isotropic((24, 24, 24), 4.0, [2.0, 2.0, 2.0])
    hu = np.full(grid.shape, -1000, np.int16)
    hu[11:13, 11:13, 11:13] = 60
    with pytest.raises(InputError, match="no body"):
        compute_position_field(model, Volume(hu, grid, "speck"))


def test_places_are_body_only(net: Pnet, image: torch.Tensor) -> None:
    body = torch.zeros_like(image, dtype=torch.bool)
    body[:16] = True
    found: LatentMap = compute_latents(
        net, NetworkInput(image, body, Grid.isotropic(tuple(image.shape), 4.0, [0.0] * 3))
    )
    places, latents = found.places()
    assert len(places) == len(latents) == 4 * 6 * 10
    assert (places[:, 0] < 16 * 4.0).all()


def test_weights_come_back_whole_and_name_themselves(tmp_path, model: RPRNet) -> None:
    shipped_size = RPRNet()
    shipped_size.atlas = BodyAtlas.at(torch.rand(2, 5, 4, 6).round(), [-3.0, 2.0, 1.0])
    save_model(shipped_size, tmp_path / "model.pt")
    again = load_model(tmp_path / "model.pt")
    torch.testing.assert_close(again.atlas.values, shipped_size.atlas.values)
    assert again.atlas.grid == shipped_size.atlas.grid
    assert again.identity() == shipped_size.identity() != RPRNet().identity()
    save_model(model, tmp_path / "other.pt")
    with pytest.raises(InputError, match="does not hold the weights"):
        load_model(tmp_path / "other.pt")
    (tmp_path / "text.pt").write_text("no weights")
    with pytest.raises(InputError, match="does not hold the weights"):
        load_model(tmp_path / "text.pt")
    with pytest.raises(InputError, match="no weights at"):
        load_model(tmp_path / "missing.pt")
