"""What the user has chosen in the panel, as Slicer keeps it in the scene."""

from typing import Annotated

import slicer
from slicer.parameterNodeWrapper import WithinRange, parameterNodeWrapper
from slicer.ScriptedLoadableModule import ScriptedLoadableModuleLogic

from rprloc.model.shipped import DEFAULT


@parameterNodeWrapper
class SlicerRPRLocParameterNode:
    """What the user has chosen of the scene; kept in it. Folders are the computer's, so they are not.

    Of weights that are a file the path is kept, because results and support sets belong to their weights.
    """

    supportVolume: slicer.vtkMRMLScalarVolumeNode
    organName: str
    markLandmark: bool = False
    forceCpu: bool = False
    weights: str = DEFAULT
    exportMarkups: bool = True
    exportLabelMap: bool = False
    exportTable: bool = True
    dicomRtstruct: bool = True
    dicomSr: bool = False
    dicomSeg: bool = False
    dicomImport: bool = False
    cropMargin: Annotated[float, WithinRange(0.0, 200.0)] = 10.0


class SlicerRPRLocLogic(ScriptedLoadableModuleLogic):
    """Slicer's own logic of the module, for its parameter node alone.

    ``slicer.util.getModuleLogic("SlicerRPRLoc")`` gives :class:`RPRLocLogic`, which does what the module can do.
    """
