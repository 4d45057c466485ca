"""The process that answers requests over a pipe."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import SimpleITK as sitk
import torch

from rprloc.apps.serve import Server
from rprloc.detection import Detections
from rprloc.evaluation.views import imitate_mr
from rprloc.geometry import extreme_points_of_mask
from rprloc.io.markups import write_extreme_points
from rprloc.io.mask_files import read_label_map
from rprloc.io.reading import read_volume
from rprloc.localization.localizer import Localizer
from rprloc.localization.support import SupportSet
from rprloc.volume import to_sitk
from tests.command_line import rprloc
from tests.dicoms import edited, write_series
from tests.example import ExampleFiles

Event = dict[str, Any]


def answers(example: ExampleFiles, *requests: object, localizer: Localizer | None = None) -> list[Event]:
    """The events of these requests, given as objects or as lines."""
    events: list[Event] = []
    lines = [request if isinstance(request, str) else json.dumps(request) for request in requests]
    Server(localizer or Localizer.load(example.weights, "cpu"), lambda event: events.append(event)).run(lines)
    assert all(json.loads(json.dumps(event, allow_nan=False)) == event for event in events)
    return events


def ends(events: list[Event]) -> list[Event]:
    return [event for event in events if event["event"] in ("result", "error")]


def bone_points(example: ExampleFiles) -> list[list[float]]:
    grid = read_volume(example.image).grid
    return extreme_points_of_mask(read_label_map(example.labels, grid) == 1, grid).tolist()


def located(example: ExampleFiles, **more: object) -> dict[str, object]:
    return {"id": 7, "command": "locate", "set": str(example.support_set), "image": str(example.image), **more}


def test_a_set_that_is_built_equals_that_of_support_build(example: ExampleFiles, tmp_path: Path) -> None:
    points = bone_points(example)
    write_extreme_points(tmp_path / "bone.mrk.json", points, "bone")
    command = ["support", "build", "--image", example.image, "--markups", tmp_path / "bone.mrk.json", "--name", "bone"]
    done = rprloc(*command, "--out", tmp_path / "cli.json", "--model", example.weights, "--device", "cpu")
    assert done.exit_code == 0
    image, out = str(example.image), str(tmp_path / "served.json")
    shuffled = np.random.default_rng(0).permutation(points).tolist()
    request = {"id": 1, "command": "build", "image": image, "points_ras_mm": {"bone": shuffled}, "out": out}
    (end,) = ends(answers(example, request))
    assert end["event"] == "result" and end["result"]["organs"] == ["bone"]
    assert Path(out).read_bytes() == (tmp_path / "cli.json").read_bytes()
    # Also of a scan that was a query before, when nobody asked for its pseudonym.
    _, end = ends(answers(example, located(example), request))
    assert end["event"] == "result" and Path(out).read_bytes() == (tmp_path / "cli.json").read_bytes()


def test_detections_equal_those_of_locate(example: ExampleFiles, tmp_path: Path) -> None:
    command = ["locate", example.support_set, example.image, "--out", tmp_path, "--model", example.weights]
    assert rprloc(*command, "--device", "cpu").exit_code == 0
    events = answers(example, located(example), located(example, id=8, organs=["lung"]))
    every, one = ends(events)
    assert Detections.from_json(json.dumps(every["result"])).to_json() == (tmp_path / "anna.detections.json").read_text(
        encoding="utf-8"
    )
    (alone,), beside = one["result"]["organs"], every["result"]["organs"][1]
    assert one["id"] == 8 and alone["organ"] == beside["organ"]
    for ours, theirs in zip(alone["extreme_points"], beside["extreme_points"], strict=True):  # to the file's rounding
        assert ours["wall"] == theirs["wall"] and ours["ras_mm"] == pytest.approx(theirs["ras_mm"], abs=2e-4)
    fractions = [event["fraction"] for event in events if event["event"] == "progress" and event["id"] == 7]
    assert fractions == sorted(fractions) and len(fractions) >= 3


def test_located_boxes_are_written_as_locate_writes_them(example: ExampleFiles, tmp_path: Path) -> None:
    for folder in ("cli", "served"):
        (tmp_path / folder).mkdir()
    command = ["locate", example.support_set, example.image, "--out", tmp_path / "cli", "--model", example.weights]
    assert rprloc(*command, "--device", "cpu", "--labels").exit_code == 0
    files = {"rois": "anna.mrk.json", "label_map": "anna.boxes.nii.gz"}
    (end,) = ends(
        answers(example, located(example, **{key: str(tmp_path / "served" / name) for key, name in files.items()}))
    )
    assert end["event"] == "result"
    assert sorted(path.name for path in (tmp_path / "served").iterdir()) == sorted(files.values())
    for name in files.values():
        assert (tmp_path / "served" / name).read_bytes() == (tmp_path / "cli" / name).read_bytes()


def test_the_network_sees_each_scan_once_until_its_file_changes(
    example: ExampleFiles, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    image = tmp_path / "copy.nii.gz"
    image.write_bytes(example.image.read_bytes())
    localizer, seen = Localizer.load(example.weights, "cpu"), []
    look = Localizer.compute_position_field

    def counted(self: Localizer, volume: Any) -> Any:
        seen.append(volume.name)
        return look(self, volume)

    monkeypatch.setattr(Localizer, "compute_position_field", counted)
    monkeypatch.setattr("rprloc.apps.serve.SCANS_IN_MEMORY", 2)
    server = Server(localizer, lambda event: None)
    request = json.dumps(located(example, image=str(image)))
    server.run([request, request])
    assert seen == ["copy"]
    os.utime(image, ns=(1, 1))
    server.run([request])
    assert seen == ["copy", "copy"]
    for number in range(2):
        other = tmp_path / f"other{number}.nii.gz"
        other.write_bytes(example.image.read_bytes())
        server.run([json.dumps(located(example, image=str(other)))])
    server.run([request])
    assert seen.count("copy") == 3


def test_sets_are_merged_and_described(example: ExampleFiles, tmp_path: Path) -> None:
    out = str(tmp_path / "both.json")
    sets = [str(example.support_set)] * 2
    merged, shown = ends(
        answers(
            example, {"id": 1, "command": "merge", "sets": sets, "out": out}, {"id": 2, "command": "show", "set": out}
        )
    )
    assert merged["result"] == shown["result"]
    assert shown["result"]["organs"] == ["bone", "lung"] and shown["result"]["scans"] == ["anna"]
    assert shown["result"]["identity"] == SupportSet.load(Path(out)).identity


def test_the_scans_below_a_folder_are_found(example: ExampleFiles, tmp_path: Path) -> None:
    (tmp_path / "deep").mkdir()
    copy = tmp_path / "deep" / "berta.nii.gz"
    copy.write_bytes(example.image.read_bytes())
    found, missing = ends(
        answers(
            example, {"command": "find", "folder": str(tmp_path)}, {"command": "find", "folder": str(tmp_path / "no")}
        )
    )
    assert found["result"] == {"images": [str(copy)]} and missing["event"] == "error"


def test_bad_requests_are_answered_by_a_sentence_and_the_next_is_served(example: ExampleFiles, tmp_path: Path) -> None:
    image, out = str(example.image), str(tmp_path / "set.json")
    outside = (np.array(bone_points(example)) + 1000.0).tolist()
    build = {"command": "build", "image": image, "out": out}
    bad: dict[str, object] = {
        "is not JSON": "{",
        "not a JSON object": "[1]",
        "is not known": {"command": "erase"},
        '"set" is missing': {"command": "locate", "image": image},
        '"image" is missing': {"command": "locate", "set": str(example.support_set)},
        "holds no spleen": located(example, organs=["spleen"]),
        "not a list of names": located(example, organs="bone"),
        "There is no support set": located(example, set="missing.json"),
        "missing.nii.gz": located(example, image="missing.nii.gz"),
        '"points_ras_mm" is missing': build,
        "are not numbers": {**build, "points_ras_mm": {"bone": [["a", 0, 0]]}},
        "has 5 extreme points, not six": {**build, "points_ras_mm": {"bone": bone_points(example)[:5]}},
        "lie outside the scan": {**build, "points_ras_mm": {"bone": outside}},
        "name is empty": {**build, "points_ras_mm": {" ": bone_points(example)}},
        '"sets" is missing': {"command": "merge", "out": out},
        "cannot be written": {
            "command": "merge",
            "sets": [str(example.support_set)],
            "out": str(tmp_path / "no/a.json"),
        },
        '"rois" is missing': located(example, rois=7),
        "Make its folder, or name a file": located(example, label_map=str(tmp_path / "no/boxes.nrrd")),
        ".nii, .nii.gz or .nrrd": located(example, label_map=str(tmp_path / "boxes.mha")),
        '"modality" is not a text': located(example, modality=["MR"]),
    }
    *errors, last = ends(answers(example, *bad.values(), located(example)))
    for wanted, event in zip(bad, errors, strict=True):
        assert event["event"] == "error" and wanted in event["message"], wanted
    assert last["event"] == "result"
    assert list(tmp_path.iterdir()) == []


def test_a_full_gpu_is_told_and_the_cpu_goes_on(example: ExampleFiles, monkeypatch: pytest.MonkeyPatch) -> None:
    from rprloc.localization import localizer as module

    look, calls = module.compute_position_field, []

    def full_at_first(model: Any, volume: Any) -> Any:
        calls.append(volume.name)
        if len(calls) == 1:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return look(model, volume)

    monkeypatch.setattr(module, "compute_position_field", full_at_first)
    events = answers(example, located(example), localizer=Localizer.load(example.weights, "auto"))
    (message,) = [event["message"] for event in events if event["event"] == "log"]
    assert "GPU has too little free memory" in message and "CPU" in message
    assert [event["event"] for event in ends(events)] == ["result"]


def serve(*arguments: str, lines: str, before: str = "") -> subprocess.CompletedProcess[str]:
    code = f"{before}\nimport runpy, sys\nsys.argv[0] = 'rprloc'\nrunpy.run_module('rprloc', run_name='__main__')"
    command = [sys.executable, "-c", code, "serve", "--device", "cpu", *arguments]
    return subprocess.run(command, input=lines, capture_output=True, text=True, timeout=120)


def test_as_a_process_it_writes_events_alone_to_stdout_and_ends_with_its_input(example: ExampleFiles) -> None:
    lines = json.dumps(located(example)) + "\n\n"
    done = serve("--model", str(example.weights), lines=lines)
    events = [json.loads(line) for line in done.stdout.splitlines()]
    assert done.returncode == 0 and events[0]["event"] == "ready" and events[0]["device"] == "cpu"
    assert events[-1]["event"] == "result" and events[-1]["id"] == 7


def test_what_keeps_it_from_starting_is_an_event_too(example: ExampleFiles) -> None:
    done = serve("--model", "missing.pt", lines="")
    (event,) = [json.loads(line) for line in done.stdout.splitlines()]
    assert done.returncode == 2 and event["event"] == "error" and "missing.pt" in event["message"]
    done = serve(lines="", before="import sys\nsys.modules['torch'] = None")
    (event,) = [json.loads(line) for line in done.stdout.splitlines()]
    assert done.returncode == 2 and event["event"] == "error" and "package torch is missing" in event["message"]


@pytest.mark.parametrize("kind", [".mhd", ".nhdr", "folder"])
def test_a_scan_is_read_again_when_a_file_that_belongs_to_it_is_another(
    example: ExampleFiles, tmp_path: Path, kind: str
) -> None:
    """Its header, or the folder that was named, is as before: only what lies beside or below is new."""
    volume = read_volume(example.image)
    moved = replace(volume, hu=np.roll(volume.hu, 3, axis=0))
    image = tmp_path / ("study" if kind == "folder" else f"scan{kind}")

    def write(hu: np.ndarray) -> None:
        if kind == "folder":
            nested = image / "a" / "b"
            nested.mkdir(parents=True, exist_ok=True)
            write_series(tmp_path / "new", hu, edited(SeriesInstanceUID=lambda k, old: "1.2.3.4567"))
            for path in (tmp_path / "new").iterdir():
                (nested / path.name).write_bytes(path.read_bytes())
        else:
            sitk.WriteImage(to_sitk(hu, volume.grid), image)

    write(volume.hu)
    server_events: list[Event] = []
    server = Server(Localizer.load(example.weights, "cpu"), server_events.append)
    request = json.dumps(located(example, image=str(image)))
    server.run([request])
    header = image.stat()
    write(moved.hu)
    os.utime(image, ns=(header.st_atime_ns, header.st_mtime_ns))
    server.run([request])
    first, second = (end["result"]["organs"] for end in ends(server_events))
    assert first != second


def test_two_results_under_one_name_are_refused(example: ExampleFiles, tmp_path: Path) -> None:
    same = str(tmp_path / "same.nrrd")
    events = answers(example, located(example, rois=same, label_map=f"{tmp_path}/./same.nrrd"))
    assert "name the same file" in ends(events)[0]["message"] and not list(tmp_path.iterdir())


def test_landmarks_are_built_and_located_like_organs(example: ExampleFiles, tmp_path: Path) -> None:
    centre = read_volume(example.image).grid.bounds.centre_ras.tolist()
    build = {"id": 1, "command": "build", "image": str(example.image), "out": str(tmp_path / "set.json")}
    both = {**build, "points_ras_mm": {"bone": bone_points(example)}, "landmarks_ras_mm": {"tip": centre}}
    locate = {"id": 2, "command": "locate", "set": str(tmp_path / "set.json"), "image": str(example.image)}
    for request in (both, {**build, "landmarks_ras_mm": {"tip": centre}}):
        built, found = (event["result"] for event in ends(answers(example, request, locate)))
        assert built["landmarks"] == ["tip"] and built["organs"] == list(request.get("points_ras_mm", {}))
        (tip,) = found["landmarks"]
        assert tip["landmark"] == "tip" and tip["ras_mm"] == pytest.approx(centre, abs=0.01)
    for wrong in ({"tip": centre[:2]}, {"tip": "here"}, {"": centre}, {}, [centre]):
        (event,) = ends(answers(example, {**build, "landmarks_ras_mm": wrong}))
        assert event["event"] == "error"


def test_a_set_is_read_once_and_again_when_it_is_another(
    example: ExampleFiles, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    loaded: list[Path] = []
    load = SupportSet.load
    monkeypatch.setattr(SupportSet, "load", lambda path: (loaded.append(path), load(path))[1])
    path = tmp_path / "set.json"
    path.write_bytes(example.support_set.read_bytes())
    server = Server(Localizer.load(example.weights, "cpu"), (events := []).append)
    request = json.dumps(located(example, set=str(path)))
    server.run([request, request])
    assert len(loaded) == 1
    whole = load(path)
    organs = {"bone": whole.supports[0].organs["bone"]}
    replace(whole, supports=(replace(whole.supports[0], organs=organs),)).save(path)
    server.run([request])
    path.unlink()
    server.run([request])
    *found, gone = ends(events)
    assert [len(end["result"]["organs"]) for end in found] == [2, 2, 1]
    assert gone["event"] == "error" and "There is no support set" in gone["message"]


def test_a_file_whose_name_begins_like_a_ready_made_set(
    example: ExampleFiles, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("@trunk").write_bytes(example.support_set.read_bytes())
    requests = [located(example, set="./@trunk"), {"id": 8, "command": "show", "set": "./@trunk"}]
    found, shown = ends(answers(example, *requests))
    assert [organ["organ"] for organ in found["result"]["organs"]] == ["bone", "lung"]
    assert shown["result"]["organs"] == ["bone", "lung"]


def test_a_mask_counts_while_its_points_are_those_that_are_given(example: ExampleFiles, tmp_path: Path) -> None:
    """The label map's bone as a mask of its own, and points that were moved since."""
    volume = read_volume(example.image)
    mask = read_label_map(example.labels, volume.grid) == 1
    sitk.WriteImage(to_sitk(mask.astype(np.uint8), volume.grid), tmp_path / "mask.nrrd")
    points = bone_points(example)
    moved = [[points[0][0] - 1.0, *points[0][1:]], *points[1:]]
    common = {"command": "build", "image": str(example.image), "masks": {"bone": str(tmp_path / "mask.nrrd")}}
    events = answers(
        example,
        {"id": 1, **common, "points_ras_mm": {"bone": points}, "out": str(tmp_path / "by_mask.json")},
        {"id": 2, **common, "points_ras_mm": {"bone": moved}, "out": str(tmp_path / "by_points.json")},
    )
    assert [end["event"] for end in ends(events)] == ["result", "result"]
    markings = [
        SupportSet.load(tmp_path / name).supports[0].marking.value for name in ("by_mask.json", "by_points.json")
    ]
    assert markings == ["label map", "extreme points"]
    told = [event for event in events if event["event"] == "log"]
    assert [(event["id"], "not those of its mask" in event["message"]) for event in told] == [(2, True)]


