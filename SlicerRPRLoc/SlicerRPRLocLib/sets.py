"""The support sets of a scene: those that were loaded, whose text the scene keeps, and ready-made ones by their names.

A ready-made set has megabytes and comes with the program, so the scene keeps its name and a fingerprint. Where another
version of the program opens the scene, the fingerprint tells whether it has the same set.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache
from pathlib import Path

from rprloc import InputError, SupportSet
from rprloc.files import status_of
from rprloc.localization.ready_made import SIGN, find_set, ready_made_sets
from rprloc.localization.support import Summary, summarize
from SlicerRPRLocLib import nodes
from SlicerRPRLocLib.nodes import Node, Scene
from SlicerRPRLocLib.wording import counted

_ORGANS, _LANDMARKS = "RPRLoc.Organs", "RPRLoc.Landmarks"
"""The attributes in which a loaded set's node keeps its organs and landmarks, and how many examples each has, as JSON.
"""

_READY_MADE, _IDENTITY = "RPRLoc.ReadyMade", "RPRLoc.Identity"
"""The attributes of a ready-made set's node: the set's name, and the fingerprint of the one that was added."""

_Counts = Mapping[str, int]


def ready_made() -> dict[str, Summary]:
    """By their names, such as ``@trunk``, what is in the ready-made sets; those that are damaged are left out."""
    found = {SIGN + name: _installed(SIGN + name)[0] for name in ready_made_sets()}
    return {name: summary for name, summary in found.items() if summary is not None}


def describe_ready_made(name: str, summary: Summary) -> tuple[str, str]:
    """What a list says of a ready-made set, and its tip: its organs, how well they are found, sources and licence."""
    about, targets = summary.about, {**summary.organs, **summary.landmarks}
    if about is None:
        return name, ", ".join(targets)
    lines = [f"{about.title}.", f"Measured in {about.measured_on}:" if about.measured else ""]
    for target, count in targets.items():
        one = about.measured.get(target)
        found = f", IoU {one.iou:.2f}, walls {one.awd_mm:.1f} mm off" if one is not None else ""
        lines.append(f"{target}: {counted(count, 'example')}{found}")
    lines += [f"From {source}." for source in about.sources]
    return f"{name}: {about.title}", "\n".join(filter(None, [*lines, f"Licence of the examples: {about.licence}."]))


class Sets:
    """The support sets of a scene."""

    def __init__(self, scene: Scene) -> None:
        self._scene = scene

    def all(self) -> list[Node]:
        """The support sets, as text nodes."""
        texts = nodes.of_class(self._scene, "vtkMRMLTextNode")
        return [node for node in texts if node.GetAttribute(nodes.ROLE) == "support set"]

    def load(self, path: Path) -> Node:
        """Put the support set of a file, plain or gzipped, into the scene. Raises InputError if it is none."""
        support_set = SupportSet.load(path)
        node = self._new(path.name.removesuffix(".gz").removesuffix(".json"))
        _note(node, support_set)
        node.SetText(support_set.to_json())
        return node

    def add_ready_made(self, name: str) -> Node:
        """Put a ready-made set into the scene by its name; the one that is there if it is the installed one.

        Raises InputError if it is not installed or damaged.
        """
        known = next((node for node in self.all() if node.GetAttribute(_READY_MADE) == name), None)
        if known is not None and not self.doubt(known):
            return known
        summary, why = _installed(name)
        if summary is None:
            raise InputError(why)
        node = known if known is not None else self._new(name)
        node.SetAttribute(_READY_MADE, name)
        node.SetAttribute(_IDENTITY, summary.identity)
        return node

    def with_any(self, names: Sequence[str]) -> list[Node]:
        """The sets that hold one of these organs and landmarks, and those of which nobody knows what they hold.

        The others are not handed over for nothing: a large one takes a second.
        """
        held = {node: {**self.organs(node), **self.landmarks(node)} for node in self.all()}
        return [node for node, targets in held.items() if not targets or any(name in targets for name in names)]

    def organs(self, node: Node) -> _Counts:
        """The organs of a set, and how many examples each has."""
        return self._counts(node, _ORGANS)

    def landmarks(self, node: Node) -> _Counts:
        """The landmarks of a set, and how many examples each has."""
        return self._counts(node, _LANDMARKS)

    def doubt(self, node: Node) -> str:
        """In a sentence or two, why a set is not the one that came into the scene; "" if it is."""
        name = node.GetAttribute(_READY_MADE)
        if name is None:
            return ""
        summary, why = _installed(name)
        if summary is None:
            return f"{why} Or remove the set from the examples."
        if summary.identity != node.GetAttribute(_IDENTITY):
            return (
                f"The ready-made set {name} that is installed here is another one than this scene was made with, so it "
                "may find other boxes. Add it again if that is right."
            )
        return ""

    def describe(self, node: Node) -> str:
        """What a list says of a set."""
        targets = [*self.organs(node), *self.landmarks(node)]
        if not targets:
            return f"{node.GetName()} (not installed)"
        doubt = " (not the one that this scene was made with)" if self.doubt(node) else ""
        return f"{node.GetName()}{doubt}: {', '.join(targets)}"

    def hand_over(self, node: Node, new_file: Callable[[], Path]) -> Path:
        """A file with the set: the installed one, or a new one. Raises InputError if it is not installed."""
        name = node.GetAttribute(_READY_MADE)
        if name is None:
            path = new_file()
            path.write_text(node.GetText(), encoding="utf-8")
            return path
        if _installed(name)[0] is None:
            raise InputError(self.doubt(node))
        return find_set(name)

    def _counts(self, node: Node, kind: str) -> _Counts:
        name = node.GetAttribute(_READY_MADE)
        if name is not None:
            summary, _ = _installed(name)
            return {} if summary is None else summary.organs if kind == _ORGANS else summary.landmarks
        if node.GetAttribute(_ORGANS) is None:  # a scene of version 0.1
            _note(node, SupportSet.from_json(node.GetText(), node.GetName()))
        known: dict[str, int] = json.loads(node.GetAttribute(kind) or "{}")
        return known

    def _new(self, name: str) -> Node:
        node = self._scene.AddNewNodeByClass("vtkMRMLTextNode", name)
        node.SetAttribute(nodes.ROLE, "support set")
        return node


def _note(node: Node, support_set: SupportSet) -> None:
    for kind, names in (
        (_ORGANS, [name for support in support_set.supports for name in support.organs]),
        (_LANDMARKS, [name for support in support_set.supports for name in support.landmarks]),
    ):
        node.SetAttribute(kind, json.dumps({name: names.count(name) for name in dict.fromkeys(names)}))


def _installed(name: str) -> tuple[Summary | None, str]:
    """What is in a ready-made set; None, and why, if it is missing or damaged."""
    path = ready_made_sets().get(name.removeprefix(SIGN))
    status = None if path is None else status_of(path)
    if path is None or status is None:
        return None, f"The ready-made set {name} is not installed here. Install RPR-Loc again, whole."
    try:
        return _summary(path, status.st_mtime_ns, status.st_size), ""
    except InputError as error:
        return None, f"{error} Install RPR-Loc again, whole."


@lru_cache(maxsize=16)
def _summary(path: Path, mtime_ns: int, size: int) -> Summary:
    """What is in a file, read once as long as it is not written anew."""
    return summarize(path)
