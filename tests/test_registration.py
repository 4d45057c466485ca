"""Registration to the body atlas, and the maps between a scan's world and the body frame."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from rprloc.geometry import Grid, apply_affine
from rprloc.model.body import BodyAtlas, BodyMap, sample
from rprloc.model.dense import LatentMap
from rprloc.model.descent import _pull
from rprloc.model.field import estimate_pose
from rprloc.model.looks import Look, RegistrationImage, Stage, Stages, local_contrast, smooth_contrast, smooth_grey
from rprloc.model.registration import _FURTHER, BY_CONTRAST, BY_GREY, register, register_query, register_side_by_side
from rprloc.model.robust import robust_affine
from rprloc.training.alignment import _mean_image, _registration_image
from tests.persons import person

AFFINE = np.array([[1.1, 0, 0.05, 5], [0, 0.9, 0, -3], [0, 0.1, 1, 700], [0, 0, 0, 1.0]])


def bent(size_mm: float = 8.0) -> BodyMap:
    """An affine and a random smooth displacement."""
    controls = Grid.isotropic((5, 5, 5), 60.0, [-120.0, -120.0, -120.0])
    return BodyMap(AFFINE, np.random.default_rng(0).normal(0, size_mm, (3, 5, 5, 5)).astype(np.float32), controls)


@pytest.fixture
def points_ras() -> np.ndarray:
    return np.random.default_rng(1).uniform(-200, 200, (40, 3))


def test_a_map_without_displacement_is_its_affine(points_ras: np.ndarray) -> None:
    flat = BodyMap.affine(AFFINE[:3, :3], AFFINE[:3, 3])
    np.testing.assert_allclose(flat.body(points_ras), points_ras @ AFFINE[:3, :3].T + AFFINE[:3, 3], atol=1e-4)


def test_there_and_back_is_the_same_place(points_ras: np.ndarray) -> None:
    np.testing.assert_allclose(bent().ras(bent().body(points_ras)), points_ras, atol=0.01)


def test_sampling_is_exact_for_a_linear_field_on_any_grid(ras_from_ijk: np.ndarray) -> None:
    grid = Grid((7, 6, 5), ras_from_ijk)
    matrix = np.array([[0.5, -1.0, 0.2], [0.1, 0.3, 0.9]])
    values = torch.from_numpy(np.moveaxis(grid.centres_ras() @ matrix.T, -1, 0)).float()
    points = grid.ras(np.random.default_rng(0).uniform(0, np.array(grid.shape) - 1, (50, 3)))
    np.testing.assert_allclose(sample(values, grid, points), points @ matrix.T, rtol=1e-4, atol=2e-3)


@pytest.mark.parametrize("found", [bent(), BodyMap.affine(AFFINE[:3, :3], AFFINE[:3, 3])], ids=["bent", "affine"])
def test_sampling_on_a_grid_is_sampling_at_its_voxels(found: BodyMap) -> None:
    voxels = Grid.isotropic((25, 31, 28), 11.0, [-160.0, -130.0, -190.0])  # it reaches beyond the controls
    body_grid = Grid.isotropic((8, 9, 7), 40.0, [-160.0, -150.0, 560.0])
    values = torch.rand(2, 8, 9, 7, generator=torch.Generator().manual_seed(0))
    expected = sample(values, body_grid, found.body(voxels.centres_ras()))
    np.testing.assert_allclose(found.sampled_on(values, body_grid, voxels), expected, atol=1e-4)
    assert expected.std() > 0.05


def test_a_robust_fit_finds_the_map_of_most_pairs() -> None:
    sources = torch.from_numpy(np.random.default_rng(0).uniform(-80, 80, (100, 3)))
    matrix, shift = torch.from_numpy(AFFINE[:3, :3]), torch.from_numpy(AFFINE[:3, 3])
    places = sources @ matrix.T + shift
    wild = places.clone()
    wild[::7] += 90.0
    kept = torch.ones(100, dtype=torch.bool)
    kept[::7] = False
    nearer_the_first = torch.exp(-torch.linalg.norm(sources - sources[0], dim=1) / 100.0)
    weights = torch.stack([torch.ones(100).double(), nearer_the_first])
    found, moved, residual_mm = robust_affine(sources, wild, weights, ridge_mm2=1e-6, outlier_mm=10.0, rounds=12)
    everywhere = sources @ found.transpose(1, 2) + moved[:, None]
    torch.testing.assert_close(everywhere, places.expand(2, -1, -1), atol=2.0, rtol=0)
    exact = robust_affine(sources[kept], places[kept], weights[:, kept], ridge_mm2=1e-6, outlier_mm=10.0, rounds=2)
    assert float(exact[2].max()) < 1e-3 < float(residual_mm.min())


def test_a_ridge_and_weights_do_what_they_do_in_least_squares() -> None:
    generator = np.random.default_rng(0)
    sources, places, weights = (
        generator.normal(0, 30, (20, 3)),
        generator.normal(200, 30, (20, 3)),
        generator.random(20),
    )
    found, shift, residual_mm = robust_affine(
        *(torch.from_numpy(values) for values in (sources, places, weights[None])),
        ridge_mm2=50.0, outlier_mm=10.0, rounds=1,
    )  # fmt: skip
    share = weights / weights.sum()
    s, x = sources - share @ sources, places - share @ places
    rows = np.concatenate([np.sqrt(share)[:, None] * s, np.sqrt(50.0) * np.eye(3)])
    wanted = np.concatenate([np.sqrt(share)[:, None] * x, np.sqrt(50.0) * np.eye(3)])
    turn = np.linalg.lstsq(rows, wanted, rcond=None)[0]
    np.testing.assert_allclose(found[0].numpy(), turn.T, atol=1e-9)
    np.testing.assert_allclose(shift[0].numpy(), share @ places - turn.T @ (share @ sources), atol=1e-7)
    assert float(residual_mm[0]) == pytest.approx(np.sqrt((share[:, None] * np.square(x - s @ turn)).sum() / 3.0))


@pytest.fixture(scope="module")
def drawn() -> tuple[RegistrationImage, BodyAtlas, BodyMap]:
    """The picture of a drawn person, the atlas of that person alone, and the map that it was made with."""
    picture = _registration_image(person(np.zeros(3), 1.0, 0, 480))
    true = BodyMap.affine(np.eye(3), [-144.0, -112.0, -240.0])
    return picture, _mean_image([picture, picture], [true, true]), true


@pytest.mark.parametrize("stages", [BY_GREY, BY_CONTRAST], ids=["grey", "contrast"])
@pytest.mark.parametrize("world_mm", [np.zeros(3), np.array([900.0, -1200.0, 2500.0])])
def test_registration_finds_a_scan_that_was_moved_turned_and_scaled(
    drawn: tuple[RegistrationImage, BodyAtlas, BodyMap], world_mm: np.ndarray, stages: Stages
) -> None:
    picture, atlas, true = drawn
    affine = picture.grid.ras_from_ijk.copy()
    affine[:3, 3] += world_mm
    picture = RegistrationImage(picture.image, picture.near, Grid(picture.grid.shape, affine))
    places_ras = picture.places_ras[::50]
    truth = true.body(places_ras - world_mm)
    turn = np.array([[0.95, 0.05, 0.0], [-0.05, 1.08, 0.03], [0.0, -0.02, 0.9]])
    middle = places_ras.mean(0)
    start = BodyMap.affine(turn, true.body(middle - world_mm) - turn @ middle + [12.0, -10.0, 25.0])
    found = register(picture, atlas, start, stages)
    before, after = (np.linalg.norm(one.body(places_ras) - truth, axis=1) for one in (start, found))
    assert after.mean() < 5.0 < 25.0 < before.mean()


def test_registration_is_repeatable_and_works_inside_inference_mode(
    drawn: tuple[RegistrationImage, BodyAtlas, BodyMap],
) -> None:
    picture, atlas, true = drawn
    first = register(picture, atlas, true, (Stage(5, 40.0, local_contrast),))
    with torch.inference_mode():
        again = register(picture, BodyAtlas(atlas.values * 1.0, atlas.grid), true, (Stage(5, 40.0, local_contrast),))
    np.testing.assert_array_equal(first.displacement_mm, again.displacement_mm)
    np.testing.assert_array_equal(first.body_from_ras, again.body_from_ras)


def test_a_place_that_the_atlas_does_not_know_pulls_at_nothing(
    drawn: tuple[RegistrationImage, BodyAtlas, BodyMap],
) -> None:
    picture, atlas, true = drawn
    unknown = BodyAtlas(torch.zeros_like(atlas.values), atlas.grid)
    found = register_query(picture, unknown, true)
    np.testing.assert_allclose(found.body(picture.places_ras), true.body(picture.places_ras), atol=0.01)


@pytest.mark.parametrize("look", [smooth_grey, local_contrast, smooth_contrast])
def test_what_is_compared_does_not_depend_on_voxels_outside_of_the_body(look: Look) -> None:
    image = torch.rand(12, 11, 10, generator=torch.Generator().manual_seed(0))
    known = torch.zeros(12, 11, 10, dtype=torch.bool)
    known[:8] = True
    torch.testing.assert_close(look(torch.where(known, image, 9.0), known)[:8], look(image, known)[:8])


def test_local_contrast_is_the_same_for_a_brighter_scan_and_one_of_more_contrast() -> None:
    image = torch.rand(12, 11, 10, generator=torch.Generator().manual_seed(0))
    known = torch.ones(12, 11, 10, dtype=torch.bool)
    contrast = local_contrast(image, known)
    torch.testing.assert_close(local_contrast(image + 3.0, known), contrast, atol=0.02, rtol=0)
    assert float(local_contrast(image * 5.0, known).std()) == pytest.approx(float(contrast.std()), rel=0.25)
    assert float(smooth_contrast(image, known).std()) < 0.5 * float(contrast.std())


def test_a_query_is_registered_to_the_mean_of_what_grey_values_and_contrast_say(
    drawn: tuple[RegistrationImage, BodyAtlas, BodyMap],
) -> None:
    picture, atlas, true = drawn
    start = BodyMap.affine(true.body_from_ras[:3, :3], true.body_from_ras[:3, 3] + [10.0, -8.0, 12.0])
    places_ras = picture.places_ras[::50]
    maps = register_side_by_side(picture, atlas, start, (BY_GREY, BY_CONTRAST))
    one, other = (found.body(places_ras) for found in maps)
    straight = np.mean([apply_affine(found.body_from_ras, places_ras) for found in maps], axis=0)
    expected = straight + _FURTHER * ((one + other) / 2.0 - straight)
    np.testing.assert_allclose(register_query(picture, atlas, start).body(places_ras), expected, atol=1e-3)
    assert np.abs(one - other).max() > 0.05


def test_the_pose_ignores_places_that_the_coarse_net_got_wrong() -> None:
    grid = Grid.isotropic((12, 10, 14), 16.0, [-90.0, -70.0, 400.0])
    turn = np.array([[1.1, 0.05, 0.0], [-0.04, 0.9, 0.02], [0.01, 0.0, 1.05]])
    body_mm = grid.centres_ras() @ turn.T + [5.0, 9.0, -480.0]
    body_mm[:3, :4] += [0.0, 0.0, 300.0]
    latents = torch.from_numpy(np.moveaxis(body_mm, -1, 0).copy()).float()
    pose = estimate_pose(LatentMap(latents, grid, torch.ones(grid.shape) > 0))
    right = grid.centres_ras()[6:].reshape(-1, 3)
    assert np.abs(pose.body(right) - body_mm[6:].reshape(-1, 3)).mean() < 8.0


def test_the_pose_of_a_flat_field_keeps_a_persons_size() -> None:
    grid = Grid.isotropic((12, 10, 14), 16.0, [-90.0, -70.0, 400.0])
    pose = estimate_pose(LatentMap(torch.zeros(3, *grid.shape), grid, torch.ones(grid.shape) > 0))
    assert np.linalg.svd(pose.body_from_ras[:3, :3])[1].min() > 0.59
    middle = grid.bounds.centre_ras
    np.testing.assert_allclose(pose.body(middle), 0.0, atol=20.0)


def test_the_written_out_gradient_is_that_of_the_likeness() -> None:
    """As PyTorch differentiates it, beyond the atlas and at its border of what is known too."""
    generator = torch.Generator().manual_seed(0)
    shape = (6, 5, 7)
    tables = [torch.rand(*shape, 2, generator=generator) for _ in range(2)]
    for table in tables:
        table[..., 1].round_()
    at_voxels = torch.rand(2, 3, 400, generator=generator) * torch.tensor([[8.0], [6.0], [9.0]]) - 1.0
    looks_like = torch.rand(2, 400, generator=generator)
    given = at_voxels.clone().requires_grad_()
    lattice = ((2.0 * given + 1.0) / torch.tensor(shape)[:, None] - 1.0).flip(1).transpose(1, 2)[:, None, None]
    atlas = torch.stack(tables).movedim(-1, 1)
    found = F.grid_sample(atlas, lattice, padding_mode="border", align_corners=False)[:, :, 0, 0]
    squared = (found[:, 1] * (found[:, 0] - looks_like).square()).sum(1) / (found[:, 1].sum(1) + 1.0)
    (expected,) = torch.autograd.grad(100.0 * squared.sum(), given)
    torch.testing.assert_close(_pull(tables, at_voxels, looks_like), expected, atol=1e-4, rtol=1e-3)
    assert float((expected == 0.0).float().mean()) < 0.5


def test_registrations_side_by_side_are_what_each_is_alone(drawn: tuple[RegistrationImage, BodyAtlas, BodyMap]) -> None:
    picture, atlas, true = drawn
    start = BodyMap.affine(true.body_from_ras[:3, :3], true.body_from_ras[:3, 3] + [10.0, -8.0, 12.0])
    places_ras = picture.places_ras[::50]
    both = register_side_by_side(picture, atlas, start, (BY_GREY, BY_CONTRAST))
    alone = [register(picture, atlas, start, stages) for stages in (BY_GREY, BY_CONTRAST)]
    for one, other in zip(both, alone, strict=True):
        apart_mm = np.linalg.norm(one.body(places_ras) - other.body(places_ras), axis=1)
        assert apart_mm.mean() < 0.2 and apart_mm.max() < 2.0  # many steps make that of sums that round differently
    assert np.abs(alone[0].body(places_ras) - alone[1].body(places_ras)).max() > 0.5
