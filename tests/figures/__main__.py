"""`scripts/figures`: measure what is asked for, and write it to docs/figures.md. 1 if a bar was missed."""

import argparse
import signal
import sys
from collections.abc import Callable, Mapping

from figures import daemon, graph, million, page

Part = tuple[str, Callable[[argparse.Namespace], tuple[str, list[str]]]]
"""A heading, and what measures the text below it and says which bars were missed."""

PARTS: Mapping[str, Part] = {**graph.PARTS, **daemon.PARTS, **million.PARTS}


def main() -> int:
    """Each part in turn; what one has measured stays when the next is interrupted."""
    parser = argparse.ArgumentParser(prog="scripts/figures", description=__doc__)
    parser.add_argument("--part", action="append", choices=PARTS, help="only this part of the page; may be repeated")
    parser.add_argument("--samples", type=int, default=100, metavar="N", help="samples of each latency")
    parser.add_argument("--idle-minutes", type=float, default=10, metavar="N", help="how long to be idle")
    parser.add_argument("--tasks", type=int, default=100, metavar="N", help="tasks of the graph")
    parser.add_argument("--events", type=int, default=1_000_000, metavar="N", help="events of the large database")
    parser.add_argument("--only", metavar="WORD", help="of the large database, only figures with it in their name")
    wanted = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # the worlds are cleared away
    missed = []
    for name in wanted.part or PARTS:
        heading, measure = PARTS[name]
        circumstances = page.Circumstances(" ".join(["scripts/figures", *sys.argv[1:]]))
        text, bars = measure(wanted)
        page.write(heading, f"{text.rstrip()}\n\n{circumstances.told()}", order=[each for each, _ in PARTS.values()])
        print(f"{name}: {'; '.join(bars) or 'as it should be'}\n{text}", flush=True)
        missed += bars
    return int(bool(missed))


if __name__ == "__main__":
    sys.exit(main())
