"""Ready-made support sets: found by name, small, of the default weights, and true to what they say."""

from __future__ import annotations

import gzip
import json
from dataclasses import replace
from pathlib import Path

import pytest

from rprloc import Box, Localizer, SupportSet
from rprloc.errors import InputError
from rprloc.localization.ready_made import SIGN, find_set, ready_made_sets
from rprloc.localization.support import About, Measured, SupportLandmark, summarize
from tests.command_line import rprloc
from tests.example import ExampleFiles
from tests.scans import Pair

NAMES = list(ready_made_sets())


def test_there_are_sets_for_head_and_neck_and_for_the_trunk() -> None:
    assert NAMES == ["head-neck", "trunk"]
    assert sum(path.stat().st_size for path in ready_made_sets().values()) < 10e6


@pytest.mark.parametrize("name", NAMES)
def test_a_ready_made_set_is_of_the_default_weights_and_says_where_it_is_from(name: str, localizer: Localizer) -> None:
    support_set = SupportSet.load(SIGN + name)
    localizer.check(support_set)
    about = support_set.about
    assert about is not None and about.sources and "licence" in about.licence.lower() and about.measured_on
    assert set(about.measured) == set(support_set.targets)
    assert all(one.scans > 1 and 0.0 < one.iou < 1.0 and one.awd_mm > 0.0 for one in about.measured.values())


def test_the_command_line_lists_them_with_what_they_find_and_how_well() -> None:
    done = rprloc("sets")
    assert done.exit_code == 0
    for name in NAMES:
        assert f"{SIGN}{name}: " in done.stdout
        about = SupportSet.load(SIGN + name).about
        assert about is not None and about.licence in done.stdout
        for organ, one in about.measured.items():
            assert f"{one.iou:.2f}  {one.awd_mm:4.1f}" in next(
                line for line in done.stdout.splitlines() if line.split()[:1] == [organ]
            )


def test_organs_are_found_without_any_marking(localizer: Localizer, public_pair: Pair) -> None:
    """In a public scan of a patient who is no example of the set."""
    found = localizer.locate(public_pair.query.volume, SupportSet.load("@trunk"))
    truth = Box.from_extreme_points(public_pair.query.annotation.points_ras["heart"])
    assert found.boxes["heart"].iou(truth) > 0.5
    assert found["heart"].supports == ("trunk",)


def test_a_name_that_is_not_there_is_refused_with_those_that_are(example: ExampleFiles, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"There is no ready-made set @brain\. There are @head-neck, @trunk"):
        find_set("@brain")
    done = rprloc("locate", "@brain", example.image, "--out", tmp_path / "out")
    assert done.exit_code == 2 and "@head-neck" in done.stderr and not (tmp_path / "out").exists()
    assert find_set("here/@brain") == Path("here/@brain")


def test_a_set_may_be_packed_and_may_say_what_it_is(example: ExampleFiles, tmp_path: Path) -> None:
    plain = SupportSet.load(example.support_set)
    about = About("Bone and lung", ("a phantom",), "none", "one scan", {"bone": Measured(0.5, 3.25, 7)})
    told = replace(plain, about=about)
    told.save(tmp_path / "set.json.gz")
    again = SupportSet.load(tmp_path / "set.json.gz")
    assert again.about == about and again.to_json() == told.to_json()
    assert plain.about is None and "about" not in json.loads(plain.to_json())
    assert gzip.decompress((tmp_path / "set.json.gz").read_bytes()).decode() == told.to_json()
    told.save(tmp_path / "again.json.gz")
    assert (tmp_path / "again.json.gz").read_bytes() == (tmp_path / "set.json.gz").read_bytes()


