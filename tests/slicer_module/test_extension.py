"""The extension as Slicer builds and installs it: its CMake files, its descriptions, and the packages it needs."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any
from urllib.parse import urlparse

import pytest
from packaging.requirements import Requirement
from packaging.version import Version

from rprloc.errors import InputError
from SlicerRPRLocLib.installer import (
    BROUGHT,
    DICOM_REQUIREMENTS,
    REQUIREMENTS,
    Installer,
    installed_version,
    torch_extension,
)
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
    for folder in ("models", "sets"):
        shutil.copytree(REPOSITORY / "bundle" / folder, target / "bundle" / folder)
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


def said_in_cmake() -> dict[str, str]:
    """What the extension says of itself."""
    text = (REPOSITORY / "CMakeLists.txt").read_text(encoding="utf-8")
    return dict(re.findall(r'set\(EXTENSION_(\w+) "([^"]+)"\)', text))


def test_the_extension_index_finds_what_it_wants() -> None:
    text = (REPOSITORY / "CMakeLists.txt").read_text(encoding="utf-8")
    project = re.search(r"project\((\w+)\)", text)
    assert project is not None and not project.group(1).startswith("Slicer")
    said = said_in_cmake()
    assert set(said) == {"HOMEPAGE", "CONTRIBUTORS", "DESCRIPTION", "ICONURL", "SCREENSHOTURLS", "DEPENDS"}
    assert said["DEPENDS"] == "PyTorch" and said["DESCRIPTION"].count(".") <= 2
    for url in (said["ICONURL"], said["SCREENSHOTURLS"]):
        assert (REPOSITORY / url.split("/main/", 1)[1]).is_file()
    assert (REPOSITORY / "LICENSE").is_file()


# The entry in Slicer's ExtensionsIndex

ENTRY = REPOSITORY / "scripts" / "release" / "RPRLoc.json"
_KINDS: dict[str, type] = {
    "$schema": str,
    "category": str,
    "scm_url": str,
    "scm_revision": str,
    "scm_type": str,
    "build_dependencies": list,
    "dicom_support_rule": str,
    "build_subdirectory": str,
    "enabled": bool,
    "tier": int,
}
"""The keys of version 1.0.2 of the index's schema."""


def faults_of_entry(name: str, text: str) -> list[str]:
    """What the index's own checks would refuse of an entry: its schema, and rules on names and addresses."""
    entry = json.loads(text)
    faults = [f"{key} is missing" for key in ("$schema", "category", "scm_url") if key not in entry]
    faults += [f"{key} is not known" for key in entry if key not in _KINDS]
    faults += [f"{key} is of another type" for key, value in entry.items() if type(value) is not _KINDS.get(key)]
    if not all(isinstance(one, str) for one in entry.get("build_dependencies", [])):
        faults.append("build_dependencies are names")
    if entry.get("scm_type", "git") not in ("git", "local"):
        faults.append("scm_type is git or local")
    if entry.get("tier", 1) not in range(1, 6):
        faults.append("tier is 1 to 5")
    if not re.fullmatch(r"https://raw\.githubusercontent\.com/.*-v1\.0\.\d\.json#?", entry.get("$schema", "")):
        faults.append("$schema is the address of a version")
    if "\r" in text:
        faults.append("lines end in LF")
    url = urlparse(entry.get("scm_url", ""))
    if url.scheme not in ("https", "git"):
        faults.append("scm_url begins with https:// or git://")
    if not Path(url.path.rstrip("/")).stem.startswith("Slicer"):
        faults.append("the repository's name begins with Slicer")
    if name.lower().startswith("slicer"):
        faults.append("the extension's name does not begin with Slicer")
    return faults


def test_the_entry_for_the_index_will_be_taken_once_there_is_an_address() -> None:
    text = ENTRY.read_text(encoding="utf-8")
    entry, said = json.loads(text), said_in_cmake()
    published = not urlparse(entry["scm_url"]).netloc.startswith("example.")
    assert faults_of_entry(ENTRY.stem, text) == ([] if published else ["the repository's name begins with Slicer"])
    # One address everywhere, so that one change of it mends all.
    assert entry["scm_url"] == said["HOMEPAGE"]
    assert f'_HOMEPAGE = "{said["HOMEPAGE"]}"' in (MODULE / "SlicerRPRLoc.py").read_text(encoding="utf-8")
    assert all(said[name].startswith(said["HOMEPAGE"] + "/main/") for name in ("ICONURL", "SCREENSHOTURLS"))
    assert entry["build_dependencies"] == said["DEPENDS"].split()
    assert f"project({ENTRY.stem})" in (REPOSITORY / "CMakeLists.txt").read_text(encoding="utf-8")
    assert f'"{entry["category"]}")' in (MODULE / "SlicerRPRLoc.py").read_text(encoding="utf-8")


