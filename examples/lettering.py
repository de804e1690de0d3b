"""Synthetic lettering: short texts in single-stroke faces, drawn as by many writers.

Nobody wrote these lines. The letters are Hershey's plotter faces, from the package Hershey-Fonts;
slant, size, width, spacing, baseline, speed and tremor are drawn at random once a writer, and the
pen is followed evenly in time, slower in bends and at the ends of strokes, as a tablet records it.
Units: the height of a lower-case x is about 1.

    python examples/lettering.py --out page.png
"""

from __future__ import annotations

import functools
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from command_line import (
    Parser,
    errors_in_one_line,
    integer,
    picture,
    replacing,
    seed,
)
from HersheyFonts import HersheyFonts

from mdn_dist import plotting

# The two faces drawn with single lines; the others repeat these or double their strokes.
# name: (units of the face in the height of an x, y of its base line, downwards)
FACES = {"futural": (14.0, 9.0), "scripts": (9.0, 9.0)}

WORDS = """
    able above after again air all also among apple arm away back ball bank bath bear bell bird
    blue boat bone book both box bread brown bus cake call calm came card cat city clay clear cloud
    coal cold corn cup dark dawn day deep desk dog door down dream drum dust each early earth east
    egg even eye face fair farm fast field find fire fish flat flow fog food fox frost full game
    garden give glass go gold good grass gray green hand harbor hat hazel hill home horse hour ice
    iron jam joy jump just keep key kind king lake lamp land late leaf left light lion long look
    map mark milk mind moon more music name near new night noon north oak ocean odd often old only
    open over owl page paper path pen pine plain quick quiet quill rain read red river road room
    rose sail salt sand sea seed ship silver sky sleep slow small snow soft song south star still
    stone story street sugar sun table tall tea three time town tree two under valley very view
    voice walk wall warm water wave way west wheat wide wild wind winter wolf wood yard year yellow
    yes young zebra zero
""".split()  # noqa: SIM905


@dataclass(frozen=True)
class Writer:
    """One way of lettering; lengths in heights of an x, times in samples of the pen."""

    face: str
    slant: float  # x per y
    size: float
    width: float  # of letters, relative to the face
    spacing: float  # added between letters
    slope: float  # of the base line
    drift: float  # of the base line, up and down
    pace: float  # samples per unit of time: small is fast
    tremor: float

    @classmethod
    def draw(cls, rng: np.random.Generator) -> Writer:
        """Return a writer at random."""
        face = str(rng.choice(list(FACES)))
        script = face == "scripts"
        return cls(
            face=face,
            slant=rng.uniform(-0.25, 0.25) if script else rng.uniform(-0.1, 0.45),
            size=rng.uniform(0.8, 1.2),
            width=rng.uniform(0.8, 1.2),
            spacing=rng.uniform(-0.02, 0.1) if script else rng.uniform(-0.15, 0.2),
            slope=rng.normal(0.0, 0.02),
            drift=rng.uniform(0.0, 0.15),
            pace=rng.uniform(0.85, 1.15) * (0.75 if script else 1.0),
            tremor=rng.uniform(0.002, 0.008),
        )

    def write(self, text: str, rng: np.random.Generator) -> torch.Tensor:
        """Return the text as stroke points ``(T, 3)``: dx, dy, end of stroke."""
        pieces, letters, lefts = [], [], []
        pen = 0.0
        for index, character in enumerate(text):
            strokes, advance = glyph(self.face, character)
            hurry = self.pace * rng.uniform(0.9, 1.1)
            for number, duration in enumerate(strokes):
                count = max(3, round(duration * hurry))
                pieces.append(sampled(self.face, character, number, count))
            letters += [index] * len(strokes)
            lefts.append(pen)
            pen += advance + self.spacing / self.width + rng.normal(0.0, 0.02)
        counts = [len(piece) for piece in pieces]
        letter = np.repeat(letters, counts)
        places = np.concatenate(pieces)
        places = places * rng.normal(1.0, 0.04, (len(text), 2))[letter]  # no two letters alike
        x = (places[:, 0] + np.array(lefts)[letter]) * self.width
        y = places[:, 1] + rng.normal(0.0, 0.02, len(text))[letter]
        base = self.slope * x + self.drift * np.sin(x / 3.0 + rng.uniform(0.0, 2 * np.pi))
        track = np.stack([x + self.slant * y, y + base], axis=1) * self.size
        shocks = rng.normal(0.0, self.tremor, (2, len(track) + len(RESPONSE) - 1))
        track += np.stack([np.convolve(shock, RESPONSE, "valid") for shock in shocks], axis=1)
        flags = np.zeros(len(track))
        flags[np.cumsum(counts) - 1] = 1.0
        offsets = np.diff(track, axis=0, prepend=track[:1])
        return torch.from_numpy(np.column_stack([offsets, flags]).astype(np.float32))


