"""The MONAI bundle: run as its users run it, in processes of their own, from a copy that lies alone in a folder."""

from __future__ import annotations

import csv
import importlib
import importlib.util
import io
import json
import os
import shutil
import subprocess
import sys
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import SimpleITK as sitk
import torch
from typer.testing import CliRunner

from rprloc.annotation import Annotation
from rprloc.apps.cli import app
from rprloc.detection import Detections
from rprloc.errors import InputError
from rprloc.evaluation.evaluate import evaluate
from rprloc.io.dataset import read_dataset
from rprloc.io.reading import read_volume
from rprloc.localization.localizer import Localizer
from rprloc.localization.marking import build_support
from rprloc.localization.support import SupportSet
from rprloc.model.field import compute_position_field
from rprloc.model.network import RPRNet, load_model, save_model
from rprloc.training.config import TrainingConfig
from rprloc.volume import to_sitk
from tests.phantoms import PHANTOM_GRID, phantom_hu

pytestmark = pytest.mark.skipif(importlib.util.find_spec("monai") is None, reason="monai is not installed")

BUNDLE = Path(__file__).resolve().parents[1] / "bundle"
METADATA = BUNDLE / "configs" / "metadata.json"


@dataclass(frozen=True)
class Scene:
    """A bundle with random weights, two scans in ``scans``, and a support set of the organs bone and lung."""

    bundle: Path
    scans: Path
    support_set: Path

    def paths(self) -> list[Path]:
        return sorted(self.scans.iterdir())

    def expected(self, scans: list[Path], folder: Path, *options: str) -> dict[str, bytes]:
        """The files that ``rprloc locate`` writes for scans."""
        weights = self.bundle / "models" / "model.pt"
        command = ["locate", self.support_set, *scans, "--out", folder, "--model", weights, "--device", "cpu", *options]
        done = CliRunner().invoke(app, [str(part) for part in command])
        assert done.exit_code == 0, done.output
        return files_in(folder)


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> Iterator[None]:
    """As many threads as the bundle's processes get, so that even the last digits of sums agree."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def scene(tmp_path_factory: pytest.TempPathFactory) -> Scene:
    folder = tmp_path_factory.mktemp("bundle")
    bundle, scans = folder / "rprloc_bundle", folder / "scans"
    shutil.copytree(BUNDLE, bundle, ignore=shutil.ignore_patterns("__pycache__", "*.egg-info", "models"))
    (bundle / "models").mkdir()
    torch.manual_seed(0)
    model = RPRNet()
    save_model(model, bundle / "models" / "model.pt")

    scans.mkdir()
    grid = PHANTOM_GRID
    hu = phantom_hu(grid)
    sitk.WriteImage(to_sitk(hu, grid), scans / "anna.nii.gz")
    sitk.WriteImage(to_sitk(np.roll(hu, 2, axis=0), grid), scans / "bert.nrrd")
    sitk.WriteImage(to_sitk(hu // 2, grid), scans / "carl.mha")  # read with a warning

    field = compute_position_field(model.eval(), read_volume(scans / "anna.nii.gz"))
    directions = np.repeat(np.eye(3), 2, axis=0) * np.tile([[-1.0], [1.0]], (3, 1))
    points = {
        "bone": grid.bounds.centre_ras + [18.0, 12.0, 24.0] + 12.0 * directions,
        "lung": grid.bounds.centre_ras + [-18.0, -6.0, 0.0] + 16.0 * directions,
    }
    support = build_support(field, grid, Annotation(points), "anna")
    SupportSet(model.identity(), (support,)).save(folder / "support.json")
    return Scene(bundle, scans, folder / "support.json")


@pytest.fixture(scope="module")
def inferer() -> ModuleType:
    """The module under test; what MONAI warns of while it is imported is not this project's."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return importlib.import_module("rprloc.apps.bundle")


def python(*arguments: object, cwd: Path, path: Path | None = None) -> subprocess.CompletedProcess[str]:
    """Run Python in ``cwd`` with at most ``path`` on its import path besides what is installed."""
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    environment |= {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}
    if path is not None:
        environment["PYTHONPATH"] = str(path)
    command = [sys.executable, *map(str, arguments)]
    return subprocess.run(command, cwd=cwd, env=environment, capture_output=True, text=True, timeout=240, check=False)


def run_configs(scene: Scene, *configs: str, **overrides: object) -> subprocess.CompletedProcess[str]:
    """``python -m monai.bundle run`` in the bundle's own folder, on the CPU."""
    options: list[object] = ["--config_file", [f"configs/{name}.json" for name in configs]]
    options += ["--bundle_root", ".", "--device", "cpu"]
    for name, value in overrides.items():
        options += [f"--{name}", value]
    return python("-m", "monai.bundle", "run", *options, cwd=scene.bundle)


