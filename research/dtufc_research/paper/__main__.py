"""`make results`: measures every curve, and writes the paper's tables and figures to docs/results."""

import argparse
import sys
from pathlib import Path

import torch

from dtufc_research.paper.measure import PROFILES, is_trained, measure, names, of_one_network
from dtufc_research.paper.points import load_points
from dtufc_research.paper.report import write, write_pages
from dtufc_research.paper.rows import BASELINE, HYBRID, point_table

_NEEDED = (HYBRID, BASELINE)  # without them there is no page
RESULTS = Path(__file__).parents[3] / "docs" / "results"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    curves = parser.add_mutually_exclusive_group()
    curves.add_argument(
        "--measure",
        nargs="+",
        choices=names(),
        metavar="CURVE",
        help=f"only measure these and print their points, of {', '.join(names())}",
    )
    curves.add_argument(
        "--remeasure",
        nargs="+",
        choices=names(),
        metavar="CURVE",
        help="measure these again, and the other curves of their networks; keep the pages' points of the others",
    )
    curves.add_argument(
        "--pages-only", action="store_true", help="write the pages from the kept numbers; measure nothing"
    )
    parser.add_argument("--tasks", nargs="+", choices=list(PROFILES), default=list(PROFILES), help="only on these")
    arguments = parser.parse_args()
    if arguments.pages_only:
        write_pages(RESULTS)
        return 0
    chosen, tasks = arguments.measure or of_one_network(arguments.remeasure or ()), arguments.tasks
    if tasks != list(PROFILES) and not arguments.measure:
        parser.error("the pages need every task: --tasks goes with --measure")
    needed = dict.fromkeys([*chosen, *(() if arguments.measure else _NEEDED)])
    untrained = [name for name in needed if not is_trained(name)]
    if untrained:
        parser.error(f"no network is trained for {', '.join(untrained)}: run `make networks` first")
    before = load_points(RESULTS / "points.json") if arguments.remeasure else []
    kept = [point for point in before if point.curve in names() and point.curve not in chosen]
    torch.set_num_threads(1)
    wanted = chosen or [name for name in names() if is_trained(name)]
    points = [point for name in wanted for point in measure(name, tasks)]
    if arguments.measure:
        print(point_table(points).markdown())
    else:
        write(points, kept, RESULTS)
    return 0


if __name__ == "__main__":
    sys.exit(main())
