"""Kinds of pens: what a point says beside its offset. To add one, write one class."""

from abc import abstractmethod
from typing import ClassVar, Literal, Self

import torch
from torch import Size, Tensor
from torch.distributions import Bernoulli as TorchBernoulli
from torch.distributions import Distribution
from torch.distributions import OneHotCategorical as TorchOneHotCategorical
from torch.nn.functional import logsigmoid, one_hot

from mdn_dist._container import Container
from mdn_dist._maths.draw import draw_index, uniform_like
from mdn_dist._maths.floats import widen
from mdn_dist._maths.maps import sharpen
from mdn_dist._pyro import Bernoulli, Categorical, OneHotCategorical
from mdn_dist._torch import lazy_property, static_size, tracing, unviewed


class Pen(Container, Distribution):
    """A distribution of torch's that also tells how the points of strokes hold its values.

    A point ends in the pen's values, ``(*, size)``, and a row of raw outputs begins with as many
    numbers for the pen. A kind is a subclass of this class and of one of torch's distributions; the
    functions of a kind take logits ``(*, size)`` and values ``(*, size)``. ``pen=`` arguments take
    the class, or the name that :data:`PENS` has for it.

    Args:
        logits: The parameters, of the shape that torch's distribution has: ``(*)`` or
            ``(*, size)``.
        validate_args: Whether torch's own methods check values; torch's default when None.
    """

    size: ClassVar[int]
    """How many values a pen has."""

    sign: ClassVar[int] = 1
    """Of the logits against the outputs."""

    valid_values: ClassVar[str]
    """What a valid value is, in words."""

    logits: Tensor
    _validate_args: bool
    _batch_shape: Size
    _event_shape: Size

    def __init__(self, logits: Tensor, validate_args: bool | None = None) -> None:
        self.logits = widen(logits)
        if validate_args is not None:
            self._validate_args = validate_args
        self._settle()

    @classmethod
    def split(cls, outputs: Tensor) -> tuple[Tensor, Tensor]:
        """Return the logits ``(*, size)`` that rows of raw outputs begin with, and the rest."""
        own, rest = outputs.split_with_sizes([cls.size, outputs.shape[-1] - cls.size], -1)
        # not times the sign: by a number takes as long as three negations
        return own.neg() if cls.sign < 0 else unviewed(own), unviewed(rest)

    @classmethod
    def join(cls, logits: Tensor, rest: Tensor) -> Tensor:
        """Invert `split`."""
        return torch.cat([cls.sign * logits, rest], -1)

    @staticmethod
    @abstractmethod
    def score(logits: Tensor, value: Tensor) -> Tensor:
        """Return the log probabilities ``(*)`` of values; a finite number of zeros, too."""

    @staticmethod
    @abstractmethod
    def draw(logits: Tensor, generator: torch.Generator | None) -> Tensor:
        """Return values, one for each row of logits."""

    @staticmethod
    @abstractmethod
    def likeliest(logits: Tensor) -> Tensor:
        """Return the most probable values, the first of several."""

    @staticmethod
    @abstractmethod
    def valid(value: Tensor) -> Tensor:
        """Tell which elements ``(*, size)`` of values are valid."""

    @staticmethod
    @abstractmethod
    def log_odds(value: Tensor) -> Tensor:
        """Return finite logits ``(size)`` by how often values ``(N, size)`` occur."""

    @property
    def rows(self) -> Tensor:
        """The logits, shape ``(*, size)``."""
        return self.as_rows(self.logits)

    def as_rows(self, parameter: Tensor) -> Tensor:
        """Return a parameter of torch's shape as ``(*, size)``."""
        return parameter if self._parts["logits"] else parameter.unsqueeze(-1)

    @classmethod
    def from_rows(cls, parameter: Tensor) -> Tensor:
        """Invert `as_rows`."""
        return parameter if cls._parts["logits"] else unviewed(parameter.squeeze(-1))

    def tempered(self, temperature: float | Tensor) -> Self:
        """Return the pen with its logits divided by a temperature, a number or ``(*)``."""
        if isinstance(temperature, Tensor):
            temperature = temperature.to(self.logits).unsqueeze(-1)
        return self._copy(logits=self.from_rows(sharpen(self.rows, 1 / temperature)))

    def _settle(self) -> None:
        shape = getattr(self.logits, "shape", Size())
        split = len(shape) - self._parts["logits"]
        self._batch_shape = shape[:split]
        if "_event_shape" not in self.__dict__:
            self._event_shape = shape[split:]


