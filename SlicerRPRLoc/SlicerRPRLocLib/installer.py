"""The Python packages that RPR-Loc needs beside Slicer's own: found out without importing them, installed on request.

PyTorch comes through Slicer's PyTorch extension, which chooses the build that suits the computer; all others through
``slicer.packaging``, bound to the versions of the packages that Slicer brings along, so that none of these is replaced.
"""

from __future__ import annotations

import importlib
import importlib.metadata
import platform
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Protocol

from rprloc import InputError
from SlicerRPRLocLib.runner import damaged_torch

_RESOURCES = Path(__file__).resolve().parents[1] / "Resources"
REQUIREMENTS = _RESOURCES / "requirements.txt"
DICOM_REQUIREMENTS = _RESOURCES / "requirements-dicom.txt"
"""What SR and SEG need besides; the others do without it."""

BROUGHT = ("numpy", "scipy", "SimpleITK", "pydicom", "packaging", "pillow", "requests", "setuptools")
"""Packages of Slicer's own that something which is installed may also want."""

_TORCH_MINIMUM = ">=2.9"
_TORCH_ON_WINDOWS = "<2.13"  # light-the-torch's issue 176: there 2.13 lands damaged; take this out when it is closed
_NAME = "RPR-Loc"
_UNINSTALL = (
    "Press Uninstall PyTorch in the module PyTorch Utils, restart Slicer and press Locate, which installs a newer one."
)


class Packaging(Protocol):
    """What is used of ``slicer.packaging``."""

    def load_requirements(self, path: Path) -> list[object]: ...
    def pip_check(self, requirements: list[object]) -> bool: ...
    def pip_ensure(
        self, requirements: list[object], *, constraints: Path, prompt_install: bool, requester: str
    ) -> object: ...


class TorchInstaller(Protocol):
    """What is used of the PyTorch extension's ``PyTorchUtilsLogic``."""

    def installTorch(self, *, askConfirmation: bool, torchVersionRequirement: str) -> object | None: ...


def installed_version(package: str) -> str | None:
    """The version of a package that is installed, None if it is not; it is not imported."""
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def torch_extension() -> TorchInstaller | None:
    """The logic of Slicer's PyTorch extension, None where it is not installed."""
    try:
        import PyTorchUtils
    except ModuleNotFoundError:
        return None
    logic: TorchInstaller = PyTorchUtils.PyTorchUtilsLogic()
    return logic


class Installer:
    """Makes sure that everything is installed.

    ``torch_installer`` gives None where the extension is missing; ``confirm`` asks the user; ``computer`` is the
    system's name and its processor's, as Python says them. ``requirements`` lists the packages, PyTorch besides
    ``with_torch``.
    """

    def __init__(
        self,
        packaging: Packaging,
        torch_installer: Callable[[], TorchInstaller | None],
        confirm: Callable[[str], bool],
        version_of: Callable[[str], str | None] = installed_version,
        computer: tuple[str, str] = (sys.platform, platform.machine()),
        *,
        requirements: Path = REQUIREMENTS,
        with_torch: bool = True,
    ) -> None:
        self._packaging = packaging
        self._torch_installer = torch_installer
        self._confirm = confirm
        self._version_of = version_of
        self._computer = computer
        self._requirements, self._with_torch = requirements, with_torch
        self._complete = False

    def missing(self) -> list[str]:
        """The requirements that are not met, [] if all are."""
        if self._complete:
            return []
        torch: list[object] = [f"torch{_TORCH_MINIMUM}"] if self._with_torch else []
        wanted = [*torch, *self._packaging.load_requirements(self._requirements)]
        missing = [str(package) for package in wanted if not self._packaging.pip_check([package])]
        self._complete = not missing
        return missing

    def ensure(self) -> None:
        """Install what is missing; the user is asked once, first. Raises InputError if something stays missing."""
        missing = self.missing()
        if not missing:
            return
        needs_torch = missing[0].startswith("torch")
        torch_installer = self._torch_that_can_be_installed() if needs_torch else None
        if not self._confirm(_question(missing)):
            raise _not_installed(missing, "you declined")
        try:
            if torch_installer is not None:
                self._install_torch(torch_installer)
            with _versions_of_slicer(self._version_of) as constraints:
                self._packaging.pip_ensure(
                    self._packaging.load_requirements(self._requirements),
                    constraints=constraints,
                    prompt_install=False,
                    requester=_NAME,
                )
        except InputError:
            raise
        except (RuntimeError, OSError, ValueError, subprocess.SubprocessError) as error:  # pip failed
            raise _not_installed(missing, str(error)) from error
        importlib.invalidate_caches()
        left = self.missing()
        if left:
            raise _not_installed(left, "the installation did not bring them")

    def _torch_that_can_be_installed(self) -> TorchInstaller:
        """What installs PyTorch. Raises InputError where that cannot work, or would replace another's PyTorch."""
        if self._computer == ("darwin", "x86_64"):
            raise InputError(
                f"PyTorch {_TORCH_MINIMUM[2:]}, which RPR-Loc needs, does not exist for this build of Slicer (macOS on "
                "Intel, or by Rosetta on Apple silicon). On Apple silicon install Slicer's build for arm64; on an "
                "Intel Mac use another computer."
            )
        there = self._version_of("torch")
        if there is not None:
            raise InputError(
                f"PyTorch {there} is installed and too old for RPR-Loc, which needs {_TORCH_MINIMUM[2:]} or newer. "
                f"{_UNINSTALL} Other extensions will then use that one, too."
            )
        installer = self._torch_installer()
        if installer is None:
            raise InputError(
                "PyTorch is missing and the extension that installs it, too. Open the Extensions Manager, install "
                "the extension PyTorch, restart Slicer and try again."
            )
        return installer

    def _install_torch(self, installer: TorchInstaller) -> None:
        wanted = _TORCH_MINIMUM + (f",{_TORCH_ON_WINDOWS}" if self._computer[0] == "win32" else "")
        try:
            installed = installer.installTorch(askConfirmation=False, torchVersionRequirement=wanted)
        except (ImportError, AttributeError) as error:  # it is imported at the end
            raise InputError(damaged_torch(f"PyTorch was installed but is damaged ({error}).")) from error
        if installed is None:
            raise InputError(
                "PyTorch was not installed, and RPR-Loc cannot work without it. Try again, or install it in the module "
                "PyTorch Utils, where you can choose a build for the CPU."
            )


@contextmanager
def _versions_of_slicer(version_of: Callable[[str], str | None]) -> Iterator[Path]:
    """A file that binds pip to the installed versions of the packages that Slicer brings along."""
    with tempfile.TemporaryDirectory(prefix="rprloc-") as folder:
        path = Path(folder) / "constraints.txt"
        bound = [f"{name}=={version}" for name in BROUGHT if (version := version_of(name))]
        path.write_text("\n".join(bound) + "\n", encoding="utf-8")
        yield path


def _question(missing: Iterable[str]) -> str:
    packages = list(missing)
    size = "up to 200 MB for the CPU, several GB for a GPU" if packages[0].startswith("torch") else "some MB"
    wait = " Slicer does not react for some minutes while PyTorch is installed." if packages[0][:5] == "torch" else ""
    return (
        f"RPR-Loc needs these Python packages, which are not installed: {', '.join(packages)} ({size}). May they be "
        f"downloaded and installed into Slicer?{wait}"
    )


def _not_installed(missing: Iterable[str], reason: str) -> InputError:
    return InputError(
        f"These Python packages are missing: {', '.join(missing)} ({reason}). RPR-Loc needs them. Try again with a "
        "network connection, or see the troubleshooting page."
    )
