"""Every import runs downward, importing changes nothing, and what is public is explained."""

import ast
import graphlib
import inspect
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import mdn_dist
import mdn_dist.data
import mdn_dist.doctor
import mdn_dist.plotting

PACKAGE = Path(mdn_dist.__file__).parent
# Each module may import those before it; `_maths` is a package, and its modules one tower more.
TOWER = [
    "_torch",
    "_checks",
    "calibration",
    "_maths",
    "outputs",
    "_fused",
    "_pyro",
    "_container",
    "_batch",
    "regions",
    "mixture",
    "pens",
    "_points",
    "stroke",
    "head",
    "networks",
]
MATHS = [
    "floats",
    "gradients",
    "maps",
    "growth",
    "parameters",
    "density",
    "draw",
    "conditionals",
    "pathwise",
    "rosenblatt",
    "algebra",
    "scores",
    "intervals",
    "divergences",
    "modes",
    "peaks",
    "batches",
    "em",
]
# These may import the tower up to `stroke`, and their own package, and nothing imports them.
BESIDE = ["sampling", "plotting", "data", "doctor"]
OPTIONAL = {"matplotlib"}


def module_name(path):
    name = ".".join(path.relative_to(PACKAGE.parent).with_suffix("").parts)
    return name.removesuffix(".__init__")


SOURCES = {module_name(path): path.read_text() for path in sorted(PACKAGE.rglob("*.py"))}


def imported(node):
    """Full names that an import statement brings in; a relative one keeps its dots."""
    if isinstance(node, ast.Import):
        return [alias.name for alias in node.names]
    return ["." * node.level + (node.module or "")]


def imports(tree):
    found = (node for node in ast.walk(tree) if isinstance(node, ast.Import | ast.ImportFrom))
    return [name for node in found for name in imported(node)]


def part(name):
    """The first part below the package: `mdn_dist.data.strokes` belongs to `data`."""
    return name.split(".")[1] if "." in name else ""


def allowed(name):
    """The parts that a module may import, those of `_maths` by their names there."""
    if part(name) == "_maths" and name != "mdn_dist._maths":
        inner = name.split(".")[2]
        return ["_torch", "_checks", *(f"_maths.{m}" for m in MATHS[: MATHS.index(inner)])]
    if part(name) in TOWER:
        below = TOWER[: TOWER.index(part(name))]
    else:
        assert part(name) in BESIDE, f"{name} has no place in the layout: add it to TOWER or BESIDE"
        below = [*TOWER[: TOWER.index("stroke") + 1], part(name)]
    return [*below, *(f"_maths.{m}" for m in MATHS if "_maths" in below)]


def upward_imports(name, source):
    own = [i for i in imports(ast.parse(source)) if i.startswith(("mdn_dist", "."))]
    parts = {i: ".".join(i.split(".")[1 : 2 + i.startswith("mdn_dist._maths")]) for i in own}
    return [i for i in own if i.startswith(".") or parts[i] not in allowed(name)]


def imports_inside_functions(source):
    functions = (
        node
        for node in ast.walk(ast.parse(source))
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda)
    )
    return [name for node in functions for name in imports(node)]


@pytest.mark.parametrize("name", [name for name in SOURCES if name != "mdn_dist"])
def test_imports_run_downward(name):
    assert upward_imports(name, SOURCES[name]) == []


@pytest.mark.parametrize("name", SOURCES)
def test_only_optional_packages_are_imported_inside_functions(name):
    inside = {i.split(".")[0] for i in imports_inside_functions(SOURCES[name])}
    assert inside <= OPTIONAL


@pytest.mark.parametrize(
    ("name", "source"),
    [
        ("mdn_dist.mixture", "from mdn_dist.stroke import StrokeDistribution"),
        ("mdn_dist.mixture", "import mdn_dist.mixture"),
        ("mdn_dist._maths.maps", "from mdn_dist._maths.density import whiten"),
        ("mdn_dist._maths.em", "from mdn_dist.outputs import Bounds"),
        ("mdn_dist.stroke", "from .mixture import GaussianMixture"),
        ("mdn_dist.stroke", "from mdn_dist import GaussianMixture"),
        ("mdn_dist.stroke", "def late():\n    import mdn_dist.head"),
        ("mdn_dist.sampling", "from mdn_dist.networks import PredictionNetwork"),
        ("mdn_dist.head", "from mdn_dist.data import read"),
        ("mdn_dist.data.strokes", "from mdn_dist.plotting import plot_strokes"),
        ("mdn_dist.doctor.cost", "from mdn_dist.head import MixtureDensityHead"),
    ],
)
def test_an_upward_import_is_noticed(name, source):
    assert upward_imports(name, source)