@pytest.mark.parametrize(
    "masks", [["bone"], {"liver": "mask.nrrd"}, {"bone": 1}, {"bone": "missing.nrrd"}, "mask.nrrd"]
)
def test_masks_that_cannot_be_used_are_refused(example: ExampleFiles, tmp_path: Path, masks: object) -> None:
    out = tmp_path / "set.json"
    request = {"id": 1, "command": "build", "image": str(example.image), "masks": masks, "out": str(out)}
    (end,) = ends(answers(example, {**request, "points_ras_mm": {"bone": bone_points(example)}}))
    assert end["event"] == "error" and (
        "masks" in end["message"] or "bone" in end["message"] or "no " in end["message"]
    )
    assert not out.exists()


def test_ready_says_which_library_answers(example: ExampleFiles) -> None:
    import rprloc as library
    from rprloc.version import __version__

    (ready,) = answers(example)
    assert ready["event"] == "ready" and ready["version"] == __version__ and ready["modality"] == "CT"
    assert Path(ready["library"]) == Path(library.__file__).resolve().parent


def test_a_modality_that_is_handed_over_counts_where_the_file_tells_none(example: ExampleFiles, tmp_path: Path) -> None:
    volume = read_volume(example.image)
    nrrd, series = tmp_path / "scan.nrrd", tmp_path / "series"
    sitk.WriteImage(to_sitk(imitate_mr(volume.hu), volume.grid), nrrd)
    write_series(series, volume.hu)
    untold, mr, again, build, ct, pet, told = ends(
        answers(
            example,
            located(example, image=str(nrrd)),
            located(example, image=str(nrrd), modality="MR"),  # though it is in memory, as a scan that tells nothing
            located(example, image=str(nrrd)),
            {
                "command": "build",
                "image": str(nrrd),
                "modality": "MR",
                "points_ras_mm": {"bone": bone_points(example)},
                "out": str(tmp_path / "set.json"),
            },
            located(example, image=str(nrrd), modality="CT"),
            located(example, image=str(nrrd), modality="pt"),
            located(example, image=str(series), modality="MR"),
        )
    )
    for refused in (mr, build):
        assert refused["event"] == "error" and "scan says that it is MR, but CT is needed here" in refused["message"]
    assert not (tmp_path / "set.json").exists()
    for end in (untold, again, ct):
        assert end["event"] == "result" and "look like CT" in end["result"]["warnings"][0]
    assert pet["result"]["warnings"][0] == "The series says that it is PT, not CT."
    assert told["event"] == "result" and not any("MR" in warning for warning in told["result"]["warnings"])
