"""The app for MONAI Label, in a real server of MONAI Label on loopback, asked over its REST interface.

MONAI Label lives in an environment of its own, which ``make monailabel`` makes: it needs other versions of pydicom and
jsonschema than RPR-Loc. The tests skip where it is missing.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest
import SimpleITK as sitk
import torch

from rprloc.annotation import Annotation, Marking
from rprloc.apps.demo import DemoScans
from rprloc.detection import Detections
from rprloc.evaluation.views import imitate_mr
from rprloc.geometry import Grid
from rprloc.io.annotations import read_example
from rprloc.io.mask_files import read_label_map
from rprloc.io.reading import read_volume
from rprloc.localization.localizer import Localizer
from rprloc.localization.support import SupportSet
from rprloc.model.network import RPRNet, save_model
from rprloc.volume import to_sitk
from tests.command_line import rprloc
from tests.dicoms import write_series
from tests.example import ExampleFiles
from tests.monailabel_server import (
    ANSWER_S,
    PYTHON,
    START_S,
    Service,
    answers,
    command,
    environment,
    free_port,
)
from tests.phantoms import AFFINES, phantom_hu

SCANS = ("anna", "flipped", "oblique and flipped")

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not PYTHON.is_file(), reason="MONAI Label is not installed: make monailabel"),
]


def settings(example: ExampleFiles) -> dict[str, object]:
    return {
        "support_set": example.support_set,
        "rprloc": Path(sys.executable).with_name("rprloc"),
        "weights": example.weights,
        "device": "cpu",
    }


def write_studies(example: ExampleFiles, folder: Path) -> None:
    folder.mkdir()
    shutil.copy(example.image, folder)
    for name in SCANS[1:]:
        grid = Grid((48, 44, 40), AFFINES[name])
        sitk.WriteImage(to_sitk(phantom_hu(grid), grid), folder / f"{name}.nii.gz")


def write_support_sets(example: ExampleFiles, folder: Path) -> None:
    """The example's set, and one of two organs that are the same, so that one box covers the other."""
    folder.mkdir()
    shutil.copy(example.support_set, folder)
    marked = read_example(example.image, labels=example.labels, names={1: "bone"}, name="anna")
    points = marked.annotation.points_ras["bone"]
    twins = replace(marked, annotation=Annotation({"covered": points, "on top": points}, marking=Marking.LABEL_MAP))
    Localizer.load(example.weights, "cpu").learn(twins).save(folder / "twins.support.json.gz")


@contextmanager
def serving(example: ExampleFiles, folder: Path, **conf: object) -> Iterator[Service]:
    """A server with its studies in a folder, and with settings beside :func:`settings`; None leaves one out."""
    port = free_port()
    write_studies(example, folder / "studies")
    wanted = {key: value for key, value in {**settings(example), **conf}.items() if value is not None}
    with (folder / "server.log").open("wb") as log:
        process = subprocess.Popen(
            command(folder, wanted, port),
            cwd=folder,
            env=environment(folder),
            stdout=log,
            stderr=subprocess.STDOUT,
            stdin=subprocess.DEVNULL,
        )
        running = Service(
            f"http://127.0.0.1:{port}", psutil.Process(process.pid), folder / "studies", folder / "temporary"
        )
        try:
            until = time.monotonic() + START_S
            while not answers(port):
                assert process.poll() is None and time.monotonic() < until, (folder / "server.log").read_text()[-3000:]
                time.sleep(0.2)
            yield running
            children = running.process.children(recursive=True)
        finally:
            process.terminate()
            try:
                process.wait(30)
            finally:
                process.kill()
    _, left = psutil.wait_procs(children, timeout=30)
    assert children and not left


