"""DICOM objects of scans that came from Slicer's DICOM database: they refer to the series, and lie where boxes are."""

from __future__ import annotations

import sys
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
import pytest

from rprloc.detection import AbsentOrgan, Detections, Presence
from rprloc.errors import InputError
from rprloc.geometry import Box, Grid
from rprloc.io.annotations import read_annotation
from rprloc.io.reading import read_scan
from tests.boxes import points_of
from tests.dicoms import SERIES, write_series
from tests.phantoms import phantom_hu
from tests.slicer_module.findings import detection, landmark
from tests.slicer_module.scenes import NO_SLICER, Scene, rigid

pytest.importorskip("slicer", reason=NO_SLICER)
pytest.importorskip("highdicom")

from SlicerRPRLocLib import nodes
from SlicerRPRLocLib.dicom_results import export_dicom
from SlicerRPRLocLib.results import Results

SHAPE = (30, 24, 20)
ALL = ("seg", "sr", "rtstruct")


@dataclass
class Database:
    """Slicer's DICOM database: the file of each instance."""

    files: dict[str, Path]

    def fileForInstance(self, uid: str) -> str:
        return str(self.files.get(uid, ""))


@dataclass
class Studies:
    scene: Scene
    database: Database
    folder: Path

    def load(self, name: str, kind: str = "axial") -> Any:
        """A series as the module DICOM loads it: by its files in order, and with their UIDs."""
        folder = self.folder / name
        write_series(folder, phantom_hu(Grid(SHAPE, np.diag([4.0, 5, 6, 1]))), SERIES[kind])
        series = read_scan(folder).series
        assert series is not None
        ordered = {plane.sop_uid: plane.path for plane in series.slices}
        self.database.files.update(ordered)
        # Files that the database knows and that belong to something else lie in the same folder.
        write_series(folder / "other", phantom_hu(Grid(SHAPE, np.eye(4))))
        volume = self.scene.load_dicom(list(ordered.values()), name)
        volume.SetAttribute("DICOM.instanceUIDs", " ".join(ordered))
        return volume

    def export(self, kinds: tuple[str, ...] = ALL) -> tuple[list[Path], list[str]]:
        (self.folder / "out").mkdir(exist_ok=True)
        results = Results(self.scene.mrml)
        return export_dicom(results, self.folder / "out", kinds, self.database.fileForInstance)


@pytest.fixture
def studies(scene: Scene, tmp_path: Path) -> Studies:
    return Studies(scene, Database({}), tmp_path)


def find_liver(studies: Studies, volume: Any) -> Any:
    """A liver in the middle of a scan, and no brain; the ROI."""
    bounds = nodes.grid_of(volume).bounds
    box = Box(bounds.centre_ras - 0.2 * bounds.size_mm, bounds.centre_ras + 0.25 * bounds.size_mm)
    absent = AbsentOrgan("brain", Presence(0.0, 0.02, 0.98), ("anna",))
    results = Results(studies.scene.mrml)
    results.apply([(volume, Detections("q", (detection("liver", points_of(box)), absent), "m", "s"))])
    return results.roi(volume, "liver")


@pytest.mark.parametrize("kind", ["axial", "coronal", "oblique"])
def test_all_three_lie_where_the_boxes_are_now(studies: Studies, kind: str) -> None:
    volume = studies.load("anna", kind)
    roi = find_liver(studies, volume)
    roi.SetSize(*(0.5 * np.array(roi.GetSize())))  # corrected by a person
    files, told = studies.export()
    assert sorted(file.name for file in files) == ["anna.rtstruct.dcm", "anna.seg.dcm", "anna.sr.dcm"] and told == []
    scan = read_scan(studies.folder / "anna", series_uid=series_uid(studies, volume))
    for ending in ("rtstruct", "seg"):
        found = read_annotation(studies.folder / "out" / f"anna.{ending}.dcm", scan)
        walls_mm = Box.from_extreme_points(found.points_ras["liver"]).walls_mm
        off_mm = np.abs(walls_mm - nodes.box_of_roi(roi).walls_mm)
        diagonal_mm = float(np.abs(scan.volume.grid.ras_from_ijk[:3, :3]).sum(1).max())
        assert off_mm.max() <= diagonal_mm, ending
    for file in files:
        data = pydicom.dcmread(file)
        assert data.StudyInstanceUID == pydicom.dcmread(scan.series.slices[0].path).StudyInstanceUID
    assert "brain: not in the scan" in pydicom.dcmread(files[-1]).StructureSetDescription


def series_uid(studies: Studies, volume: Any) -> str:
    first = volume.GetAttribute("DICOM.instanceUIDs").split()[0]
    return str(pydicom.dcmread(studies.database.files[first]).SeriesInstanceUID)


