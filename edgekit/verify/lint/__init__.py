"""What in a torch model is known to suffer in int8, found before anything is quantised.

On the graph of torch.export, so that it holds for every runtime. :func:`find` looks at operators alone and
knows what is there; :func:`measured` runs calibration samples and says of each finding whether it matters:
an activation that wastes its range, a gate that leaves channels without levels, a branch that an addition
drowns, padding beyond all values. Users of other tools met each of these as a silent loss of accuracy
(tensorflow/models#11274, onnx2tf#683, ultralytics/yolov5#2509, onnx2tf#444).
"""

from __future__ import annotations

from edgekit.verify.lint.finding import Finding, Group, grouped
from edgekit.verify.lint.ranges import SAMPLES, measured
from edgekit.verify.lint.rules import RULES, find

__all__ = ["RULES", "SAMPLES", "Finding", "Group", "find", "grouped", "measured"]
