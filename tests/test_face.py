"""The public names: there, documented, quick to import, and enough to learn an organ and to find it."""

from __future__ import annotations

import ast
import inspect
import subprocess
import sys
from importlib.resources import files
from pathlib import Path

import numpy as np
import pytest

import rprloc
from rprloc.apps.demo import DemoScans
from rprloc.geometry import extreme_points_of_mask
from tests.example import ExampleFiles

HEAVY = ("torch", "SimpleITK")


def heavy_modules_after(code: str, *arguments: object) -> list[str]:
    """Which of the heavy libraries a process of its own has loaded after running ``code``."""
    told = f"\nimport sys\nprint([name for name in {HEAVY!r} if name in sys.modules])"
    command = [sys.executable, "-c", code + told, *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=60)
    return ast.literal_eval(done.stdout.splitlines()[-1])


def test_importing_the_package_loads_no_heavy_library() -> None:
    assert heavy_modules_after("import rprloc") == []
    assert heavy_modules_after("import rprloc\nrprloc.Localizer") == list(HEAVY)  # the test would notice


def test_help_loads_no_heavy_library() -> None:
    code = (
        "import sys\nfrom rprloc.apps.cli import main\nsys.argv = ['rprloc', '--help']\n"
        "try:\n    main()\nexcept SystemExit as end:\n    assert not end.code"
    )
    assert heavy_modules_after(code) == []


def test_reading_a_support_set_loads_no_heavy_library(example: ExampleFiles) -> None:
    code = "import sys, rprloc\nassert rprloc.SupportSet.load(sys.argv[1]).organs == ['bone', 'lung']"
    assert heavy_modules_after(code, example.support_set) == []


@pytest.mark.parametrize("name", rprloc.__all__)
def test_every_public_name_is_there_and_explains_itself(name: str) -> None:
    value = getattr(rprloc, name)
    assert name in dir(rprloc)
    if inspect.isclass(value) or inspect.isfunction(value):
        assert value.__doc__ and not value.__doc__.startswith(f"{name}(")  # a dataclass gets its signature else
        assert value.__module__.startswith("rprloc.")
    else:
        assert name == "WALLS"


def test_public_names_are_sorted_and_each_is_given_once() -> None:
    assert rprloc.__all__ == sorted(set(rprloc.__all__))
    assert {"Box", "Detections", "Grid", "InputError", "Localizer", "OrganDetection", "SupportSet", "Volume"} <= set(
        rprloc.__all__
    )


def test_a_name_that_is_not_there_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="no attribute 'locate_everything'"):
        rprloc.locate_everything  # noqa: B018


def test_type_checkers_may_trust_the_annotations() -> None:
    assert files("rprloc").joinpath("py.typed").is_file()


@pytest.mark.slow
def test_the_seven_lines_learn_an_organ_and_find_it(public_scans: DemoScans, tmp_path: Path) -> None:
    localizer = rprloc.Localizer.load(device="cpu")
    example = rprloc.read_example(
        public_scans.support_image, labels=public_scans.support_labels, names=public_scans.support_names
    )
    organs = localizer.learn(example)
    found = localizer.locate(rprloc.read_volume(public_scans.query_image), organs)
    heart = found["heart"]
    assert (heart.box.size_mm > 80.0).all() and 2.0 < heart.expected_wall_error_mm < 20.0

    query = rprloc.read_volume(public_scans.query_image)
    truth = rprloc.read_label_map(public_scans.query_truth, query.grid) == 1
    assert heart.box.iou(rprloc.Box.from_extreme_points(extreme_points_of_mask(truth, query.grid))) > 0.5
    organs.save(tmp_path / "organs.json")
    again = localizer.locate(query, rprloc.SupportSet.load(tmp_path / "organs.json"))
    np.testing.assert_allclose(again["heart"].box.walls_mm, heart.box.walls_mm, atol=0.01)