class BernoulliPen(Pen, Bernoulli):
    """An end-of-stroke flag, 0 or 1; its logit is minus its output, as in the paper.

    Source:
        Graves 2013 (arXiv:1308.0850), equation 18.

    Example:
        >>> BernoulliPen(torch.zeros(4)).probs
        tensor([0.5000, 0.5000, 0.5000, 0.5000])
    """

    size = 1
    sign = -1
    valid_values = "0 or 1"
    _parts: ClassVar[dict[str, int]] = {"logits": 0}
    _derived = ("probs",)

    @property
    def _param(self) -> Tensor:  # type: ignore[override]  # torch sets it
        return self.logits

    @staticmethod
    def score(logits: Tensor, value: Tensor) -> Tensor:
        """Return the log probabilities ``(*)`` of flags."""
        logits = logits.to(torch.promote_types(logits.dtype, value.dtype))
        return ((value - 1) * logits + logsigmoid(logits)).squeeze(-1)

    @staticmethod
    def draw(logits: Tensor, generator: torch.Generator | None) -> Tensor:
        """Return flags."""
        return uniform_like(logits, generator).lt_(logits.sigmoid())

    @staticmethod
    def likeliest(logits: Tensor) -> Tensor:
        """Return flags; 0 where both are as probable."""
        return (logits > 0).to(logits)

    @staticmethod
    def valid(value: Tensor) -> Tensor:
        """Tell which flags are valid."""
        return (value == 0) | (value == 1)

    @staticmethod
    def log_odds(value: Tensor) -> Tensor:
        """Return the log-odds by how often the flag is 1, half a count added to either.

        Source:
            Krichevsky and Trofimov 1981, The performance of universal encoding.
        """
        return ((value.sum(0) + 0.5) / (len(value) + 1)).logit()


class OneHotPen(Pen, OneHotCategorical):
    """A pen state of several, one-hot: of sketch-rnn's three by default.

    Source:
        Ha and Eck 2017 (arXiv:1704.03477), section 3.1.

    Example:
        >>> OneHotPen(torch.zeros(4, 3)).probs[0]
        tensor([0.3333, 0.3333, 0.3333])
    """

    size = 3
    valid_values = "one-hot"
    logits = None  # type: ignore[assignment]  # torch has a property in its place
    _parts: ClassVar[dict[str, int]] = {"logits": 1}
    _derived = ("_categorical",)

    @lazy_property
    def _categorical(self) -> Categorical:
        return Categorical(logits=self.logits, validate_args=False)

    @staticmethod
    def score(logits: Tensor, value: Tensor) -> Tensor:
        """Return the log probabilities ``(*)`` of states; a logit of ``-inf`` rules one out."""
        logits = logits.to(torch.promote_types(logits.dtype, value.dtype))
        # no 0 times infinity, neither here nor in a gradient
        log_probs = torch.where(value == 0, 0.0, logits.log_softmax(-1))
        return (value * log_probs).sum(-1)

    @staticmethod
    def draw(logits: Tensor, generator: torch.Generator | None) -> Tensor:
        """Return states."""
        return one_hot(draw_index(logits, generator).squeeze(-1), logits.shape[-1]).to(logits)

    @staticmethod
    def likeliest(logits: Tensor) -> Tensor:
        """Return states, the first of several that are as probable."""
        return one_hot(logits.argmax(-1), logits.shape[-1]).to(logits)

    @staticmethod
    def valid(value: Tensor) -> Tensor:
        """Tell which elements are 0 or 1, in a row with a single 1."""
        return ((value == 0) | (value == 1)) & ((value == 1).sum(-1, keepdim=True) == 1)

    @staticmethod
    def log_odds(value: Tensor) -> Tensor:
        """Return the log shares of the states, half a count added to each."""
        return ((value.sum(0) + 0.5) / (len(value) + 0.5 * value.shape[-1])).log()


PENS: dict[str, type[Pen]] = {"bernoulli": BernoulliPen, "one_hot": OneHotPen}
"""The kinds of pens that have a name."""

PenKind = Literal["bernoulli", "one_hot"] | type[Pen]
"""What ``pen=`` arguments take: a name, or a class."""


def pen_class(pen: PenKind) -> type[Pen]:
    """Return the class of pens that `pen` is or names, or raise ValueError."""
    if isinstance(pen, type) and issubclass(pen, Pen):
        return pen
    if not isinstance(pen, str) or pen not in PENS:
        raise ValueError(f"pen must be 'bernoulli', 'one_hot' or a class of pens, got {pen!r}")
    return PENS[pen]


def pen_name(kind: type[Pen]) -> str:
    """Return the name that `PENS` has for a class of pens, or the class's own."""
    return next((name for name, each in PENS.items() if each is kind), kind.__name__)


def as_pen(given: Distribution) -> Pen:
    """Return a distribution of torch's or of Pyro's as a pen, or raise."""
    if isinstance(given, Pen):
        return given
    validates = given._validate_args if isinstance(given, Distribution) else None
    if isinstance(given, TorchBernoulli):
        return BernoulliPen(given.logits, validates)
    if isinstance(given, TorchOneHotCategorical):
        if not tracing() and static_size(given.event_shape[0]) == 1:
            raise ValueError("pen must have two states or more, got one")
        return OneHotPen(given.logits, validates)
    raise TypeError(f"pen must be a Bernoulli or a OneHotCategorical, got {type(given).__name__}")
