"""Where RPR-Loc's library lies: beside the module, so that the module's folder is the whole installation.

Nothing here needs the library.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any


def put_library_first(module: Path) -> None:
    """Let ``import rprloc`` find the library that belongs to the module in this folder.

    An extension has it in the same folder, the project in ``bundle`` beside it. Another one that was once installed
    by pip is passed over.
    """
    for place in (module, module.parent / "bundle"):
        if (place / "rprloc" / "__init__.py").is_file():
            sys.path[:] = [str(place), *(path for path in sys.path if path != str(place))]
            return


def panel_that_says(sentence: str) -> type:
    """A panel in place of the module's own, for when that one cannot be loaded: the module is listed and says why."""
    from slicer.ScriptedLoadableModule import ScriptedLoadableModuleWidget

    def setup(self: Any) -> None:
        import qt

        ScriptedLoadableModuleWidget.setup(self)
        label = qt.QLabel(sentence)
        label.setWordWrap(True)
        self.layout.addWidget(label)
        self.layout.addStretch(1)

    # Slicer takes the module's name from the class's.
    return type("SlicerRPRLocWidget", (ScriptedLoadableModuleWidget,), {"setup": setup, "__module__": __name__})


def why_not_loaded(error: ImportError) -> str:
    """What to say when the panel's code cannot be imported."""
    if (error.name or "").split(".")[0] == "rprloc":
        return (
            "RPR-Loc's library is missing. It belongs beside the module: keep the project's folder whole, with the "
            "folders SlicerRPRLoc and bundle in it, and give Slicer the folder SlicerRPRLoc as a module path. Then "
            "restart Slicer."
        )
    if (error.name or "").startswith("slicer"):
        return f"RPR-Loc needs 3D Slicer 5.12 or newer; this one has no {error.name}."
    return f"RPR-Loc cannot be loaded ({error}). Get the project's folder again, whole, and restart Slicer."
