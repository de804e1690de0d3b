"""Pictures of strokes and of what a model predicts about them.

Every function returns a ``matplotlib.figure.Figure`` and can write it to SVG or PNG at once.
Matplotlib is imported when a function is called, pyplot never: nothing needs a display, no figure
stays registered anywhere, and no setting is left changed.
"""

from mdn_dist.plotting.calibration import calibration
from mdn_dist.plotting.coverage import coverage
from mdn_dist.plotting.density import density
from mdn_dist.plotting.strokes import strokes

__all__ = ["calibration", "coverage", "density", "strokes"]
