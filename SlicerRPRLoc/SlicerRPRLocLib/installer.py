"""The Python packages that RPR-Loc needs beside Slicer's own: found out without importing them, installed on request.

PyTorch comes through Slicer's PyTorch extension, which chooses the build that suits the computer; all others through
``slicer.packaging``, which asks the user first. Nothing that Slicer brings along is replaced.
"""

from __future__ import annotations

import importlib.util
import subprocess
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Protocol

from rprloc import InputError

REQUIREMENTS = Path(__file__).resolve().parents[1] / "Resources" / "requirements.txt"
_TORCH_MINIMUM = ">=2.9"
_NAME = "RPR-Loc"


class Packaging(Protocol):
    """What is used of ``slicer.packaging``."""

    def load_requirements(self, path: Path) -> list[object]: ...
    def pip_check(self, requirements: list[object]) -> bool: ...
    def pip_ensure(self, requirements: list[object], *, requester: str) -> object: ...


class TorchInstaller(Protocol):
    """What is used of the PyTorch extension's ``PyTorchUtilsLogic``."""

    def installTorch(self, *, askConfirmation: bool, torchVersionRequirement: str) -> object | None: ...


def torch_is_there() -> bool:
    """Whether PyTorch is installed; it is not imported, because in Slicer's process that is not needed."""
    return importlib.util.find_spec("torch") is not None


def torch_extension() -> TorchInstaller | None:
    """The logic of Slicer's PyTorch extension, None where it is not installed."""
    try:
        import PyTorchUtils
    except ModuleNotFoundError:
        return None
    logic: TorchInstaller = PyTorchUtils.PyTorchUtilsLogic()
    return logic


class Installer:
    """Makes sure that everything is installed. ``torch_installer`` gives None where the extension is missing."""

    def __init__(
        self,
        packaging: Packaging,
        torch_installer: Callable[[], TorchInstaller | None],
        torch_there: Callable[[], bool] = torch_is_there,
    ) -> None:
        self._packaging = packaging
        self._torch_installer = torch_installer
        self._torch_there = torch_there

    def missing(self) -> list[str]:
        """The requirements that are not met, [] if all are."""
        wanted = self._packaging.load_requirements(REQUIREMENTS)
        packages = [str(package) for package in wanted if not self._packaging.pip_check([package])]
        return packages if self._torch_there() else ["torch" + _TORCH_MINIMUM, *packages]

    def ensure(self) -> None:
        """Install what is missing; the user is asked first. Raises InputError if something stays missing."""
        missing = self.missing()
        if not missing:
            return
        try:
            if not self._torch_there():
                self._install_torch()
            self._packaging.pip_ensure(self._packaging.load_requirements(REQUIREMENTS), requester=_NAME)
        except (RuntimeError, OSError, ValueError, subprocess.SubprocessError) as error:  # declined, or pip failed
            raise _not_installed(missing, str(error)) from error
        importlib.invalidate_caches()
        left = self.missing()
        if left:
            raise _not_installed(left, "the installation did not bring them")

    def _install_torch(self) -> None:
        extension = self._torch_installer()
        if extension is None:
            raise InputError(
                "PyTorch is missing and the extension that installs it, too. Open the Extensions Manager, install "
                "the extension PyTorch, restart Slicer and try again."
            )
        if extension.installTorch(askConfirmation=True, torchVersionRequirement=_TORCH_MINIMUM) is None:
            raise InputError(
                "PyTorch was not installed, and RPR-Loc cannot work without it. Try again, or install it in the module "
                "PyTorch Utils, where you can choose a build for the CPU."
            )


def _not_installed(missing: Iterable[str], reason: str) -> InputError:
    return InputError(
        f"These Python packages are missing: {', '.join(missing)} ({reason}). RPR-Loc needs them. Try again with a "
        "network connection, or see the troubleshooting page."
    )
