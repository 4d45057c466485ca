"""The extension as Slicer builds and installs it: its CMake files, its descriptions, and the packages it needs."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from packaging.requirements import Requirement
from packaging.version import Version

from rprloc.errors import InputError
from SlicerRPRLocLib.installer import REQUIREMENTS, Installer, torch_extension, torch_is_there
from tests.slicer_module.scenes import MODULE, NO_SLICER

REPOSITORY = MODULE.parent
STUB = Path(__file__).parent / "cmake"


def cmake() -> str:
    """The CMake beside this Python, else the system's; the test is skipped where none is new enough."""
    beside = Path(sys.executable).parent / "cmake"
    found = str(beside) if beside.exists() else shutil.which("cmake")
    if found is None or not (shutil.which("cc") and shutil.which("make")):
        pytest.skip("CMake, make or a C compiler is missing")
    text = subprocess.run([found, "--version"], capture_output=True, text=True, timeout=60).stdout
    version = re.search(r"\d+\.\d+", text)
    if version is None or Version(version.group()) < Version("3.28"):
        pytest.skip("Slicer's extensions need CMake 3.28 or newer")
    return found


def configured(source: Path, build: Path) -> subprocess.CompletedProcess[str]:
    command = [cmake(), "-S", str(source), "-B", str(build), f"-DSlicer_DIR={STUB}", "-DBUILD_TESTING=ON"]
    return subprocess.run([*command, "-Wno-dev"], capture_output=True, text=True, timeout=120)


@pytest.fixture
def copy(tmp_path: Path) -> Path:
    """The extension's files, to be changed."""
    target = tmp_path / "source"
    target.mkdir()
    shutil.copy(REPOSITORY / "CMakeLists.txt", target)
    ignored = shutil.ignore_patterns("__pycache__")
    shutil.copytree(MODULE, target / "SlicerRPRLoc", ignore=ignored)
    shutil.copytree(REPOSITORY / "bundle" / "rprloc", target / "bundle" / "rprloc", ignore=ignored)
    shutil.copytree(REPOSITORY / "bundle" / "models", target / "bundle" / "models")
    return target


def test_plain_cmake_configures_the_extension(tmp_path: Path) -> None:
    done = configured(REPOSITORY, tmp_path / "build")
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize(
    "name",
    [
        "SlicerRPRLoc/SlicerRPRLocLib/new.py",
        "SlicerRPRLoc/Resources/Icons/new.png",
    ],
)
def test_a_file_that_is_not_listed_is_noticed(copy: Path, tmp_path: Path, name: str) -> None:
    (copy / name).write_text("", encoding="utf-8")
    done = configured(copy, tmp_path / "build")
    assert done.returncode != 0 and "new" in done.stderr and "is not listed" in " ".join(done.stderr.split())


@pytest.mark.parametrize("name", ["bundle/rprloc/io/new.py", "bundle/rprloc/schemas/new.json"])
def test_a_new_file_of_the_library_goes_into_the_extension_unlisted(copy: Path, tmp_path: Path, name: str) -> None:
    """Slicer's stand-in demands that what is there and what is handed to it are the same files."""
    (copy / name).write_text("", encoding="utf-8")
    done = configured(copy, tmp_path / "build")
    assert done.returncode == 0, done.stderr


def test_a_listed_file_that_is_missing_is_noticed(copy: Path, tmp_path: Path) -> None:
    (copy / "SlicerRPRLoc" / "SlicerRPRLocLib" / "logic.py").unlink()
    done = configured(copy, tmp_path / "build")
    assert done.returncode != 0 and "is listed in CMakeLists.txt but missing" in " ".join(done.stderr.split())


def test_the_extension_index_finds_what_it_wants() -> None:
    text = (REPOSITORY / "CMakeLists.txt").read_text(encoding="utf-8")
    project = re.search(r"project\((\w+)\)", text)
    assert project is not None and not project.group(1).startswith("Slicer")
    said = dict(re.findall(r'set\(EXTENSION_(\w+) "([^"]+)"\)', text))
    assert set(said) == {"HOMEPAGE", "CONTRIBUTORS", "DESCRIPTION", "ICONURL", "SCREENSHOTURLS", "DEPENDS"}
    assert said["DEPENDS"] == "PyTorch" and said["DESCRIPTION"].count(".") <= 2
    for url in (said["ICONURL"], said["SCREENSHOTURLS"]):
        assert (REPOSITORY / url.split("/main/", 1)[1]).is_file()
    assert (REPOSITORY / "LICENSE").is_file()


# The packages


class Packages:
    """``slicer.packaging`` on a list of what is installed; ``brings``: what an installation adds."""

    def __init__(self, installed: dict[str, str], brings: dict[str, str] | Exception) -> None:
        self.installed, self.brings, self.asked = dict(installed), brings, []

    def load_requirements(self, path: Path) -> list[Requirement]:
        lines = [line.split("#")[0].strip() for line in path.read_text(encoding="utf-8").splitlines()]
        return [Requirement(line) for line in lines if line]

    def pip_check(self, requirements: list[Requirement]) -> bool:
        return all(
            one.name in self.installed and Version(self.installed[one.name]) in one.specifier for one in requirements
        )

    def pip_ensure(self, requirements: list[Requirement], *, requester: str) -> None:
        self.asked.append(requester)
        if isinstance(self.brings, Exception):
            raise self.brings
        self.installed.update(self.brings)


