"""Which organs are taken of what files mark, what they are called, what is said, and what is refused."""

from __future__ import annotations

import json
import shutil
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from rprloc.annotation import Annotation, Marking
from rprloc.errors import InputError
from rprloc.geometry import Box, Grid, extreme_points_of_mask, lps_from_ras
from rprloc.io.annotations import read_annotation, read_example
from rprloc.io.markups import write_extreme_points
from rprloc.io.reading import Scan, read_scan
from rprloc.io.sections import slices_of_planes
from rprloc.io.standard_names import names_alike, standard_name
from rprloc.volume import Volume
from scripts.robustness.annotation_writers import (
    Contour,
    contours_of,
    encode_dicom,
    segmentation,
    slicer_segmentation,
    structure_set,
)
from tests.dicoms import write_series, zipped
from tests.example import ExampleFiles
from tests.images import write
from tests.phantoms import PHANTOM_GRID, SHAPE, phantom_hu
from tests.refusals import refusal

GRID = PHANTOM_GRID
SCAN = Scan(Volume(phantom_hu(GRID), GRID, "phantom"))


def block(*ends: tuple[int, int]) -> np.ndarray:
    voxels = np.zeros(SHAPE, bool)
    voxels[tuple(slice(start, stop) for start, stop in ends)] = True
    return voxels


LIVER, SPLEEN = block((5, 15), (6, 16), (3, 12)), block((18, 25), (8, 18), (5, 15))


def drawn(voxels: np.ndarray) -> list[Contour]:
    return contours_of(voxels, GRID)


def saved(path: Path, contours: dict[str, list[Contour]], change: Callable[[Any], object] | None = None) -> Path:
    data = structure_set(contours, [], "1.2.3.5")
    if change is not None:
        change(data)
    path.write_bytes(encode_dicom(data))
    return path


def assert_voxels(found: Annotation, organ: str, voxels: np.ndarray) -> None:
    mask = found.masks[organ]
    first = np.rint(GRID.ijk(mask.grid.ras([0, 0, 0]))).astype(int)
    whole = np.zeros(SHAPE, bool)
    whole[tuple(slice(a, a + n) for a, n in zip(first, mask.voxels.shape, strict=True))] = mask.voxels
    np.testing.assert_array_equal(whole, voxels)


# Contours


def keyhole(hole: np.ndarray, around: np.ndarray) -> np.ndarray:
    """One contour that runs around, goes in through a channel, around the hole, and out again."""
    near = int(np.argmin(np.linalg.norm(around - hole[0], axis=1)))
    turned = np.roll(around, -near, axis=0)
    return np.concatenate([turned, turned[:1], hole[::-1][-1:], hole[::-1], turned[:1]])


@pytest.mark.parametrize("how", ["even-odd", "CLOSEDPLANAR_XOR", "keyhole", "twice"])
def test_holes_stay_holes(tmp_path: Path, how: str) -> None:
    ring = LIVER & ~block((8, 12), (9, 13), (0, 20))
    contours = drawn(ring)
    if how == "keyhole":
        pairs = [[points for n, points in contours if n == k] for k in dict.fromkeys(k for k, _ in contours)]
        around = [sorted(pair, key=lambda points: np.ptp(points[:, 0])) for pair in pairs]
        contours = [(k, keyhole(*pair)) for k, pair in zip(range(3, 12), around, strict=True)]
    if how == "twice":
        contours = contours + contours

    def change(data: Any) -> None:
        if how == "CLOSEDPLANAR_XOR":
            for contour in data.ROIContourSequence[0].ContourSequence:
                contour.ContourGeometricType = how

    assert_voxels(read_annotation(saved(tmp_path / "a.dcm", {"liver": contours}, change), SCAN), "liver", ring)


def test_contours_through_the_outermost_voxels_mean_these_voxels(tmp_path: Path) -> None:
    """As programs draw them that follow the centres of pixels."""
    corners = np.array([[5, 6], [14, 6], [14, 15], [5, 15]], float)
    contours = [
        (k, lps_from_ras(GRID.ras(np.column_stack([np.repeat(corners, 1, 0), np.full(4, k)])))) for k in range(3, 12)
    ]
    assert_voxels(read_annotation(saved(tmp_path / "a.dcm", {"liver": contours}), SCAN), "liver", LIVER)


