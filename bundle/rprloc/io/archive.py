"""Unpacking zip files that somebody sent: no path in them is followed, and none can fill the disk."""

from __future__ import annotations

import lzma
import shutil
import tempfile
import weakref
import zipfile
import zlib
from pathlib import Path

from rprloc.errors import InputError

MAX_FILES, MAX_BYTES = 50_000, 32 << 30
# CT packs to about a third; only padding packs better than 200 to 1. Small files harm nobody, however well they pack.
MAX_PACKING, HARMLESS_BYTES = 200, 1 << 30
_CHUNK = 1 << 20
_DAMAGE = (
    zipfile.BadZipFile,
    zlib.error,
    lzma.LZMAError,
    EOFError,
    ValueError,
    NotImplementedError,
    RuntimeError,
    OSError,
)


def describe_bomb(unpacked: int, packed: int) -> str:
    """What is wrong with so few bytes out of which so many come that they cannot be CT; an empty text if they can."""
    if unpacked <= max(HARMLESS_BYTES, MAX_PACKING * packed):
        return ""
    size = f"would unpack to {unpacked / 1e9:.1f} GB, {unpacked / max(packed, 1):.0f} times its size"
    return f"{size}, and no CT can be compressed so well"


class Unpacked:
    """The files of an archive in a folder of their own, which goes when this object does."""

    def __init__(self) -> None:
        self.folder = Path(tempfile.mkdtemp(prefix="rprloc-"))
        self.files: list[Path] = []
        self.names: dict[Path, Path] = {}
        """What each file is called in the archive; nothing is opened by these names."""
        self.remove = weakref.finalize(self, shutil.rmtree, self.folder, ignore_errors=True)


def unpack(path: Path) -> Unpacked:
    """The files of a zip archive, under numbered names of our own, so that no path in the archive matters.

    Raises InputError for what is no zip file, is damaged or encrypted, or would unpack to an unreasonable size (more
    than MAX_FILES files, MAX_BYTES bytes, or 200 times its own size).
    """
    result = Unpacked()
    try:
        with zipfile.ZipFile(path) as archive:
            members = [member for member in archive.infolist() if not member.is_dir()]
            _require_reasonable(path, members)
            for number, member in enumerate(members):
                file = _unpack(archive, member, result.folder / f"{number:05d}_{_safe(member.filename)}")
                result.files.append(file)
                result.names[file] = Path(member.filename.replace("\\", "/"))
            return result
    except InputError:
        result.remove()
        raise
    except _DAMAGE as error:
        result.remove()
        raise InputError(
            f"{path} cannot be unpacked ({error}). Copy it again, or pack it again without a password."
        ) from error


def _require_reasonable(path: Path, members: list[zipfile.ZipInfo]) -> None:
    size = sum(member.file_size for member in members)  # reading a member never gives more than this
    free = shutil.disk_usage(tempfile.gettempdir()).free
    ratio = size / max(path.stat().st_size, 1)
    if len(members) > MAX_FILES or size > MAX_BYTES or describe_bomb(size, path.stat().st_size) or size > free:
        raise InputError(
            f"{path} would unpack to {len(members)} files and {size / 1e9:.1f} GB, {ratio:.0f} times its size. "
            f"RPR-Loc unpacks at most {MAX_FILES} files and {MAX_BYTES / 1e9:.0f} GB, and as much as "
            f"{tempfile.gettempdir()} has room for. Unpack it by hand and give the folder."
        )
    if any(member.flag_bits & 1 for member in members):
        raise InputError(f"{path} is encrypted. Unpack it with its password and give the folder.")


def _safe(name: str) -> str:
    """The last part of a name in an archive, without anything that a file system or a terminal could stumble over."""
    last = name.replace("\\", "/").rsplit("/", 1)[-1]
    return "".join(letter if letter.isalnum() or letter in "._-" else "_" for letter in last)[-40:]


def _unpack(archive: zipfile.ZipFile, member: zipfile.ZipInfo, target: Path) -> Path:
    with archive.open(member) as source, target.open("wb") as file:
        shutil.copyfileobj(source, file, _CHUNK)
    return target
