"""Files of handwriting.py that were damaged, cut, made elsewhere or made up are refused."""

import json
import random

import pytest
import torch

from mdn_dist import PredictionNetwork
from mdn_dist.data import Normalization

safetensors = pytest.importorskip("safetensors", reason="the examples extra is not installed")
save = pytest.importorskip("safetensors.torch").save

SIZES = {"hidden_size": 3, "layers": 2, "components": 2}
NORMALIZATION = {"loc_x": 0.0, "loc_y": 0.5, "scale_x": 2.0, "scale_y": 2.0}
OPTIONS = {"steps": 9, "seed": 0, "learning_rate": 5e-3, "data": None}


@pytest.fixture
def files(script):
    return script("model_files")


@pytest.fixture
def refusal(script):
    return script("command_line").Refusal


def make_network():
    network = PredictionNetwork(**SIZES)
    optimizer = torch.optim.Adam(network.parameters())
    strokes = torch.randn(2, 5, 3)
    strokes[..., 2] = 1
    distribution, _ = network(strokes[:, :-1])
    (-distribution.log_prob(strokes[:, 1:]).sum()).backward()
    optimizer.step()
    return network, optimizer


@pytest.fixture
def model(files, tmp_path):
    """A file of a model, and what is in it."""
    network, _ = make_network()
    path = tmp_path / "model.safetensors"
    made = files.Model(SIZES, network, Normalization.from_dict(NORMALIZATION), 17)
    files.save_model(made, path)
    return path, made


@pytest.fixture
def checkpoint(files, tmp_path):
    """A file of a checkpoint, and the network and the optimizer that it is of."""
    network, optimizer = make_network()
    path = tmp_path / "checkpoint.safetensors"
    files.save_checkpoint(path, OPTIONS, 5, network, optimizer)
    return path, network, optimizer


def contents(path):
    with safetensors.safe_open(path, "pt", backend="pread") as file:
        return {name: file.get_tensor(name) for name in file.keys()}, file.metadata()  # noqa: SIM118


def rewrite(files, path, tensors, texts, *, checksum=True):
    """Writes a file as a person would who knows its format, checksum and all."""
    texts = {name: text for name, text in texts.items() if name != "sha256"}
    if checksum:
        texts["sha256"] = files._checksum(tensors, texts)
    path.write_bytes(save(tensors, texts))


def resumed(files, path):
    """Reads a checkpoint into a network made anew, as `--resume` does."""
    network = PredictionNetwork(**SIZES)
    optimizer = torch.optim.Adam(network.parameters())
    saved = files.load_checkpoint(path)
    saved.check_options(OPTIONS)
    saved.restore(network, optimizer)
    return network, optimizer


def assert_same_tensors(ours, theirs):
    assert ours.keys() == theirs.keys()
    for name, tensor in ours.items():
        assert torch.equal(tensor, theirs[name]), name


def test_a_model_is_read_as_it_was_written(files, model):
    path, made = model
    read = files.load_model(path)
    assert_same_tensors(read.network.state_dict(), made.network.state_dict())
    assert all(weight.requires_grad for weight in read.network.parameters())
    assert read.normalization.to_dict() == NORMALIZATION
    assert (read.sizes, read.typical_length) == (SIZES, 17)


def test_a_model_without_a_checksum_is_read_too(files, model):
    path, made = model
    rewrite(files, path, *contents(path), checksum=False)
    read = files.load_model(path)
    assert_same_tensors(read.network.state_dict(), made.network.state_dict())


def test_a_checkpoint_is_read_as_it_was_written(files, checkpoint):
    path, network, optimizer = checkpoint
    read, restored = resumed(files, path)
    assert_same_tensors(read.state_dict(), network.state_dict())
    for ours, theirs in zip(read.parameters(), network.parameters(), strict=True):
        assert_same_tensors(restored.state[ours], optimizer.state[theirs])
    assert files.load_checkpoint(path).step == 5


def test_a_checkpoint_needs_its_checksum(files, refusal, checkpoint):
    path, *_ = checkpoint
    rewrite(files, path, *contents(path), checksum=False)
    with pytest.raises(refusal, match="it has no checksum"):
        files.load_checkpoint(path)


