"""Undo and redo of what the module made: the points of examples, support sets, and the ROIs and landmarks of results
with their corrections.

The scene's own undo is left alone: it is off in Slicer, and to turn it on would change how other modules behave.
"""

from __future__ import annotations

from dataclasses import dataclass

from rprloc import InputError
from SlicerRPRLocLib import nodes, views
from SlicerRPRLocLib.examples import Examples, Origin
from SlicerRPRLocLib.landmarks import FoundLandmark
from SlicerRPRLocLib.results import Result, Results
from SlicerRPRLocLib.sets import Sets

_LIMIT = 100


@dataclass(frozen=True)
class _ExamplePoints:
    """The points (N, 3) of one example, in the world, and where they are from."""

    volume_id: str
    organ: str
    landmark: bool
    points_ras: tuple[tuple[float, ...], ...]
    origin: Origin


@dataclass(frozen=True)
class _State:
    examples: tuple[_ExamplePoints, ...]
    sets: frozenset[nodes.Node]
    """The nodes themselves: one that is out of the scene is kept here."""
    results: tuple[Result, ...]
    landmarks: tuple[FoundLandmark, ...]
    absent: tuple[tuple[str, str, str], ...]
    """Of each volume's id the JSON of what is not in it, and of that at which a person has looked."""


class History:
    """The states of a scene's examples, support sets and results, one after another."""

    def __init__(self, examples: Examples, results: Results, sets: Sets) -> None:
        self._examples, self._results, self._sets = examples, results, sets
        self._states: list[_State] = []
        self._now = 0
        self._owner: object = None
        self.clear()

    def clear(self) -> None:
        """Forget all but the present state, as when another scene is opened."""
        self._states, self._now, self._owner = [self._present()], 0, None

    def record(self, owner: object = None) -> None:
        """Note the present state, if it is a new one; what was undone before it can no longer be done again.

        States of one ``owner``, such as a run, are one step as long as nothing else comes between them.
        """
        present = self._present()
        if present != self._states[self._now]:
            kept = self._now if owner is not None and owner is self._owner else self._now + 1
            self._states = [*self._states[:kept], present][-_LIMIT:]
            self._now, self._owner = len(self._states) - 1, owner

    def can(self) -> tuple[bool, bool]:
        """Whether there is something to undo, and to do again."""
        changed = self._present() != self._states[self._now]
        return self._now > 0 or changed, self._now + 1 < len(self._states) and not changed

    @property
    def can_undo(self) -> bool:
        return self.can()[0]

    @property
    def can_redo(self) -> bool:
        return self.can()[1]

    def undo(self) -> None:
        """Go back to the state before. Raises InputError if there is none."""
        self.record()
        self._owner = None
        if self._now == 0:
            raise InputError("There is nothing to undo.")
        self._now -= 1
        self.restore()

    def redo(self) -> None:
        """Take back an undo. Raises InputError if there is none, or something was changed after it."""
        if not self.can_redo:
            raise InputError("There is nothing to redo.")
        self._now += 1
        self.restore()

    def restore(self) -> None:
        """Make the scene hold the current state again. What belongs to volumes that are gone stays away."""
        state = self._states[self._now]
        wanted = {(marked.volume_id, marked.organ, marked.landmark): marked for marked in state.examples}
        for example in self._examples.all():
            key = nodes.volume_of(example).GetID(), nodes.organ_of(example), nodes.is_landmark(example)
            if key not in wanted:
                self._examples.remove(example)
        for marked in wanted.values():
            volume = self._volume(marked.volume_id)
            if volume is not None:
                example = self._examples.find(volume, marked.organ)
                if example is None:
                    example = self._examples.add(volume, marked.organ, landmark=marked.landmark)
                if _points(example) != marked.points_ras:
                    self._examples.set_points(example, marked.points_ras)
                self._examples.put_origin(example, marked.origin)
        for node in set(self._sets.all()) ^ state.sets:
            if node in state.sets:
                self._results.scene.AddNode(node)
            else:
                nodes.remove(node)
        results = {(result.volume_id, result.organ, False) for result in state.results}
        results |= {(result.volume_id, result.found.landmark, True) for result in state.landmarks}
        keys = {
            node.GetID(): (nodes.volume_of(node).GetID(), nodes.organ_of(node), nodes.is_landmark(node))
            for node in self._results.located()
        }
        self._results.remove_all([node for node in self._results.located() if keys[node.GetID()] not in results])
        found: list[Result | FoundLandmark] = [*state.results, *state.landmarks]
        self._results.put_all(result for result in found if self._volume(result.volume_id) is not None)
        absent = dict.fromkeys(self._results.absent_json(), ("", ""))
        absent |= {volume_id: (found_json, ticks_json) for volume_id, found_json, ticks_json in state.absent}
        for volume_id, (found_json, ticks_json) in absent.items():
            if self._volume(volume_id) is not None:
                self._results.put_absent(volume_id, found_json)
                self._results.put_absent_ticks(volume_id, ticks_json)
        views.draw_over_own_scans(self._results.scene)

    def _present(self) -> _State:
        examples = [
            _ExamplePoints(
                nodes.volume_of(example).GetID(),
                nodes.organ_of(example),
                nodes.is_landmark(example),
                _points(example),
                self._examples.origin(example),
            )
            for example in self._examples.all()
        ]
        results = [self._results.record(roi) for roi in self._results.rois()]
        landmarks = [self._results.landmarks.record(node) for node in self._results.landmarks.all()]
        absent = self._results.absent_json()
        # Sorted, because what is removed and made again comes last in the scene.
        return _State(
            tuple(sorted(examples, key=lambda marked: (marked.volume_id, marked.organ))),
            frozenset(self._sets.all()),
            tuple(sorted(results, key=lambda result: (result.volume_id, result.found_json))),
            tuple(sorted(landmarks, key=lambda result: (result.volume_id, result.found_json))),
            tuple(sorted((id_, text, self._results.absent_ticks(id_)) for id_, text in absent.items())),
        )

    def _volume(self, node_id: str) -> nodes.Node | None:
        return self._results.scene.GetNodeByID(node_id)


def _points(example: nodes.Node) -> tuple[tuple[float, ...], ...]:
    return tuple(tuple(point) for point in nodes.defined_points(example).tolist())