def test_scans_that_cannot_be_written_are_told_and_the_others_are(studies: Studies) -> None:
    good, moved, gone = studies.load("good"), studies.load("moved"), studies.load("gone")
    plain = studies.scene.add_volume(np.zeros(SHAPE, np.int16), Grid(SHAPE, np.diag([4.0, 5, 6, 1])), "plain")
    for volume in (good, moved, gone, plain):
        find_liver(studies, volume)
    studies.scene.transform(rigid(), moved)
    first, second, *_ = gone.GetAttribute("DICOM.instanceUIDs").split()
    studies.database.files.pop(first)
    studies.database.files[second].unlink()
    files, told = studies.export(("rtstruct",))
    assert [file.name for file in files] == ["good.rtstruct.dcm"]
    assert [sentence.split(":")[0] for sentence in told] == ["moved", "gone", "plain"]
    assert "does not lie where its DICOM series does" in told[0] and "2 of the 20 files" in told[1]
    assert "not loaded from Slicer's DICOM database" in told[2]
    studies.scene.mrml.RemoveNode(good)
    Results(studies.scene.mrml).remove_orphans()
    with pytest.raises(InputError, match=r"moved: .* gone: .* plain: "):
        studies.export(("rtstruct",))


def test_two_scans_of_one_name_do_not_overwrite_each_other(studies: Studies) -> None:
    for name in ("one", "two"):
        volume = studies.load(name)
        find_liver(studies, volume)
        volume.SetName("CT")
    files, _ = studies.export(("rtstruct",))
    assert [file.name for file in files] == ["CT.rtstruct.dcm", "CT_2.rtstruct.dcm"]
    referred = [pydicom.dcmread(file).ROIContourSequence[0].ContourSequence[0] for file in files]
    uids = [contour.ContourImageSequence[0].ReferencedSOPInstanceUID for contour in referred]
    assert [studies.database.files[uid].parent.name for uid in uids] == ["one", "two"]


def test_what_was_not_chosen_and_what_is_not_there_is_told(studies: Studies, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no box"):
        studies.export()
    find_liver(studies, studies.load("anna"))
    with pytest.raises(InputError, match="No kind"):
        studies.export(())
    results = Results(studies.scene.mrml)
    with pytest.raises(InputError, match="No folder is chosen"):
        export_dicom(results, Path(), ("sr",), studies.database.fileForInstance)
    with pytest.raises(InputError, match="There is no folder"):
        export_dicom(results, tmp_path / "missing", ("sr",), studies.database.fileForInstance)


def test_without_highdicom_nothing_is_written(studies: Studies, monkeypatch: pytest.MonkeyPatch) -> None:
    find_liver(studies, studies.load("anna"))
    monkeypatch.setitem(sys.modules, "highdicom", None)
    with pytest.raises(InputError, match="highdicom"):
        studies.export()
    assert list((studies.folder / "out").iterdir()) == []
    assert [file.name for file in studies.export(("rtstruct",))[0]] == ["anna.rtstruct.dcm"]


def test_a_series_of_which_slices_are_missing_is_refused(studies: Studies) -> None:
    volume = studies.load("anna")
    find_liver(studies, volume)
    uids = volume.GetAttribute("DICOM.instanceUIDs").split()
    volume.SetAttribute("DICOM.instanceUIDs", " ".join([*uids[:7], *uids[9:]]))
    with pytest.raises(InputError, match="Slices are missing"):
        studies.export(("rtstruct",))


def test_landmarks_are_written_also_of_a_scan_without_boxes(studies: Studies) -> None:
    boxes, alone = studies.load("boxes"), studies.load("alone")
    find_liver(studies, boxes)
    tip_ras = nodes.grid_of(alone).bounds.centre_ras
    found = Detections("q", (), "m", "s", landmarks=(landmark("tip", tip_ras),))
    Results(studies.scene.mrml).apply([(alone, found)])
    files, told = studies.export()
    names = [f"boxes.{kind}.dcm" for kind in ALL] + ["alone.rtstruct.dcm", "alone.sr.dcm"]
    assert sorted(file.name for file in files) == sorted(names) and told == []
    written = pydicom.dcmread(studies.folder / "out" / "alone.rtstruct.dcm")
    x, y, z = written.ROIContourSequence[0].ContourSequence[0].ContourData
    np.testing.assert_allclose([-x, -y, z], tip_ras, atol=0.01)
    files, told = studies.export(("seg",))
    assert [file.name for file in files] == ["boxes.seg.dcm"]
    assert "alone: It has landmarks alone" in " ".join(told)


def test_boxes_that_stayed_behind_when_their_scan_was_moved_are_not_written(studies: Studies) -> None:
    volume = studies.load("anna")
    transform = studies.scene.transform(rigid(), volume)
    box = nodes.grid_of(volume).bounds
    found = Detections("q", (detection("liver", points_of(box)),), "m", "s", grid=nodes.grid_of(volume))
    Results(studies.scene.mrml).apply([(volume, found)])
    volume.SetAndObserveTransformNodeID(None)  # now the scan lies where its series does, and the box does not
    with pytest.raises(InputError, match="anna was moved since liver was located in it"):
        studies.export()
    assert list((studies.folder / "out").iterdir()) == []
    volume.SetAndObserveTransformNodeID(transform.GetID())
    transform.SetMatrixTransformToParent(nodes.vtk_matrix(np.eye(4)))
    Results(studies.scene.mrml).apply([(volume, replace(found, grid=nodes.grid_of(volume)))])
    assert len(studies.export()[0]) == 3
