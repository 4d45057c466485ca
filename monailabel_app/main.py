"""An app for MONAI Label: the organs of support sets as models that its server offers to Slicer, OHIF and others.

    monailabel start_server --app monailabel_app --studies FOLDER --conf support_set organs.json

Of each support set there are two models. ``detect_NAME`` is a detector: ROIs in the form that MONAI Label's module for
Slicer loads (LPS, which the file says). ``boxes_NAME`` gives the boxes as a label map, for OHIF, whose extension for
MONAI Label knows no detectors.

MONAI Label and RPR-Loc need versions of pydicom and jsonschema that exclude each other, so each lives in a Python
environment of its own: the app imports nothing of RPR-Loc and lets ``rprloc serve`` do the work, as a child process.
"""

from __future__ import annotations

import json
import logging
import os
import shutil
import subprocess
import tempfile
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from fastapi import HTTPException
from monailabel.interfaces.app import MONAILabelApp
from monailabel.interfaces.exception import MONAILabelError, MONAILabelException
from monailabel.interfaces.tasks.infer_v2 import InferTask, InferType

ALL_ORGANS = "all"
READY_MADE = "@"
ENDINGS = (".json", ".json.gz")  # of support sets
SETTINGS = ("support_set", "rprloc", "weights", "device")

_log = logging.getLogger(__name__)
_Json = dict[str, Any]


class RPRLocApp(MONAILabelApp):
    """Locates the organs of the support set, or of each set in the folder, that ``--conf support_set`` names.

    It may be a ready-made set, such as ``@head-neck``, or several, also with files: ``@head-neck,@trunk,mine.json``.

    ``--conf rprloc PATH``: the command ``rprloc``, by default the one that the shell finds; ``--conf weights FILE``:
    other weights than the default ones; ``--conf device``: auto, cpu or cuda. Raises MONAILabelException if one of them
    cannot be used.
    """

    def __init__(self, app_dir: str, studies: str, conf: Mapping[str, str]) -> None:
        unknown = sorted(conf.keys() - set(SETTINGS))
        if unknown:
            raise _not_started(
                f"The setting {', '.join(unknown)} is not known. Give only {', '.join(SETTINGS)} with --conf."
            )
        files = _support_sets(conf.get("support_set", ""))
        self.rprloc = Rprloc(_command(conf))
        # The base class asks for the tasks, so all that they need comes before it.
        self.support_sets = {name: self._described(path) for name, path in files.items()}
        super().__init__(
            app_dir=app_dir,
            studies=studies,
            conf=dict(conf),
            name="RPR-Loc",
            description=f"Finds organs in {self.rprloc.modality} from annotated examples. For research: a person must "
            "check every box.",
        )

    def init_infers(self) -> dict[str, InferTask]:
        tasks: dict[str, InferTask] = {}
        for name, described in self.support_sets.items():
            tasks[f"detect_{name}"] = Detector(self.rprloc, **described)
            tasks[f"boxes_{name}"] = BoxPainter(self.rprloc, **described)
        return tasks

    def infer(self, request: _Json, datastore: Any = None) -> _Json:
        """A model's answer. What the client can put right is status 400, with a sentence that says how."""
        try:
            said = self._modality_of(request.get("image"), datastore or self.datastore())
            answer: _Json = super().infer({**request, "modality": said}, datastore)
        except MONAILabelException as error:
            status = 400 if error.error is MONAILabelError.INVALID_INPUT else 500
            raise HTTPException(status, error.msg) from error
        return answer

    def _modality_of(self, image: object, datastore: Any) -> str:
        """What MONAI Label knows of a study, as of the DICOM series that it converts to files that do not tell it."""
        if not isinstance(image, str) or not image or os.path.exists(image):  # noqa: PTH110 (that fails at long names)
            return ""
        datastore.get_image_uri(image)  # fetches the series, before which nothing is known of it
        return str(datastore.get_image_info(image).get("Modality") or "")

    def _described(self, path: Path) -> _Json:
        """What the tasks of a support set are made of. Raises MONAILabelException if it is none or of other weights."""
        try:
            shown = self.rprloc.ask("show", set=str(path))
        except MONAILabelException as error:
            raise _not_started(error.msg) from error
        if shown["model_id"] != self.rprloc.model_id:
            raise _not_started(
                f"{path} was built with the weights {shown['model_id']}, but those in use are {self.rprloc.model_id}. "
                "A support set belongs to its weights. Build it again, or name its weights with --conf weights FILE."
            )
        if not shown["organs"]:
            raise _not_started(f"{path} holds landmarks and no organ. This app offers organs: give a set with organs.")
        return {"support_set": path, "organs": shown["organs"]}


