"""Predict, register and transform from Slicer's Python console: paste all of it there, or the parts you need.

It works on the sample pair. For volumes of your own, put `fixed = getNode('...')` and the like in place of the line with
`load_sample_pair`, None for a segmentation that you do not have, and `Criterion()` if they do not show these structures.
"""

import slicer
from HyperPredictRegLib.panel.samples import load_sample_pair
from HyperPredictRegLib.results.job import Criterion
from HyperPredictRegLib.slicerbridge.provenance import read_report_node

from HyperPredictReg import HyperPredictRegLogic

fixed, moving, fixed_segmentation, moving_segmentation = load_sample_pair(slicer.mrmlScene)
logic = HyperPredictRegLogic()

# The criterion: at most 0.2 % of the anatomy folded, and the left ventricle three times as much as white matter.
criterion = Criterion(folding_limit=0.2, structures={"left lateral ventricle": 3.0, "left cerebral white matter": 1.0})

# Predict, without registering. It needs the extension PyTorch; leave it out and registering still works.
try:
    prediction = logic.suggest(fixed, moving, moving_segmentation, criterion=criterion)
    print(f"{prediction.reliability.level}:", prediction.choice.sentence)
except ValueError as error:
    print(error)

# Register. Slicer waits; `progress` is told how far it is. setting={"regularization_weight": 0.9} would set λ itself.
nodes = logic.process(
    fixed,
    moving,
    moving_segmentation,
    fixedSegmentation=fixed_segmentation,
    criterion=criterion,
    progress=lambda event: slicer.util.showStatusMessage(f"{event.stage}: {event.message}"),
)
report = read_report_node(nodes.report)
print(f"{report.engine.space.text(report.setting)}, {report.measured.folding_percent.foreground:.3f} % folded")
# Measured where both volumes have a segmentation.
for structure in report.measured.dice.structures if report.measured.dice is not None else ():
    print(f"{structure.name}: Dice {structure.dice_before:.2f} before, {structure.dice:.2f} after")

# Transform a point from the moving scan to the fixed one; volumes, segmentations and models go the same way.
tip = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLMarkupsFiducialNode", "Tip")
tip.AddControlPoint(0.0, -20.0, 10.0)
applied = logic.apply_to_nodes([tip], nodes)
print(applied.nodes[0].GetName(), applied.nodes[0].GetNthControlPointPosition(0))