ALL = {
    "isal": "1.9",
    "jsonschema": "4.26",
    "matplotlib": "3.11",
    "nibabel": "5.3",
    "psutil": "7.0",
    "tqdm": "4.70",
    "typer": "0.20",
}


class Torch:
    """The PyTorch extension; ``works``: whether the user lets it install."""

    def __init__(self, works: bool) -> None:
        self.works, self.there = works, False

    def installTorch(self, *, askConfirmation: bool, torchVersionRequirement: str) -> object | None:
        assert askConfirmation and torchVersionRequirement == ">=2.9"
        self.there = self.works
        return self if self.works else None


def test_nothing_is_asked_where_all_is_installed() -> None:
    packages = Packages(ALL, {})
    installer = Installer(packages, lambda: None, lambda: True)
    assert installer.missing() == []
    installer.ensure()
    assert packages.asked == []


def test_what_is_missing_or_too_old_is_installed_and_torch_by_its_extension() -> None:
    packages, torch = Packages({**ALL, "psutil": "5.0"}, ALL), Torch(works=True)
    installer = Installer(packages, lambda: torch, lambda: torch.there)
    assert installer.missing() == ["torch>=2.9", "psutil>=5.9"]
    installer.ensure()
    assert installer.missing() == [] and packages.asked == ["RPR-Loc"]


def declined() -> Exception:
    return RuntimeError("User declined package installation")


@pytest.mark.parametrize(
    ("brings", "torch", "sentence"),
    [
        (declined(), Torch(works=True), "psutil>=5.9.*declined"),
        (subprocess.CalledProcessError(1, "pip"), Torch(works=True), "psutil>=5.9.*network"),
        ({}, Torch(works=True), "did not bring"),
        (ALL, Torch(works=False), "PyTorch was not installed"),
        (ALL, None, "Extensions Manager"),
    ],
)
def test_an_installation_that_fails_ends_with_a_sentence(brings: Any, torch: Torch | None, sentence: str) -> None:
    packages = Packages({name: ALL[name] for name in ALL if name != "psutil"}, brings)
    installer = Installer(packages, lambda: torch, lambda: torch is not None and torch.there)
    with pytest.raises(InputError, match=sentence):
        installer.ensure()


def test_the_module_opens_where_nothing_is_installed_yet() -> None:
    pytest.importorskip("slicer", reason=NO_SLICER)
    code = (
        "import sys\n"
        f"for name in {[*ALL, 'torch']!r}: sys.modules[name] = None\n"
        f"sys.path.insert(0, {str(MODULE)!r})\n"
        "import slicer\n"
        "from SlicerRPRLocLib import installer, logic, runner, terminology\n"
        "scene = slicer.vtkMRMLScene()\n"
        "slicer.vtkSlicerSubjectHierarchyModuleLogic().SetMRMLScene(scene)\n"
        "made = logic.RPRLocLogic(scene, runner.Runner())\n"
        "volume = scene.AddNewNodeByClass('vtkMRMLScalarVolumeNode', 'anna')\n"
        "roi = scene.AddNewNodeByClass('vtkMRMLMarkupsROINode', 'heart')\n"
        "for name, value in (('Role', 'result'), ('Organ', 'heart'), ('Detections', '{}')):\n"
        "    roi.SetAttribute('RPRLoc.' + name, value)\n"
        "roi.SetNodeReferenceID('RPRLoc.Volume', volume.GetID())\n"
        "organs = scene.AddNewNodeByClass('vtkMRMLTextNode', 'set')\n"
        "for name, value in (('Role', 'support set'), ('Organs', '{\"heart\": 2}')):\n"
        "    organs.SetAttribute('RPRLoc.' + name, value)\n"
        "made.history.clear()\n"
        "made.close()\n"
        "print(len(made.results.rois()), made.organs())\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
    assert done.stdout.strip() == "1 {'heart': 2}", done.stderr


def test_the_requirements_are_those_of_the_library_without_what_slicer_brings() -> None:
    """Slicer's own NumPy, SciPy, SimpleITK and pydicom are never replaced; psutil is for the module alone."""
    text = (REPOSITORY / "pyproject.toml").read_text(encoding="utf-8")
    block = re.search(r"^dependencies = \[(.*?)^\]", text, re.S | re.M)
    assert block is not None
    library = {Requirement(one) for one in re.findall(r'"([^"]+)"', block.group(1))}
    module = {Requirement(str(one)) for one in Packages({}, {}).load_requirements(REQUIREMENTS)}
    brought = {"numpy", "scipy", "SimpleITK", "pydicom", "torch"}
    assert {str(one) for one in library if one.name not in brought} | {"psutil>=5.9"} == {str(one) for one in module}
    assert torch_is_there() and torch_extension() is None
