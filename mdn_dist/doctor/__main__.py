"""Print what is wrong with a loss: ``python -m mdn_dist.doctor module:loss``."""

import argparse
import importlib
import sys
from typing import Any

from torch import nn

from mdn_dist.doctor.diagnosis import diagnose


def main(arguments: list[str] | None = None) -> int:
    """Diagnose the loss that a command line names; return 1 if it has faults, or else 0."""
    parser = argparse.ArgumentParser("python -m mdn_dist.doctor", description=__doc__)
    parser.add_argument("loss", help="module:name of a function, an nn.Module or its class")
    parser.add_argument("--components", type=int, default=20, help="K, 20 by default")
    parser.add_argument("--mask", action="store_true", help="the loss takes a mask, too")
    parser.add_argument(
        "--whole-sequences", action="store_true", help="the loss itself scores the next point"
    )
    parser.add_argument("--half", action="store_true", help="it is to take half precision")
    given = parser.parse_args(arguments)
    try:
        report = diagnose(
            _load(given.loss),
            given.components,
            mask=given.mask,
            whole_sequences=given.whole_sequences,
            half=given.half,
        )
    except (TypeError, ValueError) as error:
        parser.exit(2, f"{parser.prog}: {' '.join(str(error).split())}\n")
    print(report)
    return 1 if report.faults else 0


def _load(name: str) -> Any:
    """Return what ``module:name`` names, an instance of it if it is a class of modules."""
    module, _, attribute = name.partition(":")
    if not (module and attribute):
        raise ValueError(f"loss must be named as module:name, got {name!r}")
    try:
        loss: Any = importlib.import_module(module)
        for part in attribute.split("."):
            loss = getattr(loss, part)
        if isinstance(loss, type) and issubclass(loss, nn.Module):
            loss = loss()
    except (Exception, SystemExit) as error:
        raise ValueError(f"{name} cannot be imported: {type(error).__name__}: {error}") from error
    return loss


if __name__ == "__main__":
    sys.exit(main())