def test_a_merged_set_keeps_what_still_holds_of_what_its_parts_say(example: ExampleFiles) -> None:
    plain = SupportSet.load(example.support_set)
    (support,) = plain.supports

    def part(scan: str, organs: list[str], about: About | None) -> SupportSet:
        chosen = {name: support.organs[name] for name in organs}
        return replace(plain, supports=(replace(support, scan=scan, organs=chosen),), about=about)

    figures = {"bone": Measured(0.5, 3.25, 7), "lung": Measured(0.75, 2.0, 9)}
    one = part("anna", ["bone", "lung"], About("Chest", ("a phantom",), "MIT licence", "nine scans", figures))
    other = part("bert", ["lung"], About("Lungs", ("a balloon",), "CC BY", "two", {"lung": Measured(0.25, 9.0, 2)}))
    own = part("carl", ["lung"], None)
    assert SupportSet.merge([one]).about == SupportSet.merge([one, one]).about == one.about
    assert SupportSet.merge([own]).about is None
    # Who marked lungs beside it changes how well lungs are found; of bone nothing changes.
    told = About(
        "Chest; Lungs", ("a phantom", "a balloon"), "MIT licence; CC BY", "nine scans", {"bone": figures["bone"]}
    )
    assert SupportSet.merge([one, other]).about == told
    more = SupportSet.merge([one, own]).about
    assert more == About("Chest; further examples", ("a phantom",), "MIT licence", "nine scans", told.measured)
    # What was merged before is not said twice.
    assert SupportSet.merge([SupportSet.merge([one, own]), other, part("dora", ["bone"], None)]).about == replace(
        told, title="Chest; further examples; Lungs", measured_on="", measured={}
    )
    # What is marked on the same scan changes what is known around all its organs.
    same = replace(own, supports=(replace(own.supports[0], scan="anna"),))
    joined = SupportSet.merge([one, same]).about
    assert (
        joined is not None
        and joined.measured == {}
        and joined.measured_on == ""
        and joined.sources == one.about.sources
    )
    again = SupportSet.from_json(SupportSet.merge([one, other]).to_json())
    assert again.about == told


def test_a_file_whose_name_begins_like_a_ready_made_set(
    example: ExampleFiles, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("@mine.json", "@trunk"):
        Path(name).write_bytes(example.support_set.read_bytes())
        done = rprloc("support", "show", f"./{name}")
        assert done.exit_code == 0 and f"{name}: 1 supports, 2 organs" in done.stdout
        assert SupportSet.load(f"./{name}").organs == ["bone", "lung"]
    assert rprloc("support", "merge", "./@trunk", "./@mine.json", "--out", "both.json").exit_code == 0
    locate = ["locate", "./@mine.json", example.image, "--model", example.weights, "--device", "cpu"]
    assert rprloc(*locate, "--out", "out").exit_code == 0
    done = rprloc("support", "show", "@mine.json")
    assert done.exit_code == 2 and "for a file of that name, ./@mine.json" in done.stderr


def test_a_packed_set_that_is_damaged_is_refused(example: ExampleFiles, tmp_path: Path) -> None:
    whole = gzip.compress(example.support_set.read_bytes())
    damaged = {"cut": whole[: len(whole) // 2], "changed": whole[:900] + b"\0\0\0\0" + whole[904:], "head": whole[:5]}
    for name, data in damaged.items():
        (tmp_path / f"{name}.json.gz").write_bytes(data)
        with pytest.raises(InputError, match=r"\.json\.gz.* Build the set again"):
            SupportSet.load(tmp_path / f"{name}.json.gz")


@pytest.mark.parametrize("name", NAMES)
def test_what_is_in_a_file_is_told_without_its_arrays(name: str) -> None:
    path, whole = find_set(SIGN + name), SupportSet.load(SIGN + name)
    said = summarize(path)
    assert said.about == whole.about and list(said.organs) == whole.organs and not said.landmarks
    for organ, count in said.organs.items():
        assert count == sum(organ in support.organs for support in whole.supports)


def test_a_summary_counts_landmarks_and_tells_sets_apart(example: ExampleFiles, tmp_path: Path) -> None:
    whole = SupportSet.load(example.support_set)
    said = summarize(example.support_set)
    assert (said.organs, said.landmarks) == ({"bone": 1, "lung": 1}, {}) and said.identity == whole.identity
    (support,) = whole.supports
    anchors = support.organs["bone"]
    tip = SupportLandmark("tip", anchors.anchors_ras[5:], anchors.latents[5:], anchors.self_error_mm[5:])
    packed = tmp_path / "set.json.gz"
    replace(whole, supports=(replace(support, landmarks={"tip": tip}),)).save(packed)
    assert summarize(packed).landmarks == {"tip": 1} and summarize(packed).identity != said.identity
    for text in ("", "[]", "{}", '{"supports": 3}', '{"supports": [3]}', '{"supports": [], "about": 3}'):
        (tmp_path / "wrong.json").write_text(text, encoding="utf-8")
        with pytest.raises(InputError, match="is not a support set"):
            summarize(tmp_path / "wrong.json")
