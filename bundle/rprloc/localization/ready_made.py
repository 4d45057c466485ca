"""Support sets that come with the program: no marking is needed for their organs."""

from __future__ import annotations

from pathlib import Path

from rprloc.errors import InputError
from rprloc.files import shipped_folder

SIGN = "@"
"""Before the name of a ready-made set, wherever a support set is asked for."""

_ENDING = ".support.json.gz"


def ready_made_sets() -> dict[str, Path]:
    """The files of the ready-made sets by name, sorted."""
    return {path.name.removesuffix(_ENDING): path for path in sorted(shipped_folder("sets").glob(f"*{_ENDING}"))}


def find_set(path: str | Path) -> Path:
    """The file of a support set: a path, or the name of a ready-made set behind SIGN.

    A file whose name begins with SIGN needs its folder before it. ``Path`` leaves out ``./``, so it is a text.

    Raises InputError if there is no ready-made set of this name.
    """
    name = str(path)
    if not name.startswith(SIGN):
        return Path(path)
    known = ready_made_sets()
    found = known.get(name.removeprefix(SIGN))
    if found is None:
        raise InputError(
            f"There is no ready-made set {name}. There are {', '.join(SIGN + one for one in known) or 'none'}: name "
            f"one of these, or give the path of a set of your own; for a file of that name, ./{name}."
        )
    return found
