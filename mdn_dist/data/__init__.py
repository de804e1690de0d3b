"""Pen strokes: one format, and readers for the public files that hold it.

**The stroke format.** A drawing is a float32 tensor ``(T, 3)`` with a row ``dx, dy, end_of_stroke``
for each point:

- ``dx, dy`` is the offset from the previous point, with x to the right and **y up**, in the file's
  units until a ``Normalization`` says otherwise. The first row's offset is the position of the
  first point, so the running sum of the offsets is the drawing in absolute positions
  (``to_absolute``). Readers put every first point at the origin, so there the first row is
  ``0, 0, flag``.
- ``end_of_stroke`` is 1 at the last point of every stroke, after which the pen is lifted, and 0
  elsewhere. The last row ends a stroke; where a file leaves the pen down there, as some Sketch-RNN
  files do, the reader sets the flag. The move to the next stroke is that stroke's first offset.

A ``Drawing`` is such a tensor with its label, writer, source and times, and what Quick, Draw! tells
of it; a ``Corpus`` is a sequence of drawings, as read from one file. Both pickle by value, so
worker processes of a ``DataLoader`` may take many. Files are not trusted: a damaged or hostile one
gives a ``StrokeFileError`` of one printable line that names the file and the record, and sizes are
bounded while reading (``MAX_FILE_BYTES``, ``MAX_RECORD_BYTES``, ``MAX_MEMBER_BYTES``,
``MAX_POINTS``, ``MAX_TOTAL_POINTS``, ``MAX_RECORDS`` in ``mdn_dist.data.corpus``).

For ``pen="one_hot"`` in a ``StrokeDistribution``, ``to_pen_states`` makes Sketch-RNN's five columns
of a drawing's three, and ``from_pen_states`` goes back.

Drawings are read to the CPU. Sums are taken in float64, on the CPU where a tensor's device has no
float64; what comes of a tensor is on its device.
"""

from mdn_dist.data.batching import collate
from mdn_dist.data.corpus import Corpus, StrokeFileError
from mdn_dist.data.drawing import Drawing
from mdn_dist.data.normalization import Normalization
from mdn_dist.data.omniglot import read_omniglot
from mdn_dist.data.pen_states import from_pen_states, to_pen_states
from mdn_dist.data.quickdraw import read_quickdraw, write_quickdraw
from mdn_dist.data.reading import read
from mdn_dist.data.resampling import dequantize, resample
from mdn_dist.data.sketch_rnn import read_sketch_rnn
from mdn_dist.data.strokes import from_polylines, polylines, to_absolute, to_offsets

__all__ = [
    "Corpus",
    "Drawing",
    "Normalization",
    "StrokeFileError",
    "collate",
    "dequantize",
    "from_pen_states",
    "from_polylines",
    "polylines",
    "read",
    "read_omniglot",
    "read_quickdraw",
    "read_sketch_rnn",
    "resample",
    "to_absolute",
    "to_offsets",
    "to_pen_states",
    "write_quickdraw",
]