@pytest.mark.parametrize(
    ("change", "fault"),
    [
        ({"category": None}, "category is missing"),
        ({"colour": "red"}, "colour is not known"),
        ({"tier": 7}, "tier is 1 to 5"),
        ({"tier": "1"}, "tier is of another type"),
        ({"scm_type": "svn"}, "scm_type is git or local"),
        ({"build_dependencies": [1]}, "build_dependencies are names"),
        ({"$schema": "v1"}, "$schema is the address of a version"),
        ({"scm_url": "ssh://host/SlicerRPRLoc.git"}, "scm_url begins with"),
    ],
)
def test_an_entry_that_the_index_would_refuse_is_noticed(change: dict[str, Any], fault: str) -> None:
    good = {**json.loads(ENTRY.read_text(encoding="utf-8")), "scm_url": "https://github.com/someone/SlicerRPRLoc.git"}
    assert faults_of_entry("RPRLoc", json.dumps(good)) == []
    bad = {key: value for key, value in {**good, **change}.items() if value is not None}
    assert any(found.startswith(fault) for found in faults_of_entry("RPRLoc", json.dumps(bad)))


# The packages


class Packages:
    """``slicer.packaging`` on a list of what is installed; ``brings``: what an installation adds."""

    def __init__(self, installed: dict[str, str], brings: dict[str, str] | Exception) -> None:
        self.installed, self.brings = dict(installed), brings
        self.constraints: list[str] = []

    def version_of(self, name: str) -> str | None:
        return self.installed.get(name)

    def load_requirements(self, path: Path) -> list[Requirement]:
        lines = [line.split("#")[0].strip() for line in path.read_text(encoding="utf-8").splitlines()]
        return [Requirement(line) for line in lines if line]

    def pip_check(self, requirements: list[Requirement | str]) -> bool:
        wanted = [Requirement(str(one)) for one in requirements]
        return all(one.name in self.installed and self.installed[one.name] in one.specifier for one in wanted)

    def pip_ensure(
        self, requirements: list[Requirement], *, constraints: Path, prompt_install: bool, requester: str
    ) -> None:
        assert not prompt_install and requester == "RPR-Loc"
        self.constraints = constraints.read_text(encoding="utf-8").split()
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
    """The PyTorch extension; ``ends``: what becomes of the installation, True if all goes well."""

    def __init__(self, packages: Packages, ends: bool | Exception = True) -> None:
        self.packages, self.ends, self.asked = packages, ends, []

    def installTorch(self, *, askConfirmation: bool, torchVersionRequirement: str) -> object | None:
        assert not askConfirmation
        self.asked.append(torchVersionRequirement)
        if isinstance(self.ends, Exception):
            raise self.ends
        if self.ends:
            self.packages.installed["torch"] = "2.12.1+cu130"
        return self if self.ends else None


LINUX, WINDOWS, INTEL_MAC = ("linux", "x86_64"), ("win32", "AMD64"), ("darwin", "x86_64")


def make_installer(
    packages: Packages, torch: Torch | None, agrees: bool = True, computer: tuple[str, str] = LINUX
) -> tuple[Installer, list[str]]:
    """An installer, and the questions that it will ask."""
    questions: list[str] = []

    def confirm(question: str) -> bool:
        questions.append(question)
        return agrees

    return Installer(packages, lambda: torch, confirm, packages.version_of, computer), questions


def test_nothing_is_asked_where_all_is_installed() -> None:
    installer, questions = make_installer(Packages({**ALL, "torch": "2.9.0+cpu"}, {}), None)
    assert installer.missing() == []
    installer.ensure()
    assert questions == []


def test_what_is_missing_or_too_old_is_installed_after_one_question() -> None:
    packages = Packages({**ALL, "psutil": "5.0"}, ALL)
    torch = Torch(packages)
    installer, questions = make_installer(packages, torch)
    assert installer.missing() == ["torch>=2.9", "psutil>=5.9"]
    installer.ensure()
    assert installer.missing() == [] and torch.asked == [">=2.9"]
    (question,) = questions
    assert "torch>=2.9, psutil>=5.9" in question and "several GB" in question and "some minutes" in question


def test_what_slicer_brings_is_not_replaced() -> None:
    brought = {name: f"{n}.0" for n, name in enumerate(BROUGHT) if name != "requests"}
    packages = Packages({**brought, "torch": "2.9"}, ALL)
    make_installer(packages, None)[0].ensure()
    assert packages.constraints == [f"{name}=={version}" for name, version in brought.items()]
    assert {"numpy", "scipy", "SimpleITK", "pydicom", "packaging", "setuptools"} <= set(BROUGHT)