def test_a_late_import_is_noticed():
    assert imports_inside_functions("class A:\n  def f(self):\n    import torch.nn") == ["torch.nn"]


@pytest.mark.parametrize("package", ["mdn_dist.data", "mdn_dist.doctor", "mdn_dist.plotting"])
def test_the_modules_of_a_package_have_no_cycle(package):
    graph = {
        name: [i for i in imports(ast.parse(source)) if i.startswith(f"{package}.")]
        for name, source in SOURCES.items()
        if name.startswith(package)
    }
    order = list(graphlib.TopologicalSorter(graph).static_order())
    assert order[-1] in (package, f"{package}.__main__")


def run(code):
    return subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    ).stdout.split()


def test_importing_touches_no_global_state_no_optional_package_and_no_compiler():
    code = """
import sys
import torch
from torch.distributions import Distribution

def state():
    return (
        torch.get_default_dtype(), torch.get_default_device(), torch.get_num_threads(),
        torch.is_grad_enabled(), torch.is_anomaly_enabled(), Distribution._validate_args,
        torch.are_deterministic_algorithms_enabled(), torch.get_rng_state().tolist(),
        torch.initial_seed(),
    )

torch.manual_seed(3)
before = state()
import mdn_dist, mdn_dist.data, mdn_dist.doctor, mdn_dist.plotting
print(before == state(), *(name in sys.modules for name in ("matplotlib", "torch._dynamo")))
"""
    assert run(code) == ["True", "False", "False"]


def test_using_it_imports_no_compiler():
    code = """
import sys
import torch
from mdn_dist import GaussianMixture, MixtureDensityHead, PredictionNetwork, generate

head = MixtureDensityHead(4, 2, event_size=1, pen=None, clip_outputs=1.0)
d = head(torch.zeros(3, 4))
d.log_prob(d.rsample()).sum().backward()
d.icdf(torch.tensor(0.5))
d.rosenblatt(d.sample())
d.biased(0.5).marginal(0).mode
generate(PredictionNetwork(4, 1, 2), 3)
print("torch._dynamo" in sys.modules)
"""
    assert run(code) == ["False"]


PUBLIC = {
    f"{module.__name__}.{name}": getattr(module, name)
    for module in (mdn_dist, mdn_dist.data, mdn_dist.doctor, mdn_dist.plotting)
    for name in module.__all__
}


def documented_members(thing):
    if not inspect.isclass(thing):
        return
    for owner in thing.__mro__:
        if owner.__module__.startswith("mdn_dist"):
            for name, member in vars(owner).items():
                function = member
                for wrapping in ("wrapped", "fget", "__func__"):  # lazy_property, property, method
                    function = getattr(function, wrapping, function)
                if inspect.isroutine(function) and not name.startswith("_"):
                    yield f"{owner.__name__}.{name}", function


@pytest.mark.parametrize("name", PUBLIC)
def test_public_names_are_documented_with_an_example(name):
    thing = PUBLIC[name]
    text = vars(thing).get("__doc__") if inspect.isclass(thing) else thing.__doc__
    assert text, f"{name} has no docstring"
    is_error = inspect.isclass(thing) and issubclass(thing, Exception)
    if callable(thing) and not is_error:
        assert "Example:" in text
        assert ">>> " in text
    undocumented = [
        member for member, function in documented_members(thing) if not function.__doc__
    ]
    assert undocumented == []


CHANGES = {
    "dtype": ("torch.set_default_dtype(torch.float64)", "default dtype from torch.float32"),
    "validation": (
        "torch.distributions.Distribution.set_default_validate_args(False)",
        "validation of distributions from True to False",
    ),
    "threads": ("torch.set_num_threads(1 + torch.get_num_threads())", "threads from"),
    "grad": ("torch.set_grad_enabled(False)", "grad mode from True to False"),
    "deterministic": (
        "torch.use_deterministic_algorithms(True)",
        "deterministic algorithms from False to True",
    ),
}


def test_a_test_that_changes_torchs_global_state_fails(tmp_path):
    shutil.copy(Path(__file__).with_name("conftest.py"), tmp_path)
    tests = [f"def test_{name}():\n    {change}\n" for name, (change, _) in CHANGES.items()]
    tests.append("def test_restored():\n    assert torch.get_default_dtype() == torch.float32\n")
    (tmp_path / "test_changes.py").write_text("import torch\n\n" + "\n".join(tests))
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", str(tmp_path)]
    output = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, check=False)
    assert f"{len(CHANGES) + 1} passed, {len(CHANGES)} errors" in output.stdout
    for _, message in CHANGES.values():
        assert message in output.stdout