# What a text beside the tensors of a model may be changed to, and what is then said of it.
TEXTS = {
    "config": [
        ("", "config as JSON"),
        ("{", "config as JSON"),
        ("[" * 9000, "config as JSON"),
        ("1" * 9000, "config as JSON"),
        ("null", "config must give"),
        ("[3, 2, 2]", "config must give"),
        (json.dumps(SIZES | {"bias": 1}), "config must give"),
        ('{"hidden_size": 3, "layers": 2}', "config must give"),
        *(
            (json.dumps(SIZES | {name: value}), f"{name} must be from")
            for name in SIZES
            for value in (0, -1, 10**9, 10**30, 2.0, "2", True, None, [2], float("nan"))
        ),
        (json.dumps(SIZES | {"layers": 1}), "tensor head.linear.weight"),
        (json.dumps(SIZES | {"layers": 3}), "tensor head.linear.weight"),
        (json.dumps(SIZES | {"hidden_size": 1000, "layers": 10}), "tensor head.linear.weight"),
        (json.dumps(SIZES | {"components": 3}), "tensor head.linear.bias"),
    ],
    "normalization": [
        ("", "normalization as JSON"),
        ("null", "normalization: "),
        ("3", "normalization: "),
        ("[1, 2, 3, 4]", "normalization: "),
        ('"loc_x loc_y scale_x scale_y"', "normalization: "),
        ('{"loc_x": 0}', "normalization: "),
        *(
            (json.dumps(NORMALIZATION | {"scale_x": value}), "normalization: ")
            for value in (0, -1.0, float("nan"), float("inf"), 10**400, None, [], {}, "x")
        ),
        (json.dumps(NORMALIZATION | {"scale_y": 1e30}), "offsets of a size"),
        (json.dumps(NORMALIZATION | {"scale_y": 1e-300}), "offsets of a size"),
        (json.dumps(NORMALIZATION | {"loc_x": -1e300}), "offsets of a size"),
    ],
    "typical_length": [
        (text, "typical_length")
        for text in ("", "x", "0", "-3", "1.5", "true", "[3]", "null", "1e3", "9" * 9000, "10001")
    ],
}


@pytest.mark.parametrize(
    ("name", "text", "words"),
    [(name, text, words) for name, cases in TEXTS.items() for text, words in cases],
)
def test_texts_that_make_no_sense_are_refused(files, refusal, model, name, text, words):
    path, _ = model
    tensors, texts = contents(path)
    rewrite(files, path, tensors, texts | {name: text})
    with pytest.raises(refusal, match=words) as error:
        files.load_model(path)
    assert str(error.value).startswith(f"{path}: ")


def changed(tensors, kind):
    """Changes the tensors of a file in one way."""
    name = "head.linear.bias" if "head.linear.bias" in tensors else "network.head.linear.bias"
    bias = tensors[name]
    return {
        "missing": {other: t for other, t in tensors.items() if other != name},
        "more": tensors | {"another": bias.clone()},
        "longer": tensors | {name: torch.cat([bias, bias])},
        "reshaped": tensors | {name: bias[None]},
        "empty": tensors | {name: bias[:0]},
        "double": tensors | {name: bias.double()},
        "integers": tensors | {name: bias.int()},
        "boolean": tensors | {name: bias > 0},
        "NaN": tensors | {name: torch.full_like(bias, torch.nan)},
        "infinite": tensors | {name: torch.full_like(bias, torch.inf)},
        "huge": tensors | {name: torch.full_like(bias, 3e38)},
        "none at all": {},
    }[kind]


KINDS = {
    "missing": "tensor .*head.linear.bias has another shape",
    "more": "tensor another has another shape",
    "longer": "another shape",
    "reshaped": "another shape",
    "empty": "another shape",
    "double": "F64",
    "integers": "I32",
    "boolean": "BOOL",
    "NaN": "finite weights",
    "infinite": "finite weights",
    "huge": "finite weights",
    "none at all": "F32",
}


@pytest.mark.parametrize("kind", KINDS)
def test_tensors_that_are_none_of_the_network_are_refused(files, refusal, model, checkpoint, kind):
    path, _ = model
    tensors, texts = contents(path)
    rewrite(files, path, changed(tensors, kind), texts)
    with pytest.raises(refusal, match=KINDS[kind]):
        files.load_model(path)
    path, *_ = checkpoint
    tensors, texts = contents(path)
    rewrite(files, path, changed(tensors, kind), texts)
    with pytest.raises(refusal, match=KINDS[kind]):
        resumed(files, path)


@pytest.mark.parametrize(
    ("name", "text"),
    [("options", text) for text in ("", "3", "[]", "[" * 9000)]
    + [("step", text) for text in ("", "0", "-1", "1.5", "true", '"5"', "null")],
)
def test_checkpoints_of_no_run_are_refused(files, refusal, checkpoint, name, text):
    path, *_ = checkpoint
    tensors, texts = contents(path)
    rewrite(files, path, tensors, texts | {name: text})
    with pytest.raises(refusal):
        files.load_checkpoint(path)


