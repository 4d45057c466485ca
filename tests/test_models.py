"""The models that are shipped: their names, their licences, and that both doors find them by name."""

from __future__ import annotations

from pathlib import Path

import pytest

from rprloc import Localizer
from rprloc.localization.confidence import load_calibration
from rprloc.model.network import load_model
from rprloc.model.shipped import DEFAULT, find_weights, read_licence, shipped_models
from tests.command_line import rprloc
from tests.example import ExampleFiles

NAMES = list(shipped_models())


def test_a_path_is_not_taken_for_a_name(tmp_path: Path) -> None:
    assert find_weights() == find_weights(DEFAULT) == find_weights(Path(DEFAULT)) == shipped_models()[DEFAULT]
    assert find_weights(tmp_path / "open") == tmp_path / "open"
    assert find_weights("runs/open/model.pt") == Path("runs/open/model.pt")


@pytest.mark.parametrize("name", NAMES)
def test_every_shipped_model_is_calibrated_and_says_what_it_may_be_used_for(name: str) -> None:
    weights = find_weights(name)
    calibration = load_calibration(weights)
    assert calibration is not None and calibration.model_id == load_model(name).identity()
    licence = read_licence(weights)
    assert "\n" not in licence and "OpenKBP" in licence and ("research" in licence) == (name != "open")


def test_the_shipped_models_are_different_and_small() -> None:
    assert len({load_model(name).identity() for name in NAMES}) == len(NAMES)
    assert sum(find_weights(name).stat().st_size for name in NAMES) < 40e6


def test_weights_of_a_user_have_no_licence_of_ours(example: ExampleFiles) -> None:
    assert read_licence(example.weights) == ""


def test_the_command_line_lists_the_models_and_their_licences() -> None:
    done = rprloc("models")
    assert done.exit_code == 0
    for name in NAMES:
        assert name in done.stdout and str(find_weights(name)) in done.stdout
        assert f"For {load_model(name).modality}. {read_licence(find_weights(name))}" in done.stdout


def test_a_set_of_one_model_is_refused_by_the_other_in_words_that_help(example: ExampleFiles, tmp_path: Path) -> None:
    for command in (["locate", example.support_set, example.image, "--out", tmp_path / "out"],):
        for name in NAMES:
            done = rprloc(*command, "--model", name, "--device", "cpu")
            assert done.exit_code == 2 and "--model" in done.stderr and not (tmp_path / "out").exists()


def test_a_set_of_a_shipped_model_names_it_to_another(example: ExampleFiles, tmp_path: Path) -> None:
    done = rprloc("locate", "@head-neck", example.image, "--out", tmp_path, "--model", "ct-mr", "--device", "cpu")
    assert done.exit_code == 2
    wanted = (f"{name} ({load_model(name).identity()})" for name in ("research", "ct-mr"))
    assert all(name in " ".join(done.stderr.split()) for name in wanted), done.stderr


@pytest.mark.parametrize("name", NAMES)
def test_a_model_is_loaded_by_its_name(name: str) -> None:
    localizer = Localizer.load(name, "cpu")
    assert localizer.calibration is not None and localizer.model_id == load_model(find_weights(name)).identity()
