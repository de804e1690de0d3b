"""The files of handwriting.py, models and checkpoints: whole when written, not trusted when read.

Both are safetensors, float32 tensors with texts beside them. One of the texts is a checksum of all
the rest, so that a damaged file is not taken for another model. Whatever is wrong with a file,
reading it raises a `Refusal` that names it.
"""

import hashlib
import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import safetensors.torch
import torch
from command_line import Refusal, replacing
from safetensors import SafetensorError, safe_open
from torch import Tensor

from mdn_dist import PredictionNetwork, data

SIZES = {"hidden_size": (1, 1000), "layers": (1, 10), "components": (1, 200)}
CHECKSUM = "sha256"
MOST_BYTES = 2 << 30  # the largest network and its optimizer take half of it
MOST_HEADER_BYTES = 1 << 20  # names, shapes and texts
MOST_POINTS = 10_000  # of a typical drawing
LARGEST_WEIGHT = 1e10  # the outputs of larger ones may overflow
UNITS = (1e-20, 1e20)  # of offsets: others overflow, or vanish, when they are added up


class Model(NamedTuple):
    """A network of known sizes, with what makes drawings of its strokes."""

    sizes: dict[str, int]
    network: PredictionNetwork
    normalization: data.Normalization
    typical_length: int  # points of a drawing


def save_model(model: Model, path: Path) -> None:
    """Writes the weights, with the sizes and the normalisation beside them."""
    texts = {
        "config": json.dumps(model.sizes),
        "normalization": json.dumps(model.normalization.to_dict()),
        "typical_length": str(model.typical_length),
    }
    _write(path, model.network.state_dict(), texts)


def load_model(path: Path) -> Model:
    """Reads what :func:`save_model` wrote."""
    tensors, texts = _read(path)
    sizes = _parse(path, texts, "config")
    if not isinstance(sizes, dict) or sizes.keys() != SIZES.keys():
        raise Refusal(f"{path}: config must give {', '.join(SIZES)}, got {sizes!r}")
    for name, (least, most) in SIZES.items():
        if type(sizes[name]) is not int or not least <= sizes[name] <= most:
            raise Refusal(f"{path}: {name} must be from {least} to {most}, got {sizes[name]!r}")
    network = PredictionNetwork(**sizes, device="meta")  # takes no memory yet
    _check_shapes(path, tensors, network.state_dict())
    if not sound(tensors.values()):
        raise Refusal(f"{path}: expected finite weights up to {LARGEST_WEIGHT:g}, got others")
    network.to_empty(device="cpu").load_state_dict(tensors)
    try:
        normalization = data.Normalization.from_dict(_parse(path, texts, "normalization"))
    except (TypeError, ValueError, OverflowError) as error:
        raise Refusal(f"{path}: normalization: {error}") from error
    check_unit(path, normalization)
    length = _parse(path, texts, "typical_length")
    if type(length) is not int or not 1 <= length <= MOST_POINTS:
        raise Refusal(f"{path}: typical_length must be from 1 to {MOST_POINTS}, got {length!r}")
    return Model(sizes, network, normalization, length)


def sound(weights: Iterable[Tensor]) -> bool:
    """Returns whether a network can write with its weights."""
    return all((weight.abs() <= LARGEST_WEIGHT).all() for weight in weights)  # NaN is not


def check_unit(where: object, normalization: data.Normalization) -> None:
    """Refuses offsets of a size that cannot be added up in float32."""
    loc, scale = normalization.loc, normalization.scale
    if not ((scale >= UNITS[0]) & (scale <= UNITS[1]) & (loc.abs() <= UNITS[1])).all():
        sizes = f"from {UNITS[0]:g} to {UNITS[1]:g}"
        raise Refusal(f"{where}: expected offsets of a size {sizes}, got {scale.tolist()}")


class Checkpoint(NamedTuple):
    """Where a run is."""

    path: Path
    options: dict[str, Any]  # that decide what its steps do
    step: int  # steps taken
    tensors: dict[str, Tensor]  # that the next step changes

    def check_options(self, options: Mapping[str, Any]) -> None:
        """Refuses to go on with other options."""
        for name, given in options.items():
            had = self.options.get(name)
            if had != given and not (name == "steps" and had == self.step < given):
                why = "; only a finished run takes more steps" if name == "steps" else ""
                option = f"--{name.replace('_', '-')}"
                raise Refusal(f"{self.path}: expected its run's {option} {had}, got {given}{why}")

    def restore(self, network: PredictionNetwork, optimizer: torch.optim.Adam) -> None:
        """Gives a network and its optimizer the values that they had."""
        state = _training_state(network, optimizer)
        _check_shapes(self.path, self.tensors, state)
        if not sound(self.tensors[name] for name in state if name.startswith("network.")):
            raise Refusal(f"{self.path}: expected finite weights, got others")
        with torch.no_grad():
            for name, tensor in state.items():
                tensor.copy_(self.tensors[name])