# A damped hand: the response (n + 1) a^n of two equal lags to a shock, so that tremor is smooth.
RESPONSE = np.arange(1.0, 17.0) * 0.6 ** np.arange(16.0)


@functools.cache
def face_glyphs(face: str) -> dict:
    """Return a face's glyphs, parsed once."""
    return HersheyFonts(load_default_font=face).all_glyphs


@functools.cache
def timed(face: str, character: str, number: int) -> tuple[np.ndarray, np.ndarray]:
    """Return one stroke as dense times ``(N,)`` and places ``(N, 2)``, corners rounded."""
    units, base_line = FACES[face]
    shape = face_glyphs(face)[character]
    corners = np.array(list(shape.strokes[number]), dtype=float)
    corners = (corners - [shape.left_offset, base_line]) * [1.0, -1.0] / units
    length = np.concatenate([[0.0], np.cumsum(np.hypot(*np.diff(corners, axis=0).T))])
    along = np.linspace(0.0, length[-1], max(8, round(length[-1] / 0.02)))
    dense = np.stack([np.interp(along, length, axis) for axis in corners.T], axis=1)
    # Round the corners; reflecting the track about its two ends keeps them where they are.
    reach = min(9, len(dense) - 1)
    kernel = np.hanning(2 * reach + 3)[1:-1]
    kernel /= kernel.sum()
    before, after = 2 * dense[0] - dense[reach:0:-1], 2 * dense[-1] - dense[-2 : -reach - 2 : -1]
    padded = np.concatenate([before, dense, after])
    dense = np.stack([np.convolve(axis, kernel, "valid") for axis in padded.T], axis=1)
    # The hand is slower in bends (speed falls with a power of curvature) and at both ends.
    steps = np.diff(dense, axis=0)
    step = np.hypot(*steps.T) + 1e-6
    bend = np.abs(np.diff(np.unwrap(np.arctan2(steps[:, 1], steps[:, 0])), append=np.nan)) / step
    bend[-1] = bend[-2]
    middle = np.cumsum(step) - step / 2
    ends = np.minimum(1.0, 0.35 + 2.0 * np.minimum(middle, step.sum() - middle))
    speed = ends / (0.3 + np.minimum(bend, 30.0)) ** 0.4
    return np.concatenate([[0.0], np.cumsum(step / speed)]), dense


@functools.cache
def glyph(face: str, character: str) -> tuple[list[float], float]:
    """Return the duration of each stroke, in samples at pace 1, and the advance to the next."""
    shape = face_glyphs(face)[character]
    durations = [3.4 * timed(face, character, i)[0][-1] for i in range(len(shape.strokes))]
    return durations, shape.char_width / FACES[face][0]


@functools.cache
def sampled(face: str, character: str, number: int, count: int) -> np.ndarray:
    """Return one stroke as ``count`` places evenly spaced in time."""
    times, dense = timed(face, character, number)
    at = np.linspace(0.0, times[-1], count)
    return np.stack([np.interp(at, times, axis) for axis in dense.T], axis=1)


def texts_and_lines(lines: int, seed: int) -> list[tuple[str, torch.Tensor]]:
    """Return texts of two or three words with their strokes, each line by another writer."""
    pairs = []
    for line in range(lines):
        rng = np.random.default_rng([seed, line])
        text = ""
        while not 10 <= len(text) <= 16:
            text = " ".join(rng.choice(WORDS, size=rng.integers(2, 4)))
        pairs.append((text, Writer.draw(rng).write(text, rng)))
    return pairs


def lettering(lines: int, seed: int) -> list[torch.Tensor]:
    """Return lines of lettering as stroke points ``(T, 3)``; the same seed gives the same lines.

    Line ``i`` depends on the seed and ``i`` alone, so a longer call begins with a shorter one's.
    """
    return [strokes for _, strokes in texts_and_lines(lines, seed)]


@errors_in_one_line()
def main() -> None:
    """Draw a page of lines."""
    parser = Parser(__doc__)
    parser.add_argument("--out", type=picture, default=Path("lettering.png"))
    parser.add_argument("--lines", type=integer(1, 1000), default=12)
    parser.add_argument("--seed", type=seed, default=0)
    arguments = parser.parse_args()
    pairs = texts_and_lines(arguments.lines, arguments.seed)
    texts, drawings = zip(*pairs, strict=True)
    with replacing(arguments.out) as path:
        plotting.strokes(drawings, titles=texts, columns=2, path=path)


if __name__ == "__main__":
    main()