class Rprloc:
    """``rprloc serve`` as a child process, which answers one request after another and ends with this process.

    Raises MONAILabelException: INVALID_INPUT with the sentence that the child answers, SERVER_ERROR if it does not.
    """

    def __init__(self, command: list[str]) -> None:
        self._command = command
        self._lock = threading.Lock()  # MONAI Label infers in several threads if it is told to
        self._start()

    def ask(self, command: str, **options: object) -> _Json:
        """The result of a request; ``rprloc/apps/serve.py`` of RPR-Loc describes them."""
        with self._lock:
            if self._process.poll() is not None:
                self._start()
            try:
                self._stdin.write(json.dumps({"command": command, **options}) + "\n")
                self._stdin.flush()
            except OSError:
                pass  # it has ended; reading tells
            return self._result()

    def _start(self) -> None:
        # What PYTHONPATH holds, MONAI Label's packages among it, belongs to another Python.
        environment = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
        try:
            self._process = subprocess.Popen(
                self._command,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                env={**environment, "PYTHONUTF8": "1"},
                encoding="utf-8",
            )
        except OSError as error:
            raise _not_started(
                f"{self._command[0]} cannot be started ({error}), so it is not the command of RPR-Loc. "
                "Install RPR-Loc in an environment of its own and name it with --conf rprloc PATH."
            ) from error
        assert self._process.stdin is not None and self._process.stdout is not None
        self._stdin, self._stdout = self._process.stdin, self._process.stdout
        ready = self._result()
        self.model_id: str = ready["model_id"]
        self.modality: str = ready["modality"]
        _log.info("RPR-Loc is ready on %s, with weights %s for %s", ready["device"], self.model_id, self.modality)

    def _result(self) -> _Json:
        """What the next event that ends a request says; ``ready`` ends the start."""
        for line in self._stdout:
            event: _Json = json.loads(line)
            if event["event"] == "ready":
                return event
            if event["event"] == "result":
                result: _Json = event["result"]
                return result
            if event["event"] == "error":
                raise MONAILabelException(MONAILabelError.INVALID_INPUT, event["message"])
            if event["event"] == "log":
                _log.warning("%s", event["message"])
        code = self._process.wait()
        raise MONAILabelException(
            MONAILabelError.SERVER_ERROR,
            f"RPR-Loc's process ended with exit code {code}. The server's log gives the reason. The next request "
            "starts it again.",
        )


class _Locator(InferTask):
    """What both models of a support set share."""

    def __init__(self, rprloc: Rprloc, support_set: Path, organs: list[str], kind: InferType, described: str) -> None:
        self.rprloc = rprloc
        self.support_set = support_set
        # Numbered as in the label map, where 0 is the background.
        labels = {organ: number for number, organ in enumerate(organs, start=1)}
        super().__init__(kind, labels, dimension=3, description=described)

    def is_valid(self) -> bool:
        return True

    def located(
        self, request: Mapping[str, Any], kind: str, suffix: str, organs: list[str] | None = None
    ) -> tuple[Path, _Json]:
        """The boxes in the scan that the request names, all or of some organs, twice.

        As a file, which ``rprloc serve`` calls ``kind``, and as the JSON object that ``rprloc locate`` writes.
        MONAI Label deletes the file when it has sent it.
        """
        if not request.get("image"):
            raise MONAILabelException(
                MONAILabelError.INVALID_INPUT,
                "The image is not among the studies of this server. Give the name of one of them: "
                "GET /datastore/?output=all lists them.",
            )
        handle, name = tempfile.mkstemp(suffix)
        os.close(handle)
        try:
            found = self.rprloc.ask(
                "locate",
                set=str(self.support_set),
                image=request["image"],
                organs=organs or list(self.labels),  # named, as the file may be another by now
                modality=request.get("modality", ""),
                **{kind: name},
            )
        except BaseException:
            Path(name).unlink()
            raise
        return Path(name), found