def save_checkpoint(
    path: Path,
    options: Mapping[str, Any],
    step: int,
    network: PredictionNetwork,
    optimizer: torch.optim.Adam,
) -> None:
    """Writes where a run is."""
    texts = {"options": json.dumps(options), "step": str(step)}
    _write(path, _training_state(network, optimizer), texts)


def load_checkpoint(path: Path) -> Checkpoint:
    """Reads what :func:`save_checkpoint` wrote."""
    if not path.exists():
        raise Refusal(f"--resume: expected {path}, which a run writes now and then, got nothing")
    tensors, texts = _read(path)
    if CHECKSUM not in texts:
        raise Refusal(f"{path}: damaged: it has no checksum")
    options, step = (_parse(path, texts, name) for name in ("options", "step"))
    if not isinstance(options, dict) or type(step) is not int or step < 1:
        raise Refusal(f"{path}: expected the options of a run and its step, got others")
    return Checkpoint(path, options, step, tensors)


def _training_state(network: PredictionNetwork, optimizer: torch.optim.Adam) -> dict[str, Tensor]:
    """Returns by name, not copied, the tensors that a step changes."""
    state = {f"network.{name}": tensor for name, tensor in network.state_dict().items()}
    for name, weight in network.named_parameters():
        moments = optimizer.state[weight]
        if not moments:  # Adam itself makes them at its first step
            moments["step"] = torch.tensor(0.0)
            moments |= {key: torch.zeros_like(weight) for key in ("exp_avg", "exp_avg_sq")}
        state |= {f"{key}.{name}": tensor for key, tensor in moments.items()}
    return state


def _write(path: Path, tensors: dict[str, Tensor], texts: dict[str, str]) -> None:
    texts = texts | {CHECKSUM: _checksum(tensors, texts)}
    content = safetensors.torch.save(tensors, texts)  # a full disk is then Python's to report
    with replacing(path) as (unfinished,):
        unfinished.write_bytes(content)


def _read(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Returns the tensors and the texts; models, but no checkpoints, were once without checksum."""
    with path.open("rb") as head:
        header = int.from_bytes(head.read(8), "little")
    if header > MOST_HEADER_BYTES or path.stat().st_size > MOST_BYTES:
        raise Refusal(f"{path}: no model or checkpoint file, or too large a one")
    try:
        # Not mapped into memory, where another program could cut the file off under us.
        with safe_open(path, "pt", backend="pread") as file:
            texts = file.metadata() or {}
            types = {name: file.get_slice(name).get_dtype() for name in file.keys()}  # noqa: SIM118
            if set(types.values()) != {"F32"}:
                raise Refusal(f"{path}: expected tensors of type F32, got {types}")
            tensors = {name: file.get_tensor(name) for name in types}
    except SafetensorError as error:
        raise Refusal(f"{path}: damaged, or no safetensors file: {error}") from error
    if CHECKSUM in texts and texts[CHECKSUM] != _checksum(tensors, texts):
        raise Refusal(f"{path}: damaged: its checksum is of other contents")
    return tensors, texts


def _checksum(tensors: Mapping[str, Tensor], texts: Mapping[str, str]) -> str:
    shapes = {name: tuple(tensor.shape) for name, tensor in tensors.items()}
    told = {name: text for name, text in texts.items() if name != CHECKSUM}
    checksum = hashlib.sha256(json.dumps([told, shapes], sort_keys=True).encode())
    for name in sorted(tensors):
        checksum.update(tensors[name].reshape(-1).numpy())
    return checksum.hexdigest()


def _parse(path: Path, texts: Mapping[str, str], name: str) -> object:
    """Reads one of the texts as JSON."""
    try:
        return json.loads(texts.get(name, ""))
    except (ValueError, RecursionError) as error:
        raise Refusal(f"{path}: expected {name} as JSON beside the tensors: {error}") from error


def _check_shapes(
    path: Path, tensors: Mapping[str, Tensor], expected: Mapping[str, Tensor]
) -> None:
    """Refuses tensors of other names or shapes than the expected ones."""
    got, wanted = (
        {name: tuple(tensor.shape) for name, tensor in each.items()} for each in (tensors, expected)
    )
    for name in sorted(got.keys() | wanted.keys()):
        if got.get(name) != wanted.get(name):
            shapes = f"expected {wanted.get(name)}, got {got.get(name)}"
            raise Refusal(f"{path}: tensor {name} has another shape: {shapes}")