def write_dataset(folder: Path, scans: Sequence[Path], splits: list[str], *, box: bool = False) -> None:
    """A ``datasets.json`` of the region chest, and copies of the scans, labelled with a box if asked for."""
    (folder / "chest" / "images").mkdir(parents=True)
    (folder / "chest" / "labels").mkdir()
    cases = {f"case_{number}": {"split": split, "targets": ["box"]} for number, split in enumerate(splits)}
    for case, scan in zip(cases, scans, strict=False):
        volume = read_volume(scan)
        sitk.WriteImage(to_sitk(volume.hu, volume.grid), folder / "chest" / "images" / f"{case}.nii.gz")
        if box:
            labels = np.zeros(volume.grid.shape, np.uint8)
            labels[10:18, 8:14, 6:12] = 1
            sitk.WriteImage(to_sitk(labels, volume.grid), folder / "chest" / "labels" / f"{case}.nii.gz")
    content = {"chest": {"labels": {"1": "box"}, "cases": cases}}
    (folder / "datasets.json").write_text(json.dumps(content), encoding="utf-8")


def files_in(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir())}


@pytest.mark.slow
def test_inference_from_a_bundle_that_lies_alone_gives_the_very_files_of_the_library(
    scene: Scene, tmp_path: Path
) -> None:
    package = scene.bundle / "rprloc" / "__init__.py"
    original = package.read_text(encoding="utf-8")
    package.write_text(original + '\nprint(f"imported {__file__}")\n', encoding="utf-8")
    try:
        done = run_configs(
            scene,
            "inference",
            support_set=scene.support_set,
            dataset_dir=scene.scans,
            output_dir=tmp_path / "made" / "results",
        )
    finally:
        package.write_text(original, encoding="utf-8")
    assert done.returncode == 0, done.stderr
    assert f"imported {package}" in done.stdout
    expected = scene.expected(scene.paths(), tmp_path / "expected")
    assert len(expected) == 6
    assert b"saved through a display window" in expected["carl.detections.json"]
    assert files_in(tmp_path / "made" / "results") == expected


@pytest.mark.slow
def test_one_bad_scan_among_several_is_reported_and_the_others_are_done(scene: Scene, tmp_path: Path) -> None:
    anna, bert, _ = scene.paths()
    broken = tmp_path / "broken.nii.gz"
    broken.write_bytes(b"not an image")
    done = run_configs(
        scene,
        "inference",
        support_set=scene.support_set,
        dataset_dir=[str(anna), str(broken), str(bert)],
        organs="lung",
        output_dir=tmp_path / "results",
    )
    assert done.returncode == 1
    assert "broken.nii.gz is not a NIfTI file" in done.stderr
    assert "1 of 3 scans could not be used" in done.stderr
    expected = scene.expected([anna, bert], tmp_path / "expected", "--organ", "lung")
    assert files_in(tmp_path / "results") == expected


@pytest.mark.slow
def test_training_config_writes_weights_that_load(scene: Scene, tmp_path: Path) -> None:
    # The test case has no image: nothing but the train cases may be read.
    write_dataset(tmp_path / "data", scene.paths(), ["train", "val", "test"])
    small = {"coarse_steps": 12, "fine_steps": 12, "coarse_outputs": 2, "fine_outputs": 3, "crops_a_step": 2}
    done = run_configs(
        scene,
        "train",
        dataset_dir=tmp_path / "data",
        output_dir=tmp_path / "run",
        **{f"train#config#{name}": value for name, value in small.items()},
    )
    assert done.returncode == 0, done.stderr
    trained = load_model(tmp_path / "run" / "model.pt")
    assert trained.identity() != load_model(scene.bundle / "models" / "model.pt").identity()


@pytest.mark.slow
def test_two_processes_train_one_model(scene: Scene, tmp_path: Path) -> None:
    write_dataset(tmp_path / "data", scene.paths(), ["train", "train", "val"])
    small = {"coarse_steps": 3, "fine_steps": 3, "coarse_outputs": 2, "fine_outputs": 3, "crops_a_step": 2}
    options: list[object] = ["--config_file", ["configs/train.json", "configs/multi_gpu_train.json"]]
    options += ["--bundle_root", ".", "--dataset_dir", tmp_path / "data", "--output_dir", tmp_path / "run"]
    for name, value in small.items():
        options += [f"--train#config#{name}", value]
    launcher = ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node", 2, "-m", "monai.bundle", "run"]
    done = python(*launcher, *options, cwd=scene.bundle)
    assert done.returncode == 0, done.stderr
    trained = load_model(tmp_path / "run" / "model.pt")
    assert all(torch.isfinite(parameter).all() for parameter in trained.parameters())
    rows = (tmp_path / "run" / "fine.csv").read_text(encoding="utf-8").splitlines()
    written = [["3", "training"], ["3", "validation"], ["3", "offsets"], ["3", "views"]]
    assert [row.split(",")[:2] for row in rows[1:]] == written  # by one
    assert TrainingConfig.read(tmp_path / "run" / "config.json") == TrainingConfig(**small)


