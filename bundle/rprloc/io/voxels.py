"""The voxels of an image file as its header describes them: raw or compressed, taken by numpy alone.

No second reader looks at the header: where the voxels begin, their type, order and number come from one place.
"""

from __future__ import annotations

import bz2
import math
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO, cast

import numpy as np
from isal import igzip, isal_zlib
from numpy.typing import NDArray

from rprloc.errors import InputError
from rprloc.geometry import Grid
from rprloc.io.archive import describe_bomb

_MAX_PADDING = 1 << 24  # bytes of zeros behind the voxels
_LONGEST_WORD = 1000  # letters; no number is longer
_BLOCK = 1 << 18  # bytes, so that a block stays in the processor's cache on its way
# How many bytes one compressed byte can stand for: deflate cannot do better, and no text needs less than a letter.
_EXPANSION = {"raw": 1, "text": 8, "gzip": 1040, "zlib": 1040, "bzip2": 2_000_000}


@dataclass(frozen=True, eq=False)
class StoredImage:
    """What the header of an image file says.

    Parameters
    ----------
    path : Path
        The file that was given.
    grid : Grid
        Where its voxels lie.
    kind : dtype
        The type of its voxels, with their byte order.
    data : Path
        The file that holds the voxels; ``path`` itself, or one beside it.
    start : int
        The byte at which they begin.
    encoding : str
        "raw", "text", "gzip", "zlib" or "bzip2".
    unpacked_start : int
        How many bytes of the unpacked stream come before the voxels.
    compressed_bytes : int, optional
        How many bytes the compressed voxels take, if the header says so.
    scaling : (float, float), optional
        Slope and intercept.
    """

    path: Path
    grid: Grid
    kind: np.dtype[np.generic]
    data: Path
    start: int = 0
    encoding: str = "raw"
    unpacked_start: int = 0
    compressed_bytes: int | None = None
    scaling: tuple[float, float] | None = None


def is_zipped(path: Path) -> bool:
    with path.open("rb") as file:
        return file.read(2) == b"\x1f\x8b"


def require_possible(image: StoredImage) -> None:
    """Before memory is asked for: whether the file can hold as many voxels as its header promises."""
    expected = math.prod(image.grid.shape) * image.kind.itemsize
    size = image.data.stat().st_size - image.start
    if max(size, 0) * _EXPANSION[image.encoding] < expected:
        _require_bytes(image.path, size, expected)


def refuse_bomb(image: StoredImage) -> None:
    """Before memory is asked for: whether a scan can be compressed as well as this file is. Label maps can."""
    if bomb := describe_bomb(math.prod(image.grid.shape) * image.kind.itemsize, image.data.stat().st_size):
        raise InputError(f"{image.path} {bomb}. Check how it was exported.")


def read_voxels(image: StoredImage) -> NDArray[np.generic]:
    """The scaled voxels (I, J, K) of an image. Raises InputError if there are less or other bytes than promised."""
    if image.encoding == "text":
        array = _voxels_of_text(image)
    else:
        expected = math.prod(image.grid.shape) * image.kind.itemsize
        array = _bytes_of(image, expected).view(image.kind)
    if not array.dtype.isnative:
        array = array.byteswap(inplace=True).view(array.dtype.newbyteorder("="))
    return _scaled(array, image.scaling).reshape(image.grid.shape, order="F")


def _bytes_of(image: StoredImage, expected: int) -> NDArray[np.uint8]:
    """The bytes of the voxels. The stream is read to its end, as that checks the length and CRC of a compressed one."""
    buffer, filled = np.empty(expected, np.uint8), 0
    surplus, is_padding, ahead = 0, True, image.unpacked_start
    with image.data.open("rb") as file:
        file.seek(image.start)
        for chunk in _chunks(file, image):
            if ahead:
                chunk, ahead = chunk[ahead:], max(ahead - len(chunk), 0)
            taken = min(len(chunk), expected - filled)
            buffer[filled : filled + taken] = np.frombuffer(chunk, np.uint8, taken)
            filled += taken
            if taken < len(chunk):
                surplus += len(chunk) - taken
                is_padding = is_padding and surplus <= _MAX_PADDING and not chunk[taken:].strip(b"\0\r\n")
                if not is_padding:
                    break
    _require_bytes(image.path, filled, expected)
    if not is_padding:  # the header leaves out a part of the scan, or says a wrong place for its beginning
        raise InputError(
            f"{image.path} holds more bytes of voxels than the {expected} that its header promises. Which of them are "
            "the scan would be a guess. Export it again."
        )
    return buffer