def test_slices_between_contours_are_filled_where_these_are_that_far_apart_everywhere(tmp_path: Path) -> None:
    odd = [contour for contour in drawn(LIVER) if contour[0] % 2]  # on slices 3 to 11
    assert_voxels(read_annotation(saved(tmp_path / "a.dcm", {"liver": odd}), SCAN), "liver", LIVER)
    gap = [contour for contour in drawn(LIVER) if contour[0] not in (6, 7)]
    holed = LIVER & ~block((0, 30), (0, 24), (6, 8))
    assert_voxels(read_annotation(saved(tmp_path / "a.dcm", {"liver": gap}), SCAN), "liver", holed)


@pytest.mark.parametrize(
    ("planes", "slices"),
    [
        ([4.0], [(4, 5)]),
        ([4.5], [(4, 5)]),
        ([3.0, 4.0, 5.0], [(3, 4), (4, 5), (5, 6)]),
        ([3.5, 4.5, 5.5], [(3, 4), (4, 5), (5, 6)]),
        ([3.0, 5.0, 7.0], [(3, 4), (4, 6), (6, 8)]),  # each second one: 3, 4 to 5, 6 to 7
        ([3.0, 3.5, 4.0, 4.5], [(3, 4), (4, 4), (4, 5), (5, 5)]),  # closer than slices
        ([3.0, 4.0, 8.0, 9.0], [(3, 4), (4, 5), (8, 9), (9, 10)]),  # two parts
        ([0.0, 19.0], [(0, 1), (19, 20)]),  # as far apart as nobody draws
    ],
)
def test_planes_stand_for_the_slices_that_are_next(planes: list[float], slices: list[tuple[int, int]]) -> None:
    assert slices_of_planes(planes, np.arange(20.0), 20) == slices


def test_what_has_no_volume_or_is_no_organ_is_passed_over_and_said(tmp_path: Path) -> None:
    line = [(3, drawn(LIVER)[0][1][:2])]
    contours = {"liver": [*drawn(LIVER), *line], "iso": line, "couch": drawn(SPLEEN), "spots": line, "none": []}

    def change(data: Any) -> None:
        data.ROIContourSequence[1].ContourSequence[0].ContourGeometricType = "POINT"
        data.RTROIObservationsSequence[2].RTROIInterpretedType = "SUPPORT"

    path = saved(tmp_path / "a.dcm", contours, change)
    found = read_annotation(path, SCAN)
    assert list(found.points_ras) == ["liver"]
    assert_voxels(found, "liver", LIVER)
    (note,) = found.notes
    assert note.startswith("a.dcm is a DICOM RT structure set. Taken: liver. Left out: ")
    for text in (
        "couch (no organ, but of type SUPPORT)",
        "iso (only points or lines, no volume)",
        "spots (only points or lines, no volume)",
        "none (no contours)",
        "Left out of liver: 1 point or line.",
    ):
        assert text in note
    assert list(read_annotation(path, SCAN, organs=["couch"]).points_ras) == ["couch"]
    refusal(lambda: read_annotation(path, SCAN, organs=["iso"]), "cannot be taken: only points")


def test_a_structure_set_that_is_cut_off_is_noticed_wherever_it_ends(tmp_path: Path) -> None:
    """Else the couch, of whose type the end of the file tells, would become an organ without a word."""

    def change(data: Any) -> None:
        data.RTROIObservationsSequence[1].RTROIInterpretedType = "SUPPORT"

    path = saved(tmp_path / "a.dcm", {"liver": drawn(LIVER), "couch": drawn(SPLEEN)}, change)
    data = path.read_bytes()
    for end in [*range(200, len(data), 499), *range(len(data) - 200, len(data))]:
        path.write_bytes(data[:end])
        try:
            found = read_annotation(path, SCAN)
        except InputError:
            continue
        assert "does not say which structures are organs" in found.notes[0]  # it ends before all of these


# Belonging