def test_other_options_are_named_with_what_they_were(files, refusal, checkpoint):
    path, *_ = checkpoint
    saved = files.load_checkpoint(path)
    saved.check_options(OPTIONS)
    for name, value in {"seed": 1, "learning_rate": 1e-3, "data": "sha256 ab", "steps": 8}.items():
        option = f"--{name.replace('_', '-')} {OPTIONS[name]}, got {value}"
        with pytest.raises(refusal, match=option):
            saved.check_options(OPTIONS | {name: value})
    with pytest.raises(refusal, match="only a finished run takes more steps"):
        saved.check_options(OPTIONS | {"steps": 10})


def test_a_finished_run_takes_more_steps_and_not_less(files, refusal, checkpoint):
    path, network, optimizer = checkpoint
    files.save_checkpoint(path, OPTIONS, 9, network, optimizer)
    saved = files.load_checkpoint(path)
    saved.check_options(OPTIONS | {"steps": 9})
    saved.check_options(OPTIONS | {"steps": 10})
    with pytest.raises(refusal, match="--steps 9, got 8"):
        saved.check_options(OPTIONS | {"steps": 8})


# ----------------------------------------------------------------------------------------- fuzzed


def damaged(content, rng):
    """Damages the bytes of a file in one of the ways that disks, copies and editors do."""
    at = rng.randrange(len(content))
    few = bytes(rng.randrange(256) for _ in range(rng.randrange(1, 9)))
    kind = rng.randrange(6)
    if kind == 0:
        return content[:at]
    if kind == 1:
        return content[:at] + few + content[at:]
    if kind == 2:
        return content[:at] + content[at + len(few) :]
    if kind == 3:
        return content[:at] + few + content[at + len(few) :]
    header = int.from_bytes(content[:8], "little")
    if kind == 4:  # where most can go wrong
        at = rng.randrange(8 + header)
    byte = content[at] ^ 1 << rng.randrange(8)
    return content[:at] + bytes([byte]) + content[at + 1 :]


def made_up(files, path, tensors, texts, rng):
    """Rewrites a file with something in it that a person made up, under a right checksum."""
    values = [0, -1, 1, 2, 3, 1e9, 10**12, 0.5, None, True, "x", "", [], {}, [[1]], {"a": 1}]
    name = rng.choice(sorted(texts.keys() - {"sha256"}))
    text = json.loads(texts[name])
    value = rng.choice(values)
    if isinstance(text, dict) and rng.random() < 0.8:
        text[rng.choice([*text, "another"])] = value
    else:
        text = value
    texts = texts | {name: json.dumps(text)}
    if rng.random() < 0.5:
        tensors = changed(tensors, rng.choice(list(KINDS)))
    rewrite(files, path, tensors, texts)


def read_or_refused(files, refusal, path):
    """Returns the weights of a model or of a run, or None where its file is refused."""
    try:
        if path.stem == "model":
            return files.load_model(path).network.state_dict()
        return resumed(files, path)[0].state_dict()
    except refusal as error:
        if str(path) in str(error):
            return None
        raise


def fuzz(files, refusal, path, trials, seed):
    """Returns how many damaged or made-up files were refused; no damage may change a weight."""
    content = path.read_bytes()
    tensors, texts = contents(path)
    written = read_or_refused(files, refusal, path)
    rng = random.Random(seed)
    count = 0
    for trial in range(trials):
        if trial % 4:
            path.write_bytes(damaged(content, rng))
        else:
            made_up(files, path, tensors, texts, rng)
        weights = read_or_refused(files, refusal, path)
        if weights is None:
            count += 1
        elif trial % 4:
            assert_same_tensors(weights, written)
    return count


@pytest.mark.parametrize("kind", ["model", "checkpoint"])
def test_damaged_and_made_up_files_are_refused(files, refusal, kind, request):
    path = request.getfixturevalue(kind)[0]
    assert fuzz(files, refusal, path, trials=300, seed=0) > 250


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["model", "checkpoint"])
def test_20_000_damaged_and_made_up_files_are_refused(files, refusal, kind, request):
    path = request.getfixturevalue(kind)[0]
    assert fuzz(files, refusal, path, trials=20_000, seed=1) > 17_000


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["model", "checkpoint"])
def test_no_flipped_bit_changes_a_weight(files, refusal, kind, request):
    path = request.getfixturevalue(kind)[0]
    content = path.read_bytes()
    written = read_or_refused(files, refusal, path)
    for place in range(len(content)):
        flipped = bytearray(content)
        flipped[place] ^= 1 << place % 8
        path.write_bytes(flipped)
        weights = read_or_refused(files, refusal, path)
        if weights is not None:
            assert_same_tensors(weights, written)