@pytest.mark.slow
def test_evaluation_config_gives_the_librarys_results(scene: Scene, tmp_path: Path) -> None:
    write_dataset(tmp_path / "data", scene.paths(), ["support", "test"], box=True)
    done = run_configs(
        scene, "inference", "evaluate", dataset_dir=tmp_path / "data", region="chest", output_dir=tmp_path / "results"
    )
    assert done.returncode == 0, done.stderr
    localizer = Localizer.load(scene.bundle / "models" / "model.pt", "cpu")
    expected = evaluate(localizer, read_dataset(tmp_path / "data" / "datasets.json"), "chest", "test", "one")
    # To rounding: other libraries than PyTorch share their work among other threads in the bundle's process.
    ours, theirs = (
        list(csv.reader(io.StringIO(text)))
        for text in (expected.to_csv(), (tmp_path / "results" / "chest-test-one.csv").read_text(encoding="utf-8"))
    )
    assert [row[:4] for row in ours] == [row[:4] for row in theirs] and ours[0] == theirs[0]
    for one, other in zip(ours[1:], theirs[1:], strict=True):
        assert [float(cell or 0) for cell in one[4:]] == pytest.approx(
            [float(cell or 0) for cell in other[4:]], abs=2e-4
        )
    results = json.loads((tmp_path / "results" / "chest-test-one.json").read_text(encoding="utf-8"))
    for target, summary in json.loads(expected.to_json())["targets"].items():
        assert results["targets"][target] == pytest.approx(summary, abs=2e-4)
    assert expected.to_table().splitlines()[2] in done.stdout


@pytest.mark.parametrize("n", [1, 2])
def test_spatial_shapes_in_the_metadata_are_the_networks(n: int) -> None:
    formats = json.loads(METADATA.read_text(encoding="utf-8"))["network_data_format"]
    assert formats["inputs"]["image"]["spatial_shape"] == ["54 + 4 * n"] * 3
    assert formats["outputs"]["pred"]["spatial_shape"] == ["n"] * 3
    edge = 54 + 4 * n
    with torch.inference_mode():
        assert RPRNet().eval()(torch.zeros(1, 1, edge, edge, edge)).shape == (1, 3, n, n, n)


def test_a_missing_support_set_stops_everything_before_anything_is_written(
    scene: Scene, inferer: ModuleType, tmp_path: Path
) -> None:
    evaluator = inferer.LocalizationEvaluator(
        load_model(scene.bundle / "models" / "model.pt"),
        inferer.QueryDataset(str(scene.scans)),
        inferer.OneShotInferer(str(tmp_path / "support.json")),
        str(tmp_path / "results"),
    )
    with pytest.raises(InputError, match=r"There is no support set .*support\.json"):
        evaluator.run()
    assert list(tmp_path.iterdir()) == []


def test_the_inferer_gives_the_librarys_detections(scene: Scene, inferer: ModuleType) -> None:
    model, volume = load_model(scene.bundle / "models" / "model.pt"), read_volume(scene.paths()[1])
    found = inferer.OneShotInferer(str(scene.support_set), ["bone"])(volume, model)
    assert isinstance(found, Detections)
    assert found.to_json() == Localizer(model).locate(volume, SupportSet.load(scene.support_set), ["bone"]).to_json()


def test_scans_of_one_name_are_refused_before_anything_is_written(
    scene: Scene, inferer: ModuleType, tmp_path: Path
) -> None:
    twin = tmp_path / "anna.nrrd"
    evaluator = inferer.LocalizationEvaluator(
        load_model(scene.bundle / "models" / "model.pt"),
        inferer.QueryDataset([str(scene.scans / "anna.nii.gz"), str(twin)]),
        inferer.OneShotInferer(str(scene.support_set)),
        str(tmp_path / "results"),
    )
    with pytest.raises(InputError, match="would both be called anna"):
        evaluator.run()
    assert list(tmp_path.iterdir()) == []


def test_a_folder_stands_for_its_images_or_its_series_or_itself(inferer: ModuleType, tmp_path: Path) -> None:
    images, series = tmp_path / "images", tmp_path / "series"
    for path in (images / "results", series / "one", series / "two", series / ".hidden"):
        path.mkdir(parents=True)
    for name in ("b.NRRD", "a.nii.gz", "readme.txt", ".c.nii"):
        (images / name).touch()
    (series / "one" / "slice1").touch()
    assert inferer.QueryDataset(str(images)).paths == [images / "a.nii.gz", images / "b.NRRD"]
    assert inferer.QueryDataset(str(series)).paths == [series / "one", series / "two"]
    assert inferer.QueryDataset([str(series / "one"), "x.nii"]).paths == [series / "one", Path("x.nii")]