@pytest.fixture(scope="module")
def service(example: ExampleFiles, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    folder = tmp_path_factory.mktemp("monailabel")
    write_support_sets(example, folder / "sets")
    with serving(example, folder, support_set=folder / "sets") as running:
        yield running


@pytest.fixture(scope="module")
def located(service: Service, example: ExampleFiles, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of what ``rprloc locate`` finds in the studies."""
    folder = tmp_path_factory.mktemp("located")
    images = [service.studies / f"{name}.nii.gz" for name in SCANS]
    options = ["--out", folder, "--model", example.weights, "--device", "cpu", "--labels"]
    assert rprloc("locate", example.support_set, *images, *options).exit_code == 0
    return folder


def boxes_lps(found: Detections) -> list[list[float]]:
    """Centre and size, LPS mm: what is to the right and in front is negative."""
    right, front, up = np.array([box.centre_ras for box in found.boxes.values()]).T
    return np.column_stack([-right, -front, up, [box.size_mm for box in found.boxes.values()]]).tolist()


def assert_same_mm(given: Any, wanted: Any) -> None:
    np.testing.assert_allclose(np.array(given, float), np.array(wanted, float), rtol=0.0, atol=0.1)


def test_the_server_offers_a_detector_and_a_painter_of_boxes_of_each_set(service: Service) -> None:
    told = service.ask("/info/").json
    models = told["models"]
    labels = {"bone": 1, "lung": 2}
    assert told["name"] == "RPR-Loc" and told["datastore"]["total"] == len(SCANS)
    assert {name: (model["type"], model["labels"]) for name, model in models.items()} == {
        "detect_set": ("detection", labels),
        "boxes_set": ("segmentation", labels),
        "detect_twins": ("detection", {"covered": 1, "on top": 2}),
        "boxes_twins": ("segmentation", {"covered": 1, "on top": 2}),
    }
    assert models["detect_set"]["config"] == {"organ": ["all", "bone", "lung"]}


@pytest.mark.parametrize("scan", SCANS)
def test_the_boxes_are_those_of_locate_in_lps(service: Service, located: Path, scan: str) -> None:
    wanted = Detections.load(located / f"{scan}.detections.json")
    answer = service.infer("detect_set", scan, organ="all", result_extension=".nrrd")
    assert answer.status == 200 and answer.file_name.endswith(".json")
    rois = json.loads(answer.file)["markups"]
    assert [roi["name"] for roi in rois] == ["bone", "lung"]
    assert all(roi["type"] == "ROI" and roi["coordinateSystem"] == "LPS" for roi in rois)
    assert_same_mm([[*roi["center"], *roi["size"]] for roi in rois], boxes_lps(wanted))
    assert_same_mm(answer.json["box"], boxes_lps(wanted))
    assert answer.json["label"] == [1, 2] and answer.json["label_names"] == {"bone": 1, "lung": 2}
    found = Detections.from_json(json.dumps(answer.json["detections"]))
    assert found.support_id == wanted.support_id
    assert_same_mm(boxes_lps(found), boxes_lps(wanted))


def test_slicer_puts_the_boxes_where_they_are(service: Service, located: Path, tmp_path: Path) -> None:
    """MONAI Label's own client fetches, as its module for Slicer does; Slicer's own reader loads."""
    slicer = pytest.importorskip("slicer", reason="slicer-core is not installed: pip install '.[slicer]'")
    code = (
        "import sys; from monailabel.client import MONAILabelClient;"
        "client = MONAILabelClient(sys.argv[1], sys.argv[2]);"
        "print(client.infer('detect_set', sys.argv[3], {'result_extension': '.nrrd'})[0])"
    )
    fetched = [str(PYTHON), "-W", "ignore", "-c", code, service.url, str(tmp_path), "oblique and flipped"]
    done = subprocess.run(fetched, capture_output=True, text=True, timeout=ANSWER_S, check=True)
    scene, logic = slicer.vtkMRMLScene(), slicer.vtkSlicerMarkupsLogic()
    logic.SetMRMLScene(scene)
    assert logic.LoadMarkups(done.stdout.strip().splitlines()[-1])
    wanted = Detections.load(located / "oblique and flipped.detections.json")
    rois = scene.GetNodesByClass("vtkMRMLMarkupsROINode")
    rois.UnRegister(None)
    assert rois.GetNumberOfItems() == 2
    for index, (organ, box) in enumerate(wanted.boxes.items()):
        bounds = np.zeros(6)
        rois.GetItemAsObject(index).GetRASBounds(bounds)
        assert rois.GetItemAsObject(index).GetNthControlPointLabel(0) == organ
        assert_same_mm(bounds, box.walls_mm)


@pytest.mark.parametrize("scan", SCANS)
def test_the_label_map_lies_on_the_voxels_of_the_scan(
    service: Service, located: Path, tmp_path: Path, scan: str
) -> None:
    """As the extension for OHIF asks for it: the file alone."""
    parameters = {"result_extension": ".nrrd", "result_dtype": "uint8", "result_compress": False}
    answer = service.ask("/infer/boxes_set", parameters, image=scan, output="image")
    assert answer.status == 200 and answer.file_name.endswith(".nrrd") and b"encoding: raw" in answer.file
    path = tmp_path / answer.file_name
    path.write_bytes(answer.file)
    grid = read_volume(service.studies / f"{scan}.nii.gz").grid
    assert sitk.ReadImage(path).GetPixelID() == sitk.sitkUInt8
    labels = read_label_map(path, grid)
    assert set(np.unique(labels)) == {0, 1, 2}
    np.testing.assert_array_equal(labels, read_label_map(located / f"{scan}.boxes.nii.gz", grid))


@pytest.mark.parametrize("support_set", ["set", "twins"])
def test_slicer_gives_the_boxes_their_names(service: Service, tmp_path: Path, support_set: str) -> None:
    """As MONAI Label's module for Slicer does: it hands the names, in the order of their labels, to Slicer's import."""
    slicer = pytest.importorskip("slicer", reason="slicer-core is not installed: pip install '.[slicer]'")
    import vtk
    from vtk.util.numpy_support import vtk_to_numpy

    answer = service.infer(f"boxes_{support_set}", "anna")
    path = tmp_path / answer.file_name
    path.write_bytes(answer.file)
    labels = sitk.GetArrayFromImage(sitk.ReadImage(path))
    scene, logic = slicer.vtkMRMLScene(), slicer.vtkSlicerSegmentationsModuleLogic()
    logic.SetMRMLScene(scene)
    label_map = scene.AddNewNodeByClass("vtkMRMLLabelMapVolumeNode")
    segmentation = scene.AddNewNodeByClass("vtkMRMLSegmentationNode")
    slicer.util.updateVolumeFromArray(label_map, labels)
    names = vtk.vtkStringArray()
    for name in sorted(answer.json["label_names"], key=answer.json["label_names"].get):
        names.InsertNextValue(name)
    logic.ImportLabelmapToSegmentationNode(label_map, segmentation, names)
    voxels = {}
    for index in range(segmentation.GetSegmentation().GetNumberOfSegments()):
        segment = segmentation.GetSegmentation().GetNthSegment(index)
        shown = vtk_to_numpy(segment.GetRepresentation("Binary labelmap").GetPointData().GetScalars())
        voxels[segment.GetName()] = int((shown == segment.GetLabelValue()).sum())
    assert voxels == {name: int((labels == n).sum()) for name, n in answer.json["label_names"].items()}
    assert {name for name, count in voxels.items() if count == 0} == ({"covered"} if support_set == "twins" else set())


@pytest.mark.parametrize("wanted", ["lung", ["lung"], ["lung", "lung"]])
def test_one_organ_can_be_chosen(service: Service, located: Path, wanted: object) -> None:
    answer = service.infer("detect_set", "anna", organ=wanted)
    assert answer.json["label_names"] == {"lung": 2} and answer.json["label"] == [2]
    assert_same_mm(answer.json["box"], boxes_lps(Detections.load(located / "anna.detections.json"))[1:])


def test_a_file_that_is_sent_does_too(service: Service, located: Path) -> None:
    sent = service.ask("/infer/detect_set", {}, upload=service.studies / "flipped.nii.gz", image="")
    assert sent.status == 200
    assert_same_mm(sent.json["box"], boxes_lps(Detections.load(located / "flipped.detections.json")))


def test_dicom_gives_the_same_boxes_as_what_monai_label_makes_of_it(service: Service, tmp_path: Path) -> None:
    """MONAI Label converts the series that OHIF shows."""
    grid = Grid((30, 24, 20), np.array([[-4.0, 0, 0, 60], [0, -5, 0, 50], [0, 0, 6, 300], [0, 0, 0, 1]]))
    write_series(tmp_path / "dora", phantom_hu(grid))
    code = (
        "import sys; from monailabel.datastore.utils.convert import dicom_to_nifti; print(dicom_to_nifti(sys.argv[1]))"
    )
    converting = [str(PYTHON), "-W", "ignore", "-c", code, str(tmp_path / "dora")]
    done = subprocess.run(converting, capture_output=True, text=True, timeout=ANSWER_S, check=True)
    converted = shutil.move(done.stdout.strip().splitlines()[-1], tmp_path)
    answer, of_converted = service.infer("detect_set", str(tmp_path / "dora")), service.infer("detect_set", converted)
    assert answer.status == of_converted.status == 200 and len(answer.json["box"]) == 2
    assert_same_mm(of_converted.json["box"], answer.json["box"])


def test_bad_requests_are_answered_by_a_sentence_and_the_next_is_served(service: Service, tmp_path: Path) -> None:
    (tmp_path / "broken.nii.gz").write_bytes(b"this is no scan")
    bad = {
        "no model 'detect_nothing' available": service.infer("detect_nothing", "anna"),
        "not among the studies of this server": service.infer("detect_set", "nobody"),
        "holds no spleen. It holds bone, lung": service.infer("detect_set", "anna", organ="spleen"),
        "an organ's name, a list of names": service.infer("detect_set", "anna", organ=7),
        "broken.nii.gz is not a NIfTI file": service.infer("detect_set", str(tmp_path / "broken.nii.gz")),
        "extension that is not known": service.infer("boxes_set", __file__),
    }
    for wanted, answer in bad.items():
        assert answer.status == 400 and wanted in answer.json["detail"], answer
        assert "Traceback" not in answer.json["detail"]
    assert service.infer("detect_set", "anna").status == 200


def test_a_process_that_dies_is_told_and_started_again(service: Service) -> None:
    (child,) = service.process.children()
    child.suspend()
    with ThreadPoolExecutor() as pool:
        waiting = pool.submit(service.infer, "detect_set", "anna")
        time.sleep(2.0)  # until it waits for the child
        child.kill()
        answer = waiting.result(ANSWER_S)
    assert answer.status == 500 and "The next request starts it again" in answer.json["detail"]
    assert service.infer("detect_set", "anna").status == 200
    assert [one.pid for one in service.process.children()] != [child.pid]


def test_no_answer_is_left_behind(service: Service) -> None:
    for image in ("anna", "nobody"):
        service.infer("detect_set", image)
        service.infer("boxes_set", image)
    service.ask("/infer/detect_set", {}, upload=Path(__file__), image="")
    left = [path.name for path in service.temporary.iterdir() if path.suffix == ".nrrd" or ".mrk" in path.name]
    assert left == []


def test_ready_made_sets_are_offered_and_find_what_locate_finds(
    example: ExampleFiles, public_scans: DemoScans, tmp_path: Path
) -> None:
    image = public_scans.query_image
    SupportSet.load("@trunk").save(tmp_path / "mine.json")
    both = f"@head-neck, @trunk,{tmp_path / 'mine.json'}"
    with serving(example, tmp_path, support_set=both, weights=None) as running:
        models = running.ask("/info/").json["models"]
        sets = {name: SupportSet.load(f"@{name}") for name in ("head-neck", "trunk")}
        sets["mine"] = sets["trunk"]
        assert {name: list(model["labels"]) for name, model in models.items()} == {
            f"{kind}_{name}": one.organs for name, one in sets.items() for kind in ("detect", "boxes")
        }
        answer, nothing = running.infer("detect_trunk", str(image)), running.infer("detect_trunk", "anna")
    assert nothing.status == 400 and "heart is not in the scan" in nothing.json["detail"]
    assert rprloc("locate", "@trunk", image, "--out", tmp_path / "located", "--device", "cpu").exit_code == 0
    (path,) = (tmp_path / "located").glob("*.detections.json")
    wanted = Detections.load(path)
    assert answer.status == 200 and "heart" in wanted.boxes
    assert list(answer.json["label_names"]) == list(wanted.boxes)
    assert_same_mm(answer.json["box"], boxes_lps(wanted))


def test_weights_for_mr_say_so_and_ct_is_refused(example: ExampleFiles, tmp_path: Path) -> None:
    net = RPRNet()
    net.modality = "MR"
    save_model(net, tmp_path / "mr.pt")
    marked = read_example(example.image, labels=example.labels, names={1: "bone"}, name="anna")
    mr = replace(marked.volume, hu=imitate_mr(marked.volume.hu))
    Localizer.load(tmp_path / "mr.pt", "cpu").learn(replace(marked, volume=mr)).save(tmp_path / "mr.json")
    with serving(example, tmp_path, support_set=tmp_path / "mr.json", weights=tmp_path / "mr.pt") as running:
        told = running.ask("/info/").json
        sitk.WriteImage(to_sitk(mr.hu, mr.grid), tmp_path / "dora.nii.gz")
        found = running.infer("detect_mr", str(tmp_path / "dora.nii.gz"))
        ct = running.infer("boxes_mr", "anna")
        # A study of which MONAI Label knows what it is, as of a DICOM series that it has converted.
        for name in ("dora", "eva"):
            shutil.copy(tmp_path / "dora.nii.gz", running.studies / f"{name}.nii.gz")
        until = time.monotonic() + ANSWER_S
        while running.ask("/info/").json["datastore"]["total"] < len(SCANS) + 2 and time.monotonic() < until:
            time.sleep(0.2)
        for name, modality in (("dora", "MR"), ("eva", "CT")):
            info = {"image": name}
            assert running.put("/datastore/image/info", {"info": json.dumps({"Modality": modality})}, **info) == 200
        known, refused = running.infer("detect_mr", "dora"), running.infer("detect_mr", "eva")
    assert told["description"].startswith("Finds organs in MR ")
    assert all("in MR" in model["description"] for model in told["models"].values())
    assert found.status == known.status == 200 and found.json["label_names"] == known.json["label_names"] == {"bone": 1}
    assert ct.status == 400 and "holds Hounsfield units, as CT does, but MR is needed here" in ct.json["detail"]
    assert refused.status == 400 and "eva says that it is CT, but MR is needed here" in refused.json["detail"]


def started_wrongly(example: ExampleFiles, folder: Path, **conf: object) -> str:
    """What a server says that does not start with this configuration."""
    (folder / "studies").mkdir()
    wrong = {key: value for key, value in {**settings(example), **conf}.items() if value is not None}
    done = subprocess.run(
        command(folder, wrong, free_port()),
        cwd=folder,
        env=environment(folder),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=START_S,
    )
    assert done.returncode != 0 and "Application startup failed" in done.stdout
    return done.stdout


def test_it_does_not_start_without_a_support_set(example: ExampleFiles, tmp_path: Path) -> None:
    said = started_wrongly(example, tmp_path, support_set=None)
    assert "was started without a support set" in said and "Add --conf support_set FILE" in said


def test_it_does_not_start_with_two_sets_of_one_name(example: ExampleFiles, tmp_path: Path) -> None:
    (tmp_path / "sets").mkdir()
    for name in ("organs.json", "organs.support.json"):
        shutil.copy(example.support_set, tmp_path / "sets" / name)
    said = started_wrongly(example, tmp_path, support_set=tmp_path / "sets")
    assert "organs.json and organs.support.json" in said and "models of one name" in said


def test_it_does_not_start_with_a_support_set_of_other_weights(example: ExampleFiles, tmp_path: Path) -> None:
    torch.manual_seed(1)
    save_model(RPRNet(), tmp_path / "other.pt")
    said = started_wrongly(example, tmp_path, weights=tmp_path / "other.pt")
    assert "set.support.json was built with the weights" in said and "Build it again" in said
