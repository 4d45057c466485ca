"""The result record, its JSON form, and writing files whole."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from rprloc.detection import AbsentOrgan, Detections, OrganDetection, Presence
from rprloc.errors import InputError
from rprloc.files import atomic_path, write_text_atomically
from rprloc.geometry import WALLS, Grid
from rprloc.io.colours import organ_colour
from tests.phantoms import Affine

HEART_RAS = np.array(
    [[-40.00004, 1, 2], [60, 3, 4], [5, -60.12345678, 6], [7, 20, 8], [9, 10, -0.00001], [11, 12, 60]], float
)


def detections(seconds: float | None = 1.5) -> Detections:
    heart = OrganDetection("heart", HEART_RAS, np.arange(6) / 3, 25, ("case a", "case b"))
    kidney = OrganDetection("rognone è", HEART_RAS + 100, np.zeros(6), 1, ())
    return Detections("scan 7", (heart, kidney), "coarse-1+fine-2", "one-shot", ("the scan is cut",), seconds)


def test_json_text_says_what_was_found() -> None:
    record = json.loads(detections().to_json())
    heart = record["organs"][0]
    assert (record["format"], record["version"], record["query"]) == ("rprloc-detections", 2, "scan 7")
    assert heart["box"] == {
        "min_ras_mm": [-40.0, -60.1235, 0.0],
        "max_ras_mm": [60.0, 20.0, 60.0],
        "centre_ras_mm": [10.0, -20.0617, 30.0],
        "size_mm": [100.0, 80.1235, 60.0],
    }
    assert [point["wall"] for point in heart["extreme_points"]] == list(WALLS)
    assert heart["extreme_points"][1] == {"wall": "right", "ras_mm": [60.0, 3.0, 4.0], "spread_mm": 0.3333}
    assert heart["supports"] == ["case a", "case b"]


def test_reading_gives_back_what_was_written(tmp_path: Path) -> None:
    detections().save(tmp_path / "d.json")
    found = Detections.load(tmp_path / "d.json")
    assert found.query == "scan 7" and found.warnings == ("the scan is cut",) and found.seconds is None
    assert [organ.organ for organ in found.organs] == ["heart", "rognone è"]
    assert [organ.starts for organ in found.organs] == [25, 1]
    np.testing.assert_allclose(found.organs[0].points_ras, HEART_RAS, atol=5.1e-5)
    np.testing.assert_allclose(found.boxes["rognone è"].max_ras, [160, 120, 160], atol=1e-3)
    assert found.to_json() == detections().to_json()


def test_equal_runs_write_equal_files_without_minus_zero() -> None:
    text = detections(seconds=1.0).to_json()
    assert text == detections(seconds=2.0).to_json()
    assert "seconds" not in text and "-0.0," not in text and "-0.0\n" not in text


def judged() -> Detections:
    """A heart that is whole, a liver that the scan cuts, and a brain that is elsewhere."""
    heart = OrganDetection("heart", HEART_RAS, np.zeros(6), 9, ("a",), 4.256789, Presence(0.9, 0.08, 0.02))
    liver = OrganDetection("liver", HEART_RAS, np.zeros(6), 9, ("a",), 11.0, Presence(0.1, 0.85, 0.05))
    brain = AbsentOrgan("brain", Presence(0.001, 0.02, 0.979), ("a",))
    return Detections("scan 7", (heart, brain, liver), "m", "s")


def test_where_the_scan_lies_survives_writing_and_reading(ras_from_ijk: Affine) -> None:
    grid = Grid((5, 6, 7), ras_from_ijk)
    found = replace(detections(), grid=grid)
    again = Detections.from_json(found.to_json())
    assert again.grid == grid and again.to_json() == found.to_json()
    assert detections().grid is None and "ras_from_ijk" not in detections().to_json()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda scan: scan.update(shape=[5, 6]), "scan"),
        (lambda scan: scan.update(shape=[5, 6, 0]), "scan"),
        (lambda scan: scan.pop("shape"), "shape"),
        (lambda scan: scan.update(ras_from_ijk=np.zeros((4, 4)).tolist()), "the place of the scan is damaged"),
    ],
)
def test_a_scan_that_lies_nowhere_is_refused(change: Callable[[dict[str, Any]], Any], message: str) -> None:
    record = json.loads(replace(detections(), grid=Grid((5, 6, 7), np.eye(4))).to_json())
    change(record["scan"])
    with pytest.raises(InputError, match=message):
        Detections.from_json(json.dumps(record))


def test_trust_and_absence_survive_writing_and_reading() -> None:
    found = Detections.from_json(judged().to_json())
    assert found.to_json() == judged().to_json()
    assert [one.organ for one in found.organs] == ["heart", "brain", "liver"]  # in order
    assert list(found.boxes) == ["heart", "liver"] and [one.organ for one in found.absent] == ["brain"]
    heart, liver = found.located
    assert heart.expected_wall_error_mm == 4.2568 and not heart.is_cut
    assert heart.remark == "expected wall error 4 mm"
    assert liver.is_cut and liver.remark == "expected wall error 11 mm; the scan shows only a part of it"
    assert found.absent[0].remark == "not in the scan (98 %)"
    record = json.loads(judged().to_json())["organs"]
    assert all(sum(one["presence"].values()) == pytest.approx(1.0) for one in record)
    assert "box" not in record[1] and "extreme_points" not in record[1]


def test_results_without_calibration_say_so() -> None:
    found = Detections.from_json(detections().to_json()).located[0]
    assert found.presence is None and found.expected_wall_error_mm is None and not found.is_cut and not found.is_absent
    assert "not calibrated" in found.remark


@pytest.mark.parametrize("chances", [(0.5, 0.5, 0.5), (1.2, -0.2, 0.0), (float("nan"), 0.5, 0.5)])
def test_probabilities_must_be_some(chances: tuple[float, float, float]) -> None:
    with pytest.raises(ValueError, match="sum to 1"):
        Presence(*chances)


def test_an_absent_organ_with_a_place_or_odd_chances_is_refused() -> None:
    for change, message in (
        ({"starts": 3}, r"\$\.organs\[1\]"),
        ({"presence": None}, r"\$\.organs\[1\]\.presence"),
        ({"presence": {"whole": 0.5, "part": 0.5, "absent": 0.5}}, "presence of brain"),
    ):
        record = json.loads(judged().to_json())
        record["organs"][1].update(change)
        with pytest.raises(InputError, match=message):
            Detections.from_json(json.dumps(record), "d.json")


def test_no_organs_is_a_valid_result() -> None:
    assert Detections.from_json(Detections("q", (), "m", "s").to_json()).organs == ()


def changed(change: Callable[[dict[str, Any]], object]) -> str:
    record = json.loads(detections().to_json())
    change(record)
    return json.dumps(record)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "not JSON"),
        ("[1]", "not a detections file"),
        ('{"format": "other"}', "not a detections file"),
        (changed(lambda r: r.update(version=3)), "version 3.*versions up to 2.*Update"),
        (changed(lambda r: r.update(version="1")), r"\$\.version"),
        (changed(lambda r: r.pop("model_id")), "model_id"),
        (changed(lambda r: r.update(surprise=1)), "surprise"),
        (changed(lambda r: r["organs"][0].update(starts=0)), r"\$\.organs\[0\]\.starts"),
        (changed(lambda r: r["organs"][0]["extreme_points"].pop()), "extreme_points"),
        (changed(lambda r: r["organs"][0]["extreme_points"].reverse()), "wall"),
        (changed(lambda r: r["organs"][0]["extreme_points"][2].update(ras_mm=[1, 2])), "ras_mm"),
        (changed(lambda r: r["organs"][0]["extreme_points"][2].update(extra=1)), "extra"),
        (changed(lambda r: r["organs"][0]["extreme_points"][2].update(ras_mm=[1, 2, float("nan")])), "NaN"),
        (changed(lambda r: None).replace("60.0", "1e999"), "not finite"),
        (changed(lambda r: r["organs"][0]["box"].update(max_ras_mm=[61, 20, 60])), "box of heart is not"),
    ],
)
def test_a_broken_file_is_refused_with_its_fault(text: str, message: str) -> None:
    with pytest.raises(InputError, match=message):
        Detections.from_json(text, "d.json")


def test_loading_names_a_missing_file(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"nowhere\.json"):
        Detections.load(tmp_path / "nowhere.json")


@pytest.mark.parametrize("bad", [np.zeros((5, 3)), np.full((6, 3), np.nan)])
def test_points_must_be_six_and_finite(bad: np.ndarray) -> None:
    with pytest.raises(ValueError, match="points_ras"):
        OrganDetection("heart", bad, np.zeros(6), 1, ())


def test_the_record_cannot_be_changed_through_its_arrays() -> None:
    points = HEART_RAS.copy()
    found = OrganDetection("heart", points, np.zeros(6), 1, ())
    points[:] = 0
    np.testing.assert_array_equal(found.points_ras, HEART_RAS)
    with pytest.raises(ValueError, match="read-only"):
        found.spread_mm[0] = 1


def test_colours_differ() -> None:
    colours = np.array([organ_colour(index) for index in range(40)])
    assert colours.min() >= 0 and colours.max() <= 1
    distances = np.linalg.norm(colours[:, None] - colours, axis=2) + np.eye(40)
    assert distances[:12, :12].min() > 0.2 and distances.min() > 0.02


def test_a_failed_write_leaves_the_old_file_and_no_other(tmp_path: Path) -> None:
    target = tmp_path / "result.nii.gz"
    write_text_atomically(target, "old")

    def write_half() -> None:
        with atomic_path(target) as temporary:
            assert temporary.parent == tmp_path and temporary.name.endswith(".nii.gz")
            temporary.write_text("half")
            raise RuntimeError("power is gone")

    with pytest.raises(RuntimeError, match="power"):
        write_half()
    assert target.read_text() == "old"
    assert list(tmp_path.iterdir()) == [target]


def test_a_write_replaces_the_whole_file(tmp_path: Path) -> None:
    write_text_atomically(tmp_path / "a.txt", "a long old text")
    write_text_atomically(tmp_path / "a.txt", "é\n")
    assert (tmp_path / "a.txt").read_bytes() == b"\xc3\xa9\n"
    assert [path.name for path in tmp_path.iterdir()] == ["a.txt"]


def test_writing_to_no_folder_or_onto_a_folder_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="does not exist"):
        write_text_atomically(tmp_path / "missing" / "a.txt", "")
    with pytest.raises(InputError, match="is a folder"):
        write_text_atomically(tmp_path, "")