def _chunks(file: IO[bytes], image: StoredImage) -> Iterator[bytes]:
    if image.encoding == "raw":
        while chunk := file.read(_BLOCK):
            yield chunk
    elif image.encoding == "gzip":
        with cast(IO[bytes], igzip.open(file)) as stream:
            while chunk := stream.read(_BLOCK):
                yield chunk
    elif image.encoding == "bzip2":
        try:
            with bz2.open(file) as stream:
                while chunk := stream.read(_BLOCK):
                    yield chunk
        except OSError as error:  # so bz2 calls damage, too
            raise InputError(f"{image.path} is damaged or cut off ({error}). Copy or export it again.") from error
    else:
        yield from _inflated(file, image)


def _inflated(file: IO[bytes], image: StoredImage) -> Iterator[bytes]:
    """What a zlib stream holds; its own checksum tells damage."""
    stream, read = isal_zlib.decompressobj(), 0
    while not stream.eof and (packed := file.read(_BLOCK)):
        read += len(packed)
        chunk = stream.decompress(packed, _BLOCK)
        while chunk:
            yield chunk
            chunk = b"" if stream.eof else stream.decompress(stream.unconsumed_tail, _BLOCK)
    if not stream.eof:
        raise zlib.error("the compressed stream ends too early")
    taken = read - len(stream.unused_data)
    if image.compressed_bytes not in (None, taken):
        raise InputError(
            f"{image.path} holds {taken} bytes of compressed voxels, but its header says {image.compressed_bytes}. "
            "Copy or export it again."
        )


def _voxels_of_text(image: StoredImage) -> NDArray[np.generic]:
    """Voxels that are written as decimal numbers."""
    values, count = np.empty(math.prod(image.grid.shape), image.kind), 0
    with image.data.open("rb") as file:
        file.seek(image.start)
        for words in _words(file):
            try:
                numbers = _numbers(words[: max(len(values) - count, 0)], image.kind)
            except ValueError as error:
                raise InputError(
                    f"{image.path} holds voxels that are no numbers of its type ({str(error)[:80]}). Export it again."
                ) from error
            values[count : count + len(numbers)] = numbers
            count += len(words)
    if count != len(values):
        raise InputError(
            f"{image.path} holds {count} numbers, but its header promises {len(values)}. Copy or export it again."
        )
    return values


def _words(file: IO[bytes]) -> Iterator[list[bytes]]:
    """The words of a text, block by block."""
    rest = b""
    while block := file.read(_BLOCK):
        block = rest + block
        end = 1 + max(block.rfind(space) for space in (b" ", b"\n", b"\r", b"\t", b"\f", b"\v"))
        yield block[:end].split()
        rest = block[end:]  # may go on in the next block
        if len(rest) > _LONGEST_WORD:
            yield [rest]  # which is no number, and is refused as such
    yield rest.split()


def _numbers(words: list[bytes], kind: np.dtype[np.generic]) -> NDArray[np.generic]:
    """Raises ValueError for a word that is no number of this type."""
    if any(len(word) > _LONGEST_WORD for word in words):
        raise ValueError(f"one of more than {_LONGEST_WORD} letters")
    if np.issubdtype(kind, np.floating):
        with np.errstate(over="ignore"):  # what is not finite is refused with every other such voxel
            return np.array([float(word) for word in words]).astype(kind)
    values, limits = [int(word) for word in words], np.iinfo(cast(np.dtype[np.integer], kind))
    if values and (min(values) < limits.min or max(values) > limits.max):
        raise ValueError(f"from {min(values)} to {max(values)}")
    return np.array(values, kind)


def _scaled(array: NDArray[np.generic], scaling: tuple[float, float] | None) -> NDArray[np.generic]:
    """Slope and intercept applied: 32-bit fractions hold every value of 16 bits, larger types get 64."""
    if scaling in (None, (1.0, 0.0)):
        return array
    slope, intercept = cast(tuple[float, float], scaling)
    exact = array.dtype.itemsize <= 2 or array.dtype == np.float32
    scaled = np.empty(array.shape, np.float32 if exact else np.float64)
    with np.errstate(all="ignore"):  # what is not finite is refused with every other such voxel
        for start in range(0, len(array), _BLOCK):  # block by block, to spare memory
            part = slice(start, start + _BLOCK)
            scaled[part] = array[part].astype(np.float64) * slope + intercept
    return scaled


def _require_bytes(path: Path, size: int, expected: int) -> None:
    if size < expected:
        raise InputError(
            f"{path} is cut off: it holds {max(size, 0)} bytes of voxels, but its header promises {expected}. "
            "Copy or export it again."
        )