def test_what_dicom_objects_need_is_asked_for_by_itself_and_without_torch() -> None:
    packages = Packages({"numpy": "2.4.6"}, {"highdicom": "0.28.2"})
    questions: list[str] = []

    def confirm(question: str) -> bool:
        questions.append(question)
        return True

    installer = Installer(
        packages, lambda: None, confirm, packages.version_of, LINUX, requirements=DICOM_REQUIREMENTS, with_torch=False
    )
    assert installer.missing() == ["highdicom>=0.27"]
    installer.ensure()
    assert packages.constraints == ["numpy==2.4.6"] and installer.missing() == []
    (question,) = questions
    assert "highdicom" in question and "torch" not in question.lower()


def test_on_windows_the_torch_that_lands_damaged_is_not_taken() -> None:
    packages = Packages(ALL, ALL)
    torch = Torch(packages)
    make_installer(packages, torch, computer=WINDOWS)[0].ensure()
    assert torch.asked == [">=2.9,<2.13"]
    works = Packages({**ALL, "torch": "2.13.0"}, ALL)  # mended, or mended by hand
    make_installer(works, None, computer=WINDOWS)[0].ensure()


@pytest.mark.parametrize("there", [{}, {"torch": "2.2.0"}])
def test_a_build_of_slicer_without_such_a_torch_is_told_before_anything_is_tried(there: dict[str, str]) -> None:
    packages = Packages({**ALL, **there}, ALL)
    torch = Torch(packages)
    installer, questions = make_installer(packages, torch, computer=INTEL_MAC)
    with pytest.raises(InputError, match=r"does not exist for this build of Slicer .*arm64"):
        installer.ensure()
    assert torch.asked == questions == []


def test_an_old_torch_of_another_extension_is_not_replaced_without_a_word() -> None:
    packages = Packages({**ALL, "torch": "2.1.2+cu118"}, ALL)
    torch = Torch(packages)
    installer, _ = make_installer(packages, torch)
    assert installer.missing() == ["torch>=2.9"]
    with pytest.raises(InputError, match=r"2\.1\.2\+cu118 is installed and too old .*Uninstall PyTorch"):
        installer.ensure()
    assert torch.asked == []


@pytest.mark.parametrize("error", [ModuleNotFoundError("No module named 'torch._C'"), AttributeError("no attribute")])
def test_a_torch_that_lands_damaged_is_told_with_the_way_out(error: Exception) -> None:
    packages = Packages(ALL, ALL)
    installer, _ = make_installer(packages, Torch(packages, error))
    with pytest.raises(InputError, match=r"damaged \(.*\)\. In Slicer: press Uninstall PyTorch in the module"):
        installer.ensure()


@pytest.mark.parametrize(
    ("brings", "ends", "agrees", "sentence"),
    [
        (ALL, True, False, "psutil>=5.9.*declined"),
        (subprocess.CalledProcessError(1, "pip"), True, True, "psutil>=5.9.*network"),
        ({}, True, True, "did not bring"),
        (ALL, False, True, "PyTorch was not installed"),
        (ALL, RuntimeError("no space left"), True, "no space left"),
    ],
)
def test_an_installation_that_fails_ends_with_a_sentence(
    brings: Any, ends: bool | Exception, agrees: bool, sentence: str
) -> None:
    packages = Packages({name: ALL[name] for name in ALL if name != "psutil"}, brings)
    installer, _ = make_installer(packages, Torch(packages, ends), agrees)
    with pytest.raises(InputError, match=sentence):
        installer.ensure()


def test_a_missing_torch_extension_is_told() -> None:
    installer, questions = make_installer(Packages(ALL, ALL), None)
    with pytest.raises(InputError, match="Extensions Manager"):
        installer.ensure()
    assert questions == []


# Where the library lies


