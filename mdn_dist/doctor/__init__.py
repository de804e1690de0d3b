"""What is wrong with the loss I have?

:func:`diagnose` tells, and so does a command line:

.. code-block:: text

    python -m mdn_dist.doctor module:loss

It prints the report, and exits with 1 if there are faults, with 0 if there are none, and with 2 and
one line if what is named cannot be imported or is no loss.
"""

from mdn_dist.doctor.diagnosis import diagnose
from mdn_dist.doctor.report import FAULTS, Fault, Report

__all__ = ["FAULTS", "Fault", "Report", "diagnose"]
