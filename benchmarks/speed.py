"""Time scoring, sampling and generating against torch's own and other ways, as ratios in one run.

    python benchmarks/speed.py --json speed.json
    python benchmarks/speed.py --only loss peers
    python benchmarks/speed.py --growth growth.png

Each ratio is ours over the other, from the medians of interleaved runs in one process: below 1,
ours is faster. Peers that are not installed are left out; ``pip install -e ".[benchmarks]"`` brings
them. Before it is timed, a peer's answer is held against ours. Rows in parentheses have no target.
"""

import json
from collections.abc import Callable
from dataclasses import asdict
from importlib.util import find_spec

import torch
from options import Parser, errors_in_one_line, within, writable, write
from speed_draws import mode_ratios, rsample_ratios, sample_ratios
from speed_growth import growth
from speed_libraries import fit_ratios, peer_ratios
from speed_mixtures import mixture_ratios, shared_ratios
from speed_networks import import_ratios, lstm_ratios, step_ratios
from speed_scores import (
    bare_ratios,
    care_ratios,
    diagonal_ratios,
    head_ratios,
    loss_ratios,
    memory_ratios,
)
from timing import Ratio

GROUPS: dict[str, Callable[[int], list[Ratio]]] = {
    "loss": loss_ratios,
    "care": care_ratios,
    "bare": bare_ratios,
    "diagonal": diagonal_ratios,
    "head": head_ratios,
    "memory": memory_ratios,
    "shared": shared_ratios,
    "mixture": mixture_ratios,
    "sample": sample_ratios,
    "rsample": rsample_ratios,
    "mode": mode_ratios,
    "step": step_ratios,
    "lstm": lstm_ratios,
    "peers": peer_ratios,
    "fit": fit_ratios,
    "import": import_ratios,
}


@errors_in_one_line()
def main() -> None:
    """Runs the groups asked for and prints one table."""
    parser = Parser(__doc__)
    parser.add_argument("--only", nargs="+", choices=GROUPS, default=list(GROUPS))
    parser.add_argument("--repeats", type=within(int, 1, 10_000), default=40, help="of each run")
    parser.add_argument("--threads", type=within(int, 1, 1024), default=2)
    parser.add_argument("--json", type=writable, help="write the ratios here too")
    parser.add_argument("--growth", type=writable, help="plot growth with N, K and D here")
    arguments = parser.parse_args()
    if arguments.growth and arguments.growth.suffix not in (".png", ".svg"):
        parser.error(f"argument --growth: expected a .png or .svg file, got {arguments.growth}")
    if arguments.growth and not find_spec("matplotlib"):
        parser.error('argument --growth: needs matplotlib: pip install -e ".[benchmarks]"')
    torch.manual_seed(0)
    torch.set_num_threads(arguments.threads)
    print(f"{'ours / other':>12}  {'target':>6}")
    ratios = []
    for group in arguments.only:
        for ratio in GROUPS[group](arguments.repeats):
            target = f"{ratio.target:6.3f}" if ratio.target else " " * 6
            print(f"{ratio.ratio:12.3f}  {target}  {ratio.what}", flush=True)
            ratios.append(ratio)
    if arguments.json:
        text = json.dumps([asdict(ratio) for ratio in ratios], indent=1) + "\n"
        write(arguments.json, text.encode())
    if arguments.growth:
        growth(arguments.growth)


if __name__ == "__main__":
    main()