class Detector(_Locator):
    """A box for each organ, as ROIs of Slicer's Markups."""

    def __init__(self, rprloc: Rprloc, support_set: Path, organs: list[str]) -> None:
        described = f"Finds organs in {rprloc.modality} from annotated examples: a ROI around each"
        super().__init__(rprloc, support_set, organs, InferType.DETECTION, described)
        # Clients offer a list as a choice whose first entry is chosen.
        self._config["organ"] = [ALL_ORGANS, *organs]

    def __call__(self, request: Mapping[str, Any]) -> tuple[str, _Json]:
        """The file of the ROIs, and for each its box (centre and size, LPS mm) and label, and the detections (RAS)."""
        path, found = self.located(request, "rois", ".mrk.json", _organs(request.get("organ")))
        markups = json.loads(path.read_text(encoding="utf-8"))["markups"]
        rois = [markup for markup in markups if markup["type"] == "ROI"]
        label_names = {roi["name"]: self.labels[roi["name"]] for roi in rois}
        answer = {
            "box": [[*roi["center"], *roi["size"]] for roi in rois],
            "label": list(label_names.values()),
            "label_names": label_names,
            "detections": found,
        }
        return str(path), answer


class BoxPainter(_Locator):
    """The boxes of all organs as a label map (NRRD) on the scan's voxels."""

    def __init__(self, rprloc: Rprloc, support_set: Path, organs: list[str]) -> None:
        described = f"Finds organs in {rprloc.modality} from annotated examples: the boxes as a label map"
        super().__init__(rprloc, support_set, organs, InferType.SEGMENTATION, described)

    def __call__(self, request: Mapping[str, Any]) -> tuple[str, _Json]:
        """The file of the label map, the organ of each label, and the detections (RAS)."""
        path, found = self.located(request, "label_map", ".nrrd")
        return str(path), {"label_names": self.labels, "detections": found}


def _not_started(sentence: str) -> MONAILabelException:
    return MONAILabelException(MONAILabelError.APP_INIT_ERROR, sentence)


def _support_sets(given: str) -> dict[str, Path]:
    """The support sets by the names of their models.

    Raises MONAILabelException if there is none, or if there are two of one name.
    """
    if not given:
        raise _not_started(
            "The server was started without a support set. Add --conf support_set FILE, with a file that 'rprloc "
            "support build' made or a folder of such files, or a ready-made set such as @head-neck."
        )
    # Only behind a ready-made set do commas part several: the name of a file may hold one.
    parts = given.split(",") if given.startswith(READY_MADE) else [given]
    named: dict[str, Path] = {}
    for file in [file for part in parts if part.strip() for file in _files(part.strip())]:
        other = named.setdefault(_name(file), file)
        if other is not file:
            raise _not_started(
                f"{other.name} and {file.name} would be models of one name. Rename one of them, or leave it out."
            )
    return named


def _files(given: str) -> list[Path]:
    """The support sets of a ready-made one's name, of a file or of a folder. Raises MONAILabelException if it has none.

    Of a ready-made one the name: ``rprloc serve`` knows where it lies.
    """
    if given.startswith(READY_MADE):
        return [Path(given)]
    path = Path(given).resolve()
    if not path.is_dir():
        return [path]
    files = [file for file in sorted(path.iterdir()) if file.name.endswith(ENDINGS) and file.is_file()]
    if not files:
        raise _not_started(
            f"The folder {path} holds no support set (*.json or *.json.gz). Make one with 'rprloc support build'."
        )
    return files


def _name(path: Path) -> str:
    name = path.name.removeprefix(READY_MADE)
    for ending in (".gz", ".json", ".support"):
        name = name.removesuffix(ending)
    return name


def _command(conf: Mapping[str, str]) -> list[str]:
    rprloc = conf.get("rprloc") or shutil.which("rprloc")
    if not rprloc:
        raise _not_started(
            "The command rprloc is not found. Install RPR-Loc in an environment of its own, and name the command with "
            "--conf rprloc PATH."
        )
    weights = ["--model", conf["weights"]] if conf.get("weights") else []
    return [rprloc, "serve", "--device", conf.get("device", "auto"), *weights]


def _organs(wanted: object) -> list[str] | None:
    """The organs that a request asks for, by one name or a list of names; None for all."""
    names = [wanted] if isinstance(wanted, str) else wanted or []
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise MONAILabelException(
            MONAILabelError.INVALID_INPUT,
            f'"organ" is {wanted!r}. Give an organ\'s name, a list of names or "{ALL_ORGANS}".',
        )
    return None if not names or ALL_ORGANS in names else list(dict.fromkeys(names))
