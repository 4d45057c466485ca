"""Training crops come from where they say they come from."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from rprloc.geometry import Grid
from rprloc.modality import CT, MR, Modality
from rprloc.model.network import Pnet
from rprloc.training.sampling import (
    TrainingScan,
    choose_scan,
    cut_crop,
    jitter,
    random_crop,
    random_matrix,
    random_place,
)

NET = Pnet(((4, 4, 2, 1), (4, 3, 1, 1)))


def coded_scan(axis: int) -> TrainingScan:
    """A scan whose grey values are the world coordinate along one axis: 0.2 + 0.002 a millimetre from the corner."""
    grid = Grid.isotropic((40, 36, 44), 4.0, [-90.0, 20.0, 600.0])
    along = grid.centres_ras()[..., axis] - grid.ras([0, 0, 0])[axis]
    return TrainingScan.from_array("coded", "g", np.rint(255 * (0.2 + 0.002 * along)).astype(np.uint8), grid)


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_a_crop_shows_the_places_it_names(axis: int) -> None:
    scan = coded_scan(axis)
    generator = np.random.default_rng(3)
    matrix = random_matrix(generator, 20.0, 0.15)
    centre = scan.grid.bounds.centre_ras + np.array([3.0, -5.0, 7.0])
    edge = 13
    image = cut_crop(scan, centre, matrix, edge)[0].numpy()
    offsets = (np.arange(edge) - 6) * 4.0
    places = np.stack(np.meshgrid(offsets, offsets, offsets, indexing="ij"), -1) @ matrix.T + centre
    expected = 0.2 + 0.002 * (places[..., axis] - scan.grid.ras([0, 0, 0])[axis])
    np.testing.assert_allclose(image, expected, atol=0.006)


def test_outputs_of_a_crop_are_the_centres_of_their_patches() -> None:
    scan = coded_scan(2)
    centre = scan.grid.bounds.centre_ras
    crop = random_crop(scan, centre, 3, NET, np.random.default_rng(0), rotation_deg=0.0, scale=0.0)
    assert crop.source_ras.shape == (3, 3, 3, 3)
    np.testing.assert_allclose(crop.source_ras[1, 1, 1], centre, atol=1e-6)
    np.testing.assert_allclose(crop.source_ras[2, 1, 1] - crop.source_ras[1, 1, 1], [8.0, 0.0, 0.0], atol=1e-6)
    assert NET(crop.image[None]).shape[2:] == crop.inside.shape == (3, 3, 3)


def test_the_same_generator_gives_the_same_crop() -> None:
    scan = coded_scan(0)
    one, two = (random_crop(scan, scan.grid.bounds.centre_ras, 3, NET, np.random.default_rng(5)) for _ in range(2))
    assert torch.equal(one.image, two.image)
    np.testing.assert_array_equal(one.source_ras, two.source_ras)


@pytest.mark.parametrize(
    ("modality", "recoloured"), [(CT, False), (MR, False), (CT, True)], ids=["CT", "MR", "recoloured"]
)
def test_jitter_leaves_air_alone_and_stays_in_range(modality: Modality, recoloured: bool) -> None:
    image = torch.zeros(1, 20, 20, 20)
    image[:, 5:15, 5:15, 5:15] = 0.55
    changed = 0
    for seed in range(20):
        found = jitter(image, np.random.default_rng(seed), modality, recoloured=recoloured)
        assert float(found.min()) >= 0.0 and float(found.max()) <= 1.0
        assert float(found[:, :3].abs().max()) == 0.0
        changed += not torch.equal(found, image)
    assert changed > 10


def test_recoloured_tissue_is_as_often_brighter_as_darker_than_its_neighbour() -> None:
    image = torch.zeros(1, 40, 40, 40)
    image[:, 4:20, 4:36, 4:36], image[:, 20:36, 4:36, 4:36] = 0.45, 0.56  # fluid, and an organ with contrast agent
    brighter = 0
    for seed in range(60):
        found = jitter(image, np.random.default_rng(seed), recoloured=True)
        fluid, organ = found[:, 10:15, 15:25, 15:25].mean(), found[:, 25:30, 15:25, 15:25].mean()
        brighter += int(organ > fluid)
    assert 20 < brighter < 50  # some keep their contrast


def test_random_places_lie_in_the_body() -> None:
    grid = Grid.isotropic((30, 30, 30), 4.0, [0.0, 0.0, 0.0])
    image = np.zeros(grid.shape, np.uint8)
    image[:10] = 130
    scan = TrainingScan.from_array("half", "g", image, grid)
    places = np.stack([random_place(scan, np.random.default_rng(seed)) for seed in range(50)])
    assert (places[:, 0] < 13 * 4.0).all()


@pytest.mark.parametrize("rare", [{"group": "rare"}, {"modality": MR}])
def test_small_groups_are_chosen_more_often_than_their_share(rare: dict[str, Any]) -> None:
    scans = [coded_scan(0)] * 16 + [replace(coded_scan(0), **rare)]
    generator = np.random.default_rng(0)
    count = sum(choose_scan(scans, generator) == 16 for _ in range(500))
    assert 60 < count < 140  # one in five instead of one in seventeen
