"""What a file of annotations marks, whatever its form: structures, each read only if it is wanted."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from rprloc.annotation import Mask
from rprloc.errors import InputError
from rprloc.files import readable
from rprloc.geometry import Points

_MOST_LETTERS = 400  # of the names in a message


@dataclass(frozen=True, eq=False)
class Structure:
    """Something that is marked.

    Parameters
    ----------
    name : str
        What the file calls it; in a label map without names, the number of its label.
    read : function
        Gives its mask or its six extreme points (6, 3), RAS mm, or None if it is empty.
    no_organ : str
        Why it is no organ, in a few words; it is then taken only if somebody asks for it by its name.
    left_out : str
        What does not count as a part of it, in a few words.
    """

    name: str
    read: Callable[[], Mask | Points | None]
    no_organ: str = ""
    left_out: str = ""


@dataclass(frozen=True, eq=False)
class Marked:
    """What one file, or one folder, marks.

    Parameters
    ----------
    path : Path
        The file or folder.
    form : str
        What it is, as words that follow "is".
    structures : sequence of Structure
        In the order of the file. Names may be there twice.
    left_out : sequence of (str, str)
        What cannot be an organ's mask or points: its name and why, in a few words.
    remarks : sequence of str
        What else a person should know, each a sentence.
    are_numbers : bool
        Whether names are mere numbers of labels, so that only those count that somebody names.
    """

    path: Path
    form: str
    structures: Sequence[Structure]
    left_out: Sequence[tuple[str, str]] = ()
    remarks: Sequence[str] = ()
    are_numbers: bool = False

    def fault(self, what: str) -> InputError:
        """The error for what is wrong with it: ``what`` is one or several sentences."""
        return InputError(readable(f"{self.path}: {what}"))


def listed(names: Sequence[str]) -> str:
    """Names in a line; the first of them, if there are very many."""
    text = ", ".join(names)
    if len(text) <= _MOST_LETTERS:
        return readable(text)
    short = text[:_MOST_LETTERS].rsplit(", ", 1)[0]
    return readable(f"{short} and {len(names) - short.count(', ') - 1} more")
