"""Scans cut to boxes hold the whole box and margin, for any way of storing them, and what is found goes back in."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import nibabel
import numpy as np
import pytest
import SimpleITK as sitk

import rprloc
from rprloc.detection import AbsentOrgan, Detections, OrganDetection, Presence
from rprloc.errors import InputError
from rprloc.geometry import Box, Grid
from rprloc.io.crops import Crop
from rprloc.io.reading import Scan, read_scan
from rprloc.io.results import ResultFiles, write_results
from rprloc.volume import Volume, to_sitk
from tests.boxes import points_of
from tests.command_line import rprloc as run
from tests.dicoms import write_series
from tests.example import ExampleFiles
from tests.phantoms import SHAPE, Affine
from tests.test_batch import located, write_manifest, write_scans

MARGIN_MM = 7.0


def detections_of(boxes: dict[str, Box | None], query: str = "bert") -> Detections:
    """A result with these boxes; organs with None are absent."""
    nowhere = Presence(0.0, 0.04, 0.96)
    organs = tuple(
        AbsentOrgan(name, nowhere, ("anna",))
        if box is None
        else OrganDetection(name, points_of(box), np.zeros(6), 1, ("anna",))
        for name, box in boxes.items()
    )
    return Detections(query, organs, "model", "set")


def numbered(affine: Affine, dtype: str = "int16") -> Volume:
    """A scan in which every voxel has another value."""
    return Volume(np.arange(np.prod(SHAPE)).reshape(SHAPE).astype(dtype), Grid(SHAPE, affine), "bert")


def boxes_in(grid: Grid) -> dict[str, Box]:
    """One box inside of a grid, one that reaches beyond it, and one thinner than a voxel."""
    centre, size = grid.bounds.centre_ras, grid.bounds.size_mm
    return {
        "inside": Box(centre - 0.11 * size, centre + 0.13 * size),
        "beyond": Box(centre + 0.2 * size, centre + 0.8 * size),
        "thin": Box(centre + 0.17, centre + np.array([0.47, 0.17, 0.18])),
    }


def covered_by(grid: Grid, box: Box, margin_mm: float) -> np.ndarray:
    """The voxels (I, J, K) in which places of the box and its margin lie, tried closely, but not on its very faces."""
    low, high = box.min_ras - margin_mm, box.max_ras + margin_mm
    inset = np.minimum(1e-3, 0.25 * (high - low))
    steps = np.linspace(low + inset, high - inset, 60).T
    places_ijk = np.rint(grid.ijk(np.stack(np.meshgrid(*steps), -1).reshape(-1, 3))).astype(int)
    hit = np.zeros(grid.shape, bool)
    hit[tuple(places_ijk[np.all((places_ijk >= 0) & (places_ijk < grid.shape), axis=1)].T)] = True
    return hit


def test_a_block_of_voxels_holds_the_box_and_at_most_one_voxel_more(ras_from_ijk: Affine) -> None:
    grid = Grid(SHAPE, ras_from_ijk)
    for box in boxes_in(grid).values():
        for margin_mm in (0.0, MARGIN_MM):
            block = np.array(grid.voxels_around(box, margin_mm))
            held = np.zeros(grid.shape, bool)
            held[tuple(slice(*part) for part in block)] = True
            assert held[covered_by(grid, box, margin_mm)].all()
            corners = np.stack(np.meshgrid(*np.stack([box.min_ras - margin_mm, box.max_ras + margin_mm], 1)), -1)
            corners_ijk = grid.ijk(corners.reshape(-1, 3))
            low, high = corners_ijk.min(0).clip(-0.5), np.minimum(corners_ijk.max(0), np.array(SHAPE) - 0.5)
            assert (block[:, 0] - 0.5 > low - 1.0).all() and (block[:, 1] - 0.5 < high + 1.0).all()


def test_a_box_elsewhere_has_no_voxels_and_faces_on_borders_take_no_more(ras_from_ijk: Affine) -> None:
    grid = Grid(SHAPE, ras_from_ijk)
    away = grid.bounds.max_ras + 50.0
    assert grid.voxels_around(Box(away, away + 10.0)) is None
    assert Grid(SHAPE, np.eye(4)).voxels_around(Box([1.5, 2.5, 3.5], [4.5, 6.5, 8.5])) == ((2, 5), (3, 7), (4, 9))


@pytest.mark.parametrize("dtype", ["int16", "uint8", "int32", "float32", "float64"])
def test_crops_are_the_scans_own_voxels_and_types(tmp_path: Path, dtype: str) -> None:
    volume = numbered(np.diag([2.0, 3, 4, 1]), dtype)
    found = detections_of(boxes_in(volume.grid))
    write_results(tmp_path, Scan(volume), found, crop_margin_mm=MARGIN_MM)
    crop = Crop.load(tmp_path / "bert.crops" / "inside.json")
    image = nibabel.load(tmp_path / "bert.crops" / "inside.nii.gz")
    assert image.get_data_dtype() == np.dtype(dtype)
    np.testing.assert_array_equal(np.asanyarray(image.dataobj), volume.hu[crop.slices])


def test_crops_hold_box_and_margin_in_every_orientation_and_go_back(tmp_path: Path, ras_from_ijk: Affine) -> None:
    volume = numbered(ras_from_ijk)
    boxes = boxes_in(volume.grid)
    write_results(tmp_path, Scan(volume), detections_of(boxes), crop_margin_mm=MARGIN_MM)
    for organ, box in boxes.items():
        crop = Crop.load(tmp_path / "bert.crops" / f"{organ}.json")
        image = nibabel.load(tmp_path / "bert.crops" / f"{organ}.nii.gz")
        part = np.asanyarray(image.dataobj)
        # The image lies where its voxels lay, told by the image alone.
        assert crop.grid.same_as(Grid(part.shape, image.affine), 1e-3)
        there_ijk = np.rint(volume.grid.ijk(Grid(part.shape, image.affine).centres_ras())).astype(int)
        np.testing.assert_array_equal(part, volume.hu[tuple(np.moveaxis(there_ijk, -1, 0))])
        hit = covered_by(volume.grid, box, MARGIN_MM)
        whole = crop.paste(np.ones(part.shape, np.uint8))
        assert whole.shape == SHAPE and whole.dtype == np.uint8 and whole[hit].all()
        np.testing.assert_array_equal(crop.paste(part)[whole > 0], volume.hu[whole > 0])
        assert not crop.paste(part)[whole == 0].any() and (crop.margin_mm, crop.organ) == (MARGIN_MM, organ)


def test_the_command_pastes_a_label_map_back_however_it_is_stored(tmp_path: Path, ras_from_ijk: Affine) -> None:
    volume = numbered(ras_from_ijk)
    write_results(tmp_path, Scan(volume), detections_of(boxes_in(volume.grid)), crop_margin_mm=MARGIN_MM)
    place = tmp_path / "bert.crops" / "inside.json"
    crop = Crop.load(place)
    part = (volume.hu[crop.slices] % 3).astype(np.uint8)
    sitk.WriteImage(to_sitk(part, crop.grid), tmp_path / "same.nii.gz")
    turned = Grid(part[::-1].shape, crop.grid.ras_from_ijk @ np.array([[-1, 0, 0, part.shape[0] - 1], *np.eye(4)[1:]]))
    sitk.WriteImage(to_sitk(part[::-1], turned), tmp_path / "turned.nrrd")
    for name in ("same.nii.gz", "turned.nrrd"):
        done = run("paste", tmp_path / name, "--crop", place, "--out", tmp_path / "whole.nii.gz")
        assert (done.exit_code, done.stderr) == (0, "")
        image = nibabel.load(tmp_path / "whole.nii.gz")
        np.testing.assert_array_equal(np.asanyarray(image.dataobj), crop.paste(part))
        assert volume.grid.same_as(Grid(image.shape, image.affine), 1e-3)


def test_what_cannot_be_pasted_is_refused(tmp_path: Path) -> None:
    volume = numbered(np.diag([2.0, 3, 4, 1]))
    outside = Box([900, 900, 900], [910, 910, 910])
    found = detections_of(boxes_in(volume.grid) | {"outside": outside})
    write_results(tmp_path, Scan(volume), found, crop_margin_mm=MARGIN_MM)
    folder = tmp_path / "bert.crops"
    good = json.loads((folder / "inside.json").read_text())
    sitk.WriteImage(to_sitk(volume.hu, volume.grid), tmp_path / "whole.nii.gz")
    for change, about in (
        ({"format": "other"}, "does not tell the place of a crop"),
        ({"version": 2}, "Update"),
        ({"version": "1"}, "damaged"),
        ({"crop": {"start_ijk": [0, 0, 0], "shape": [99, 1, 1]}}, "damaged"),
        ({"crop": {"start_ijk": [0.5, 0, 0], "shape": [1, 1, 1]}}, "damaged"),
        ({"crop": {"start_ijk": [0, 0], "shape": [1, 1, 1]}}, "damaged"),
        ({"crop": []}, "damaged"),
        ({"scan": {"shape": [10**9] * 3, "ras_from_ijk": np.eye(4).tolist()}}, "Scan|scan|large"),
        ({"scan": {"shape": list(SHAPE), "ras_from_ijk": np.zeros((4, 4)).tolist()}}, "affine"),
    ):
        (tmp_path / "bad.json").write_text(json.dumps(good | change))
        with pytest.raises(InputError, match=about):
            Crop.load(tmp_path / "bad.json")
    for path, about in ((tmp_path / "none.json", "does not tell"), (folder / "outside.json", "outside the scan")):
        with pytest.raises(InputError, match=about):
            Crop.load(path)
    with pytest.raises(InputError, match="on its voxels"):
        Crop.load(folder / "inside.json").paste(volume.hu)
    done = run("paste", tmp_path / "whole.nii.gz", "--crop", folder / "inside.json", "--out", tmp_path / "out.nii.gz")
    assert done.exit_code == 2 and "grid" in done.stderr and not (tmp_path / "out.nii.gz").exists()


def test_a_dicom_series_is_cut_on_its_volumes_grid(tmp_path: Path) -> None:
    hu = np.random.default_rng(0).integers(-900, 900, (20, 18, 17)).astype(np.int16)
    write_series(tmp_path / "series", hu)
    scan = read_scan(tmp_path / "series")
    centre = scan.volume.grid.bounds.centre_ras
    found = detections_of({"heart": Box(centre - 8, centre + 8)}, "series")
    write_results(tmp_path, scan, found, crop_margin_mm=5.0)
    crop = Crop.load(tmp_path / "series.crops" / "heart.json")
    image = nibabel.load(tmp_path / "series.crops" / "heart.nii.gz")
    assert crop.scan_grid == scan.volume.grid and crop.grid.same_as(Grid(image.shape, image.affine), 1e-3)
    np.testing.assert_array_equal(np.asanyarray(image.dataobj), scan.volume.hu[crop.slices])


def test_absent_organs_have_no_crop_and_names_of_organs_make_no_paths(tmp_path: Path) -> None:
    volume = numbered(np.diag([2.0, 3, 4, 1]))
    box = boxes_in(volume.grid)["inside"]
    names = ["../up", 'le"ft/<lobe>.nii', "Liver", "liver", "leber ä", "..", "n" * 300, "\U0001f600"]
    write_results(tmp_path, Scan(volume), detections_of({"no": None} | dict.fromkeys(names, box)), crop_margin_mm=1.0)
    assert [path.name for path in tmp_path.glob("*")].count("bert.crops") == 1
    places = list((tmp_path / "bert.crops").glob("*.json"))
    assert {Crop.load(path).organ for path in places} == set(names)
    assert len({path.name.casefold() for path in places}) == len(names) == len(list(tmp_path.rglob("*.nii.gz")))
    write_results(tmp_path, Scan(volume), detections_of({"no": None}), crop_margin_mm=1.0)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["bert.detections.json"]


def test_crops_of_an_earlier_run_go_and_what_others_put_there_stays(tmp_path: Path) -> None:
    volume = numbered(np.diag([2.0, 3, 4, 1]))
    box = boxes_in(volume.grid)["inside"]
    write_results(tmp_path, Scan(volume), detections_of({"liver": box, "spleen": box}), crop_margin_mm=1.0)
    (tmp_path / "bert.crops" / "liver_seg.nii.gz").write_text("a person's work")
    (tmp_path / "bert.crops" / "notes.json").write_text("{}")
    write_results(tmp_path, Scan(volume), detections_of({"liver": box, "spleen": None}), crop_margin_mm=2.0)
    names = {path.name for path in (tmp_path / "bert.crops").iterdir()}
    assert names == {"liver.nii.gz", "liver.json", "liver_seg.nii.gz", "notes.json"}
    assert Crop.load(tmp_path / "bert.crops" / "liver.json").margin_mm == 2.0
    ResultFiles(tmp_path, "bert").delete()
    assert {path.name for path in tmp_path.rglob("*.*")} == {"bert.crops", "liver_seg.nii.gz", "notes.json"}


def test_where_a_crop_cannot_be_written_nothing_is(tmp_path: Path) -> None:
    volume = numbered(np.diag([2.0, 3, 4, 1]))
    found = detections_of(boxes_in(volume.grid))
    (tmp_path / "bert.crops").write_text("a file")
    with pytest.raises(InputError, match="cannot be made"):
        write_results(tmp_path, Scan(volume), found, crop_margin_mm=1.0)
    assert [path.name for path in tmp_path.iterdir()] == ["bert.crops"]
    for margin_mm in (-1.0, float("nan"), float("inf")):
        with pytest.raises(InputError, match="margin"):
            write_results(tmp_path, Scan(volume), replace(found, query="carl"), crop_margin_mm=margin_mm)
    assert [path.name for path in tmp_path.iterdir()] == ["bert.crops"]


def test_the_command_refuses_a_margin_before_the_work(example: ExampleFiles, tmp_path: Path) -> None:
    for margin in ("-1", "nan", "inf"):
        done = run("locate", example.support_set, example.image, "--out", tmp_path / "out", "--crop", margin)
        assert done.exit_code == 2 and "margin" in done.stderr and not (tmp_path / "out").exists()


def test_a_manifest_goes_on_where_crops_prompts_or_slices_are_missing(example: ExampleFiles, tmp_path: Path) -> None:
    scans, out = write_scans(example, tmp_path / "scans", 2), tmp_path / "out"
    manifest = write_manifest(tmp_path / "m.csv", [{"path": str(path)} for path in scans])
    wishes = ("--crop", 5, "--prompts", "--picture")

    def done(*more: object) -> str:
        answer = run(*located(example, manifest, out, *more))
        assert answer.exit_code == 0, answer.stderr
        return answer.stdout.splitlines()[-1]

    assert done(*wishes).startswith("2 located, 0 already done")
    assert done(*wishes).startswith("0 located, 2 already done")
    assert done().startswith("0 located, 2 already done")
    assert done("--crop", 6).startswith("2 located, 0 already done")
    assert {Crop.load(path).margin_mm for path in out.glob("*.crops/*.json")} == {6.0}
    assert done("--crop", 6, "--prompts", "--picture").startswith("0 located, 2 already done")  # the others stayed
    for gone in ("scan00.crops/bone.nii.gz", "scan00.crops/bone.json", "scan01.prompts.json"):
        (out / gone).unlink()
        assert done("--crop", 6, "--prompts").startswith("1 located, 1 already done"), gone
    for path in (out / "scan00.slices").iterdir():
        path.unlink()
    (out / "scan00.slices").rmdir()
    assert done("--crop", 6, "--picture").startswith("1 located, 1 already done")


def test_results_do_not_go_into_the_folders_of_others(example: ExampleFiles, tmp_path: Path) -> None:
    for name in ("a.crops/b", "x/a.slices/b"):
        manifest = write_manifest(tmp_path / "m.csv", [{"path": str(example.image), "name": name}])
        answer = run(*located(example, manifest, tmp_path / "out"))
        assert answer.exit_code == 2 and "parts of one result" in answer.stderr


def test_the_names_are_public() -> None:
    assert rprloc.Crop is Crop
