"""Slicer's Markups files: the frames, the order of points, and every way in which a file can be unfit."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from rprloc.detection import AbsentLandmark, AbsentOrgan, Detections, LandmarkDetection, OrganDetection, Presence
from rprloc.errors import InputError
from rprloc.geometry import Box
from rprloc.io.landmarks import read_landmarks
from rprloc.io.markups import (
    SCHEMA,
    read_extreme_points,
    read_marked_organs,
    write_extreme_points,
    write_landmarks,
    write_rois,
)

# In the order of WALLS.
POINTS_RAS = np.array([[-40, -21, 31], [60, -22, 32], [11, -60, 33], [12, 20, 34], [13, -23, 0], [14, -24, 60]], float)


def control_points(positions: np.ndarray, **extra: object) -> list[dict[str, Any]]:
    return [
        {"id": str(n), "label": f"F-{n}", "position": list(position), "positionStatus": "defined", **extra}
        for n, position in enumerate(positions.tolist(), 1)
    ]


def fiducials(positions: np.ndarray, **extra: object) -> dict[str, Any]:
    return {"type": "Fiducial", "coordinateSystem": "LPS", "controlPoints": control_points(positions), **extra}


def saved(tmp_path: Path, *markups: dict[str, Any], **extra: object) -> Path:
    path = tmp_path / "points.mrk.json"
    path.write_text(json.dumps({"@schema": SCHEMA, "markups": list(markups), **extra}), encoding="utf-8")
    return path


LPS = POINTS_RAS * [-1, -1, 1]
SHUFFLED = [3, 0, 5, 1, 4, 2]


@pytest.mark.parametrize(
    ("positions", "system"),
    [
        (LPS, {"coordinateSystem": "LPS"}),
        (LPS, {"coordinateSystem": ""}),
        (LPS, {"coordinateSystem": "1"}),
        (LPS, {"coordinateSystem": 1}),
        (LPS, {}),
        (POINTS_RAS, {"coordinateSystem": "RAS"}),
        (POINTS_RAS, {"coordinateSystem": "0"}),
        (POINTS_RAS, {"coordinateSystem": 0}),
    ],
)
def test_points_come_out_in_ras_and_in_order(tmp_path: Path, positions: np.ndarray, system: dict[str, Any]) -> None:
    markup = {"type": "Fiducial", "controlPoints": control_points(positions[SHUFFLED]), **system}
    np.testing.assert_array_equal(read_extreme_points(saved(tmp_path, markup)), POINTS_RAS)


def test_optional_keys_may_be_absent_and_other_markups_beside(tmp_path: Path) -> None:
    bare = {"type": "Fiducial", "controlPoints": [{"position": list(p)} for p in LPS.tolist()]}
    line = {"type": "Line", "controlPoints": control_points(LPS[:2])}
    path = saved(tmp_path, {"type": "Fiducial", "controlPoints": []}, line, bare)
    path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes())
    np.testing.assert_array_equal(read_extreme_points(path), POINTS_RAS)


def test_units_in_mm_may_be_a_code(tmp_path: Path) -> None:
    path = saved(tmp_path, fiducials(LPS, coordinateUnits=["mm", "UCUM", "millimeter"]))
    np.testing.assert_array_equal(read_extreme_points(path), POINTS_RAS)


def with_point(index: int, **extra: object) -> dict[str, Any]:
    markup = fiducials(LPS)
    markup["controlPoints"][index].update(extra)
    return markup


@pytest.mark.parametrize(
    ("markups", "message"),
    [
        ([], "no point list"),
        ([{"type": "Fiducial", "controlPoints": []}], "no point list"),
        ([{"type": "Line", "controlPoints": control_points(LPS[:2])}], "only Line"),
        ([fiducials(LPS, name="liver"), fiducials(LPS, name="spleen")], "2 markups .*liver, spleen"),
        ([fiducials(LPS[:5])], "has 5 extreme points, not six. Place"),
        ([fiducials(np.concatenate([LPS, LPS[:1]]))], "has 7 extreme points, not six. Place"),
        ([with_point(2, positionStatus="undefined", position="")], r"1 of 6 points are not set \(F-3\)"),
        ([with_point(2, positionStatus="preview")], r"not set \(F-3\)"),
        ([with_point(2, positionStatus="missing", label="")], r"not set \(point 3\)"),
        ([with_point(0, position=None)], r"not set \(F-1\)"),
        ([with_point(4, position=[1.0, 2.0, float("nan")])], "F-5"),
        ([with_point(4, position=[1.0, 2.0, float("inf")])], "F-5"),
        ([with_point(4, position=[1.0, 2.0])], "F-5"),
        ([with_point(4, position=["1", "2", "3"])], "F-5"),
        ([fiducials(LPS * [1, 0, 1])], "no volume along posterior-anterior"),
        ([fiducials(LPS, coordinateSystem="IJK")], "IJK"),
        ([fiducials(LPS, coordinateUnits="um")], "um, not mm"),
        ([fiducials(LPS, controlPoints={"a": 1})], "not a list"),
        ([{"type": "ROI", "center": [0, 0, 0], "size": [1, 0, 1]}], "no volume"),
        ([{"type": "ROI", "center": [0, 0, 0], "size": [1, 1, 1], "orientation": [1] * 9}], "right angles"),
        ([{"type": "ROI", "size": [1, 1, 1]}], "center is None"),
    ],
)
def test_an_unfit_file_is_refused_with_its_name_and_fault(
    tmp_path: Path, markups: list[dict[str, Any]], message: str
) -> None:
    path = saved(tmp_path, *markups)
    with pytest.raises(InputError, match=message) as caught:
        read_extreme_points(path)
    assert str(path) in str(caught.value)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("# Markups fiducial file", "not JSON"),
        ("[]", "not a Slicer Markups file"),
        ("{}", "not a Slicer Markups file"),
        ('{"markups": ["a"]}', "not a Slicer Markups file"),
        ('{"@schema": "https://example.org/markups-schema-v2.0.0.json", "markups": []}', "not a Slicer Markups file"),
    ],
)
def test_other_files_are_refused(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "other.json"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(InputError, match=message):
        read_extreme_points(path)
    with pytest.raises(InputError, match="cannot be read"):
        read_extreme_points(tmp_path / "missing.mrk.json")


def test_an_roi_stands_for_the_centres_of_its_faces(tmp_path: Path) -> None:
    roi = {
        "type": "ROI",
        "coordinateSystem": "LPS",
        "center": [-10.0, 20.0, 30.0],
        "size": [100.0, 80.0, 60.0],
        "orientation": [-1.0, 0.0, 0.0, 0.0, -1.0, 0.0, 0.0, 0.0, 1.0],
    }
    expected = [[-40, -20, 30], [60, -20, 30], [10, -60, 30], [10, 20, 30], [10, -20, 0], [10, -20, 60]]
    np.testing.assert_array_equal(read_extreme_points(saved(tmp_path, roi)), expected)


def test_an_oblique_roi_stands_for_the_ras_box_around_it(tmp_path: Path) -> None:
    # A box turned by 30 degrees about the head-foot axis: half widths 50 cos + 20 sin, 50 sin + 20 cos, 10.
    cos, sin = np.cos(np.pi / 6), 0.5
    turned = {
        "type": "ROI",
        "coordinateSystem": "RAS",
        "center": [1.0, 2.0, 3.0],
        "size": [100.0, 40.0, 20.0],
        "orientation": [cos, -sin, 0.0, sin, cos, 0.0, 0.0, 0.0, 1.0],
    }
    box = Box.from_extreme_points(read_extreme_points(saved(tmp_path, turned)))
    half = [50 * cos + 20 * sin, 50 * sin + 20 * cos, 10]
    np.testing.assert_allclose(box.min_ras, np.array([1, 2, 3]) - half)
    np.testing.assert_allclose(box.max_ras, np.array([1, 2, 3]) + half)


def organ(name: str, points_ras: np.ndarray) -> OrganDetection:
    return OrganDetection(name, points_ras, np.arange(6) / 2, 25, ("case a",))


def test_every_organ_becomes_an_roi_in_lps(tmp_path: Path) -> None:
    found = (organ("heart", POINTS_RAS), organ("left kidney", POINTS_RAS - 100))
    write_rois(tmp_path / "out.mrk.json", Detections("q", found, "m", "s"))
    content = json.loads((tmp_path / "out.mrk.json").read_text(encoding="utf-8"))
    heart, kidney = content["markups"]
    assert content["@schema"].endswith("markups-schema-v1.0.3.json#")
    assert [(m["type"], m["roiType"], m["name"]) for m in (heart, kidney)] == [
        ("ROI", "Box", "heart"),
        ("ROI", "Box", "left kidney"),
    ]
    assert heart["coordinateSystem"] == "LPS" and heart["coordinateUnits"] == "mm"
    assert heart["center"] == [-10.0, 20.0, 30.0] and heart["size"] == [100.0, 80.0, 60.0]
    assert kidney["center"] == [90.0, 120.0, -70.0]
    assert np.reshape(heart["orientation"], (3, 3)).tolist() == np.diag([-1, -1, 1]).tolist()
    (point,) = heart["controlPoints"]
    assert point["position"] == heart["center"] and "superior 2.5" in point["description"]
    assert heart["display"]["selectedColor"] != kidney["display"]["selectedColor"]


def test_a_written_roi_reads_back_as_the_same_box(tmp_path: Path) -> None:
    write_rois(tmp_path / "one.mrk.json", Detections("q", (organ("heart", POINTS_RAS),), "m", "s"))
    points = read_extreme_points(tmp_path / "one.mrk.json")
    np.testing.assert_array_equal(
        Box.from_extreme_points(points).walls_mm, Box.from_extreme_points(POINTS_RAS).walls_mm
    )


def test_written_points_read_back_and_carry_their_wall(tmp_path: Path) -> None:
    write_extreme_points(tmp_path / "p.mrk.json", POINTS_RAS, "heart")
    np.testing.assert_array_equal(read_extreme_points(tmp_path / "p.mrk.json"), POINTS_RAS)
    (markup,) = json.loads((tmp_path / "p.mrk.json").read_text())["markups"]
    assert markup["controlPoints"][1]["label"] == "right"
    assert markup["controlPoints"][1]["position"] == [-60.0, 22.0, 32.0]


def test_no_organ_is_refused_and_writes_nothing(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="nothing was located"):
        write_rois(tmp_path / "out.mrk.json", Detections("q", (), "m", "s"))
    absent = AbsentOrgan("liver", Presence(0.0, 0.02, 0.98), ("a",))
    with pytest.raises(InputError, match=r"nothing was located: liver is not in the scan \(98 %\)\."):
        write_rois(tmp_path / "out.mrk.json", Detections("q", (absent,), "m", "s"))
    assert list(tmp_path.iterdir()) == []


def test_landmarks_come_in_by_their_labels_from_all_point_lists(tmp_path: Path) -> None:
    first, second = fiducials(LPS[:2]), {**fiducials(POINTS_RAS[2:3]), "coordinateSystem": "RAS"}
    first["controlPoints"][0]["label"], first["controlPoints"][1]["label"] = " carina ", "chin"
    second["controlPoints"][0]["label"] = "apex"
    roi = {"type": "ROI", "center": [0, 0, 0], "size": [1, 1, 1]}
    found = read_landmarks(saved(tmp_path, first, roi, second))
    assert list(found) == ["carina", "chin", "apex"]
    np.testing.assert_array_equal(np.stack(list(found.values())), POINTS_RAS[:3])


def test_landmarks_come_back_from_markups_and_from_a_table(tmp_path: Path) -> None:
    points = {"carina": POINTS_RAS[0], "Kinn, vorn": POINTS_RAS[1], "χ": POINTS_RAS[2]}
    write_landmarks(tmp_path / "tips.mrk.json", points)
    rows = "\n".join(f'"{name}",{r},{a},{s}' for name, (r, a, s) in points.items())
    (tmp_path / "tips.csv").write_text(f"name,r_mm,a_mm,s_mm\n{rows}\n", encoding="utf-8")
    for name in ("tips.mrk.json", "tips.csv"):
        found = read_landmarks(tmp_path / name)
        assert list(found) == list(points)
        np.testing.assert_allclose(np.stack(list(found.values())), POINTS_RAS[:3])


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "holds no points"),
        ("name,r_mm,a_mm,s_mm\n", "holds no points"),
        ("label,x,y,z\na,1,2,3\n", "lacks the columns"),
        ("name,r_mm,a_mm,s_mm\na,1,2\n", "line 2: the place of a is not three numbers"),
        ("name,r_mm,a_mm,s_mm\na,1,2,3\nb,1,two,3\n", "line 3: the place of b is not three numbers"),
        ("name,r_mm,a_mm,s_mm\na,1,2,inf\n", "is not finite"),
        ("name,r_mm,a_mm,s_mm\n ,1,2,3\n", "a point without a name"),
        ("name,r_mm,a_mm,s_mm\na,1,2,3\na,4,5,6\n", "two points that are called a"),
    ],
)
def test_a_table_of_landmarks_that_cannot_be_used_is_refused(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "tips.csv"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(InputError, match=message):
        read_landmarks(path)


def test_markups_without_usable_landmarks_are_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="holds no points"):
        read_landmarks(saved(tmp_path, {"type": "Fiducial", "controlPoints": []}))
    unset = fiducials(LPS[:1])
    unset["controlPoints"][0]["positionStatus"] = "undefined"
    with pytest.raises(InputError, match="not set"):
        read_landmarks(saved(tmp_path, unset))
    twice = fiducials(LPS[:2])
    twice["controlPoints"][1]["label"] = "F-1"
    with pytest.raises(InputError, match="two points that are called F-1"):
        read_landmarks(saved(tmp_path, twice))
    (tmp_path / "bytes.csv").write_bytes(b"name,r_mm\n\xff")
    for path in (tmp_path / "bytes.csv", tmp_path / "missing.csv", tmp_path / "missing.mrk.json"):
        with pytest.raises(InputError, match=path.name):
            read_landmarks(path)


def test_located_landmarks_are_one_list_of_points_beside_the_boxes(tmp_path: Path) -> None:
    found = LandmarkDetection("carina", POINTS_RAS[0], 3.0, 28, ("a",), 6.0, 0.9)
    absent = AbsentLandmark("chin", 0.1, ("a",))
    write_rois(tmp_path / "out.mrk.json", Detections("q", (), "m", "s", landmarks=(found, absent)))
    (markup,) = json.loads((tmp_path / "out.mrk.json").read_text())["markups"]
    (point,) = markup["controlPoints"]
    assert (markup["type"], markup["name"], point["label"]) == ("Fiducial", "landmarks", "carina")
    assert point["position"] == (POINTS_RAS[0] * [-1, -1, 1]).tolist() and "expected error 6 mm" in point["description"]
    np.testing.assert_array_equal(read_landmarks(tmp_path / "out.mrk.json")["carina"], POINTS_RAS[0])
    with pytest.raises(InputError, match=r"nothing was located: chin is not in the scan \(90 %\)"):
        write_rois(tmp_path / "none.mrk.json", Detections("q", (), "m", "s", landmarks=(absent,)))


def test_landmarks_are_not_taken_for_an_organ_nor_an_organ_for_landmarks(tmp_path: Path) -> None:
    six = {f"tip {n}": point for n, point in enumerate(POINTS_RAS)}
    write_landmarks(tmp_path / "tips.mrk.json", six)
    with pytest.raises(InputError, match="holds landmarks and no organ"):
        read_marked_organs(tmp_path / "tips.mrk.json")
    box = OrganDetection("liver", POINTS_RAS, np.ones(6), 1, ("a",))
    tips = tuple(LandmarkDetection(name, point, 1.0, 1, ("a",)) for name, point in six.items())
    write_rois(tmp_path / "both.mrk.json", Detections("q", (box,), "m", "s", landmarks=tips))
    assert [name for name, _ in read_marked_organs(tmp_path / "both.mrk.json")] == ["liver"]
    write_extreme_points(tmp_path / "liver.mrk.json", POINTS_RAS, "liver")
    with pytest.raises(InputError, match="the six extreme points of an organ"):
        read_landmarks(tmp_path / "liver.mrk.json")
    unnamed = fiducials(LPS[:2])
    unnamed["controlPoints"][1]["label"] = ""
    with pytest.raises(InputError, match="a point without a name"):
        read_landmarks(saved(tmp_path, unnamed))
    broken = fiducials(LPS[:1])
    broken["controlPoints"][0]["label"] = "a\nb"
    with pytest.raises(InputError, match="name"):
        read_landmarks(saved(tmp_path, broken))