@pytest.fixture(scope="module")
def series(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("study") / "ct"
    write_series(folder, phantom_hu(Grid(SHAPE, np.diag([4.0, 5, 6, 1]))))
    return folder


@pytest.fixture(scope="module")
def of_dicom(series: Path) -> Scan:
    return read_scan(series)


def on_series(scan: Scan, change: Callable[[Any], object] = lambda data: None) -> bytes:
    assert scan.series is not None
    images = [plane.sop_uid for plane in scan.series.slices]
    contours = {"liver": contours_of(LIVER, scan.volume.grid)}
    data = structure_set(contours, images, scan.series.slices[0].owners["FrameOfReferenceUID"])
    change(data)
    return encode_dicom(data)


def of_another_frame(data: Any) -> None:
    data.FrameOfReferenceUID = data.StructureSetROISequence[0].ReferencedFrameOfReferenceUID = "1.2.99"


def on_other_images(data: Any) -> None:
    for n, contour in enumerate(data.ROIContourSequence[0].ContourSequence):
        contour.ContourImageSequence[0].ReferencedSOPInstanceUID = f"9.9.{n}"
    of_study = data.ReferencedFrameOfReferenceSequence[0].RTReferencedStudySequence[0]
    of_study.RTReferencedSeriesSequence[0].ContourImageSequence = []


def on_nothing(data: Any) -> None:
    del data.ReferencedFrameOfReferenceSequence, data.FrameOfReferenceUID
    del data.StructureSetROISequence[0].ReferencedFrameOfReferenceUID
    for contour in data.ROIContourSequence[0].ContourSequence:
        del contour.ContourImageSequence


def one_image_off(data: Any) -> None:
    contours = data.ROIContourSequence[0].ContourSequence
    contours[0].ContourImageSequence = contours[4].ContourImageSequence


@pytest.mark.parametrize(
    ("change", "about"),
    [
        (of_another_frame, "another frame of reference"),
        (on_other_images, "images of another series"),
        (on_nothing, "does not say to which scan it belongs"),
        (one_image_off, "away from the image on which it says that it was drawn"),
    ],
)
def test_a_structure_set_of_another_scan_is_refused(tmp_path: Path, of_dicom: Scan, change, about: str) -> None:
    (tmp_path / "a.dcm").write_bytes(on_series(of_dicom))
    assert list(read_annotation(tmp_path / "a.dcm", of_dicom).points_ras) == ["liver"]
    (tmp_path / "a.dcm").write_bytes(on_series(of_dicom, change))
    refusal(lambda: read_annotation(tmp_path / "a.dcm", of_dicom), str(tmp_path / "a.dcm"), about)


def test_a_segmentation_of_another_frame_is_refused(tmp_path: Path, of_dicom: Scan) -> None:
    grid = of_dicom.volume.grid
    (tmp_path / "a.dcm").write_bytes(encode_dicom(segmentation({"liver": LIVER}, grid, "1.2.99")))
    refusal(lambda: read_annotation(tmp_path / "a.dcm", of_dicom), "another frame of reference")


def test_a_study_gives_the_structure_set_of_the_scan(tmp_path: Path, series: Path, of_dicom: Scan) -> None:
    study = tmp_path / "study"
    shutil.copytree(series, study / "ct")
    refusal(lambda: read_annotation(study, of_dicom), "holds no annotation")
    (study / "rs").mkdir()
    (study / "rs" / "own").write_bytes(on_series(of_dicom))
    (study / "rs" / "other").write_bytes(on_series(of_dicom, of_another_frame))
    for path in (study, zipped(study, tmp_path / "study.zip")):
        found = read_annotation(path, of_dicom)
        assert (
            list(found.points_ras) == ["liver"]
            and "Passed over: annotations that are damaged or of another scan (1)." in found.notes[0]
        )
    (study / "rs" / "second").write_bytes(on_series(of_dicom))
    refusal(lambda: read_annotation(study, of_dicom), "holds 2 annotations of the scan (own, second)")
    (study / "rs" / "own").unlink()
    (study / "rs" / "second").unlink()
    message = refusal(lambda: read_annotation(zipped(study, tmp_path / "b.zip"), of_dicom), "another frame")
    assert "rprloc-" not in message and "b.zip/rs/other" in message


# Image files


def test_a_folder_of_masks_is_called_by_its_files(tmp_path: Path, store_otherwise) -> None:
    folder = tmp_path / "masks"
    folder.mkdir()
    for name, voxels in (("liver", LIVER), ("kidney_left", 255 * SPLEEN.astype(np.uint8)), ("gone", LIVER & SPLEEN)):
        stored, grid = store_otherwise(voxels.astype(np.uint8), GRID)
        write(folder / f"{name}.nii.gz", stored, grid.ras_from_ijk)
    (folder / "statistics.json").write_text("{}")
    (folder / ".hidden").write_text("")
    found = read_annotation(folder, SCAN)
    assert list(found.points_ras) == ["kidney_left", "liver"] and found.marking == Marking.LABEL_MAP
    assert_voxels(found, "liver", LIVER)
    assert_voxels(found, "kidney_left", SPLEEN)
    assert found.notes == (
        "masks is a folder with a file for each organ. Taken: kidney_left, liver. Left out: gone (empty). "
        "Passed over: statistics.json.",
    )
    refusal(lambda: read_annotation(folder, SCAN, organs=["gone"]), "gone has no voxel")
    write(folder / "liver.nii.gz", LIVER.astype(np.uint8) + SPLEEN.astype(np.uint8) * 2, GRID.ras_from_ijk)
    refusal(lambda: read_annotation(folder, SCAN), "liver.nii.gz holds the labels 1 to 2")
    write(folder / "liver.nii.gz", LIVER[1:].astype(np.uint8), GRID.ras_from_ijk)
    refusal(lambda: read_annotation(folder, SCAN), "does not lie on the grid")
    assert list(read_annotation(folder, SCAN, organs=["kidney_left"]).masks) == ["kidney_left"]  # reads no other


@pytest.fixture
def label_map(tmp_path: Path) -> Path:
    return write(tmp_path / "labels.nii.gz", LIVER.astype(np.uint8) + 7 * SPLEEN.astype(np.uint8), GRID.ras_from_ijk)


def test_a_label_map_takes_the_names_beside_it(label_map: Path) -> None:
    refusal(lambda: read_annotation(label_map, SCAN), "its labels: 1, 7", "--names", "labels.json")
    label_map.with_name("labels.json").write_text('{"labels": {"background": 0, "liver": 1, "cyst": 2}}')
    found = read_annotation(label_map, SCAN)
    assert_voxels(found, "liver", LIVER)
    assert list(found.masks) == ["liver"]
    assert found.notes == (
        "labels.nii.gz is a label map. Taken: liver. Left out: label 7 (it has no name), cyst (label 2 has no voxel).",
    )
    assert list(read_annotation(label_map, SCAN, names={7: "spleen"}).masks) == ["spleen"]
    refusal(lambda: read_annotation(label_map, SCAN, names={7: "spleen", 8: "cyst"}), "Label 8 (cyst) has no voxel")
    refusal(lambda: read_annotation(label_map, SCAN, names={7: "a", 8: "b"}, organs=["b"]), "label 8 has no voxel")
    label_map.with_name("labels.json").write_text("[]")
    refusal(lambda: read_annotation(label_map, SCAN), "labels.json holds no label names")


def test_a_label_map_gives_the_same_as_its_labels_one_by_one(label_map: Path) -> None:
    labels = LIVER.astype(np.uint8) + 7 * SPLEEN.astype(np.uint8)
    truth = Annotation.from_labels(labels, GRID, {7: "spleen", 1: "liver"})
    found = read_annotation(label_map, SCAN, names={7: "spleen", 1: "liver"})
    for organ in truth.points_ras:
        np.testing.assert_allclose(found.points_ras[organ], truth.points_ras[organ], atol=1e-9)
        np.testing.assert_array_equal(found.masks[organ].voxels, truth.masks[organ].voxels)


# Names and choice


def test_organs_are_chosen_and_renamed(tmp_path: Path) -> None:
    contours = {"Parotid_L": drawn(LIVER), "Rt Parotid": drawn(SPLEEN), "PTV 54": drawn(SPLEEN)}
    path = saved(tmp_path / "a.dcm", contours)
    assert list(read_annotation(path, SCAN).masks) == list(contours)
    names = {"Rt Parotid": "right one"}
    assert list(read_annotation(path, SCAN, names=names).masks) == ["Parotid_L", "right one", "PTV 54"]
    standard = read_annotation(path, SCAN, standard_names=True)
    assert list(standard.masks) == ["parotid_left", "parotid_right", "PTV 54"]
    assert "Taken: parotid_left (Parotid_L), parotid_right (Rt Parotid), PTV 54." in standard.notes[0]
    # In the order asked for, by any name that means the same.
    chosen = read_annotation(path, SCAN, organs=["ptv54", "parotid_left"])
    assert list(chosen.masks) == ["ptv54", "parotid_left"]
    assert_voxels(chosen, "parotid_left", LIVER)
    assert "Not asked for: 1 more." in chosen.notes[0]
    refusal(
        lambda: read_annotation(path, SCAN, organs=["liver"]), "There is no liver in", "Parotid_L, Rt Parotid, PTV 54"
    )
    refusal(lambda: read_annotation(path, SCAN, names={"Lt Parotid": "a"}), "no structure Lt Parotid", "Rt Parotid")
    refusal(lambda: read_annotation(path, SCAN, names={1: "a"}), "no structure 1")
    for nothing in ({"organs": []}, {"names": {}}):
        refusal(lambda nothing=nothing: read_annotation(path, SCAN, **nothing), "No organ was named")
    refusal(lambda: read_annotation([], SCAN), "No organ was named")


def test_two_structures_of_one_name_are_refused(tmp_path: Path) -> None:
    path = saved(tmp_path / "a.dcm", {"Kidney_L": drawn(LIVER), "Lt kidney": drawn(SPLEEN)})
    refusal(lambda: read_annotation(path, SCAN, standard_names=True), "2 structures with the name kidney_left")
    refusal(lambda: read_annotation(path, SCAN, organs=["kidney_left"]), "Kidney_L in a.dcm, Lt kidney in a.dcm")
    assert list(read_annotation(path, SCAN, organs=["Kidney_L"]).masks) == ["Kidney_L"]
    other = saved(tmp_path / "b.dcm", {"Kidney_L": drawn(LIVER)})
    refusal(lambda: read_annotation([path, other], SCAN), "Kidney_L in a.dcm, Kidney_L in b.dcm")


def test_several_files_of_several_forms_are_one_annotation(tmp_path: Path, label_map: Path) -> None:
    points = {"spleen": extreme_points_of_mask(SPLEEN, GRID), "kidney": extreme_points_of_mask(LIVER, GRID)}
    for organ, points_ras in points.items():
        write_extreme_points(tmp_path / f"{organ}.mrk.json", points_ras, organ)
    paths = [tmp_path / "spleen.mrk.json", tmp_path / "kidney.mrk.json"]
    found = read_annotation(paths, SCAN)
    assert found.marking == Marking.EXTREME_POINTS and not found.masks and len(found.notes) == 2
    for organ, points_ras in points.items():
        np.testing.assert_allclose(found.points_ras[organ], points_ras, atol=1e-3)
    mixed = read_annotation([*paths, label_map], SCAN, names={1: "liver"})
    assert list(mixed.points_ras) == ["spleen", "kidney", "liver"] and list(mixed.masks) == ["liver"]
    assert mixed.marking == Marking.MIXED
    both = json.loads(paths[0].read_text())
    both["markups"] += json.loads(paths[1].read_text())["markups"]
    paths[0].write_text(json.dumps(both))
    assert list(read_annotation(paths[0], SCAN).points_ras) == ["spleen", "kidney"]
    both["markups"][1]["name"] = " "
    paths[0].write_text(json.dumps(both))
    refusal(lambda: read_annotation(paths[0], SCAN), "a markup without a name")
    markups = tmp_path / "markups"
    markups.mkdir()
    for organ, points_ras in points.items():
        write_extreme_points(markups / f"{organ}.mrk.json", points_ras, organ)
    assert list(read_annotation(markups, SCAN).points_ras) == ["kidney", "spleen"]


def test_the_form_is_found_out_from_the_content(tmp_path: Path) -> None:
    saved(tmp_path / "a.nii.gz", {"liver": drawn(LIVER)})
    assert list(read_annotation(tmp_path / "a.nii.gz", SCAN).masks) == ["liver"]
    keys = {"Segment0_Name": "liver", "Segment0_LabelValue": 1, "Segment0_Layer": 0}
    (tmp_path / "a.nrrd").write_bytes(slicer_segmentation(LIVER, GRID, keys))
    assert_voxels(read_annotation(tmp_path / "a.nrrd", SCAN), "liver", LIVER)
    (tmp_path / "b.seg.nrrd").write_bytes(slicer_segmentation(LIVER, GRID, {}))  # describes no segment
    assert_voxels(read_annotation(tmp_path / "b.seg.nrrd", SCAN, names={1: "liver"}), "liver", LIVER)
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        archive.writestr("rs", (tmp_path / "a.nii.gz").read_bytes())
    assert list(read_annotation(tmp_path / "a.zip", SCAN).masks) == ["liver"]


def test_an_organ_outside_of_the_scan_is_refused(tmp_path: Path) -> None:
    away = GRID.cropped((12, 0, 0), SHAPE)
    path = tmp_path / "a.dcm"
    path.write_bytes(encode_dicom(structure_set({"spleen": contours_of(SPLEEN, away)}, [], "1.2.3.5")))
    refusal(lambda: read_annotation(path, SCAN), "spleen lies outside of the scan")
    path.write_bytes(encode_dicom(segmentation({"spleen": SPLEEN}, away, "1.2.3.5")))
    refusal(lambda: read_annotation(path, SCAN), "spleen lies outside of the scan")
    keys = {"Segment0_Name": "spleen", "Segment0_LabelValue": 1, "Segment0_Layer": 0}
    (tmp_path / "a.seg.nrrd").write_bytes(slicer_segmentation(SPLEEN, away, keys))
    refusal(lambda: read_annotation(tmp_path / "a.seg.nrrd", SCAN), "spleen lies outside of the scan")


@pytest.mark.parametrize(
    ("name", "standard"),
    [
        ("Kidney_L", "kidney_left"),
        ("kidney_left", "kidney_left"),
        ("LEFT KIDNEY", "kidney_left"),
        ("Left kidney structure", "kidney_left"),
        ("Parotid_R", "parotid_right"),
        ("Right parotid gland", "parotid_right"),
        ("ParotidR", "parotid_right"),
        ("parotid-rt", "parotid_right"),
        ("SpinalCord", "spinal_cord"),
        ("spinal cord", "spinal_cord"),
        ("Brainstem", "brainstem"),
        ("Bone_Mandible", "mandible"),
        ("Lung_L", "lung_left"),
        ("Lung-Left", "lung_left"),
        ("A_Aorta", "aorta"),
        ("Glnd_Adrenal_L", "adrenal_gland_left"),
        ("Glnd_Submand_R", "submandibular_right"),
        ("V_Venacava_I", "inferior_vena_cava"),
        ("postcava", "inferior_vena_cava"),
        ("Oesophagus", "esophagus"),
        ("OpticNrv_L", "optic_nerve_left"),
        ("Bladder", "urinary_bladder"),
        ("Cavity_Oral", "oral_cavity"),
        ("Kidney", None),  # which of the two
        ("Kidney_L_R", None),
        ("Heart_L", None),
        ("Kidney_L_PRV05", None),
        ("PTV54", None),
        ("vertebrae_L1", None),
        ("", None),
    ],
)
def test_standard_names(name: str, standard: str | None) -> None:
    assert standard_name(name) == standard
    if standard is not None:
        assert standard_name(standard) == standard and names_alike(name) == standard


def test_names_that_are_not_known_are_alike_but_for_capitals_and_separators() -> None:
    assert names_alike("PTV 54") == names_alike("ptv_54") != names_alike("ptv 56")
    assert names_alike("Élan") != names_alike("elan") and names_alike("*") == "*"


def test_examples_are_marked_in_one_way(example: ExampleFiles, tmp_path: Path) -> None:
    named = {"labels": example.labels, "names": example.names}
    assert list(read_example(example.image, **named, organs=["Lung"]).annotation.masks) == ["Lung"]
    for more in ({"names": {1: "a"}}, {"organs": ["a"]}, {"standard_names": True}, {}):
        refusal(lambda more=more: read_example(example.image, **more), "in one way")
    refusal(lambda: read_example(example.image, **named, markups={"a": "b"}), "in one way")
    box = Box.from_extreme_points(read_example(example.image, **named).annotation.points_ras["lung"])
    assert box.volume_mm3 > 0