@pytest.mark.parametrize("place", ["extension", "project"])
def test_the_folder_of_the_module_is_the_whole_installation(tmp_path: Path, place: str) -> None:
    """In a folder with spaces, and with an older library that pip has once installed."""
    root = tmp_path / "Program Files (x86)" / "RPR-Loc"
    module = root / "SlicerRPRLoc"
    library = (module if place == "extension" else root / "bundle") / "rprloc"
    old = tmp_path / "site-packages" / "rprloc"
    for folder, text in ((library, "ours"), (old, "old")):
        folder.mkdir(parents=True)
        (folder / "__init__.py").write_text(f"text = {text!r}", encoding="utf-8")
    module.mkdir(exist_ok=True)
    shutil.copytree(MODULE / "SlicerRPRLocLib", module / "SlicerRPRLocLib", dirs_exist_ok=True)
    code = (
        "import sys; from pathlib import Path\n"
        f"sys.path[:0] = [{str(old.parent)!r}]; sys.path.append({str(module)!r})\n"
        "from SlicerRPRLocLib.library import put_library_first\n"
        f"put_library_first(Path({str(module)!r})); put_library_first(Path({str(module)!r}))\n"
        "import rprloc; print(rprloc.text, sys.path.count(str(Path(rprloc.__file__).parents[1])))\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert done.stdout.split() == ["ours", "1"], done.stderr


@pytest.mark.parametrize(
    ("missing", "sentence"),
    [
        ("rprloc.geometry", "library is missing. It belongs beside the module"),
        ("slicer.packaging", "5.12 or newer; this one has no slicer.packaging"),
        ("scipy", "cannot be loaded"),
    ],
)
def test_a_module_that_cannot_be_loaded_says_why(missing: str, sentence: str) -> None:
    from SlicerRPRLocLib.library import why_not_loaded

    assert sentence in why_not_loaded(ModuleNotFoundError(f"No module named {missing!r}", name=missing))


def test_the_pages_name_every_package_and_no_string_is_split_at_backslashes() -> None:
    pages = [path.read_text(encoding="utf-8") for path in sorted((REPOSITORY / "docs" / "slicer").glob("*.md"))]
    offline = re.search(r"pip_install\(\[(.*?)\]\)", "".join(pages))
    assert offline is not None
    named = set(re.findall(r'"([a-z]+)"', offline.group(1)))
    assert named == {one.name for one in Packages({}, {}).load_requirements(REQUIREMENTS)}
    assert not re.search(r'pip_install\("', "".join(pages))


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
        "print(len(made.results.rois()), made.targets())\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
    assert done.stdout.strip() == "1 {'heart': 2}", done.stderr


def test_the_panel_and_the_self_test_need_nothing_that_is_not_there_yet() -> None:
    """As on a new Slicer: what installs the packages is a button of the panel, which must open without them."""
    pytest.importorskip("slicer", reason=NO_SLICER)
    pytest.importorskip("PySide6.QtWidgets", reason="Qt cannot be loaded here", exc_type=ImportError)
    code = (
        "import sys, types\n"
        f"for name in {[*ALL, 'torch', 'highdicom']!r}: sys.modules[name] = None\n"
        f"sys.path.insert(0, {str(MODULE)!r})\n"
        "import slicer, slicer.util\n"
        "from tests.slicer_module.desktop import Desktop\n"
        "from tests.slicer_module.scenes import new_scene\n"
        "scene = new_scene()\n"
        "desktop = Desktop(scene, None)\n"
        "sys.modules.update(desktop.modules())\n"
        "slicer.packaging = sys.modules['slicer.packaging']\n"
        "desktop.missing = ['torch', 'isal']\n"
        "import SlicerRPRLoc\n"
        "print(SlicerRPRLoc.SlicerRPRLocWidget.__module__)\n"
        "test = SlicerRPRLoc.SlicerRPRLocTest()\n"
        "test.delayDisplay = print\n"
        "test.runTest()\n"
    )
    environment = {**os.environ, "QT_QPA_PLATFORM": "offscreen"}
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=120, env=environment, cwd=REPOSITORY
    )
    said = ["SlicerRPRLocLib.widget", "Skipped: torch>=2.9, isal>=1.6 are not installed", "Test passed"]
    assert done.stdout.splitlines() == said, done.stderr


def test_the_requirements_are_those_of_the_library_without_what_slicer_brings() -> None:
    """Slicer's own NumPy, SciPy, SimpleITK and pydicom are never replaced; psutil is for the module alone."""
    text = (REPOSITORY / "pyproject.toml").read_text(encoding="utf-8")
    dicom = re.search(r"^dicom = \[(.*)\]", text, re.M)
    assert dicom is not None
    assert [str(one) for one in Packages({}, {}).load_requirements(DICOM_REQUIREMENTS)] == [dicom.group(1).strip('"')]
    block = re.search(r"^dependencies = \[(.*?)^\]", text, re.S | re.M)
    assert block is not None
    library = {Requirement(one) for one in re.findall(r'"([^"]+)"', block.group(1))}
    module = {Requirement(str(one)) for one in Packages({}, {}).load_requirements(REQUIREMENTS)}
    brought = {"numpy", "scipy", "SimpleITK", "pydicom", "torch"}
    assert {str(one) for one in library if one.name not in brought} | {"psutil>=5.9"} == {str(one) for one in module}
    assert installed_version("torch") and installed_version("no-such-package") is None and torch_extension() is None
