"""Write the cost table of docs/how-to/many-machines.md: measured figures of docs/results/, and what large jobs take.

python docs/make_costs.py            # writes the table
python docs/make_costs.py --check    # exit code 1 when it is stale
"""

from __future__ import annotations

import argparse
import re
import sys
from dataclasses import dataclass
from pathlib import Path

from make_results import questions, tables_of

PAGE = Path(__file__).parent / "how-to" / "many-machines.md"
PART = re.compile(r"(?<=<!-- costs -->\n).*?(?=<!-- end of costs -->)", re.DOTALL)


@dataclass(frozen=True)
class Cost:
    """A measured figure, and the job it is multiplied by.

    Attributes:
        work: what was measured.
        place: task, question, row and column of the figure.
        seconds: of one unit, for a figure of 1.
        unit: what the figure is for.
        job: units of the large job.
        words: the large job, in words.
        rate: the figure is units per second instead of seconds per unit.
    """

    work: str
    place: tuple[str, str, str, str]
    unit: str
    job: float
    words: str
    seconds: float = 1.0
    rate: bool = False

    def row(self) -> str:
        """The row of the table: measured, per unit, for the job in hours."""
        task, name, line, column = self.place
        (found,) = [question for question in questions(task) if question.id == name]
        cells = [cell for table in tables_of(found.record) if (cell := table.cell(line, column)) is not None]
        figure = re.sub(r"[*,]", "", cells[0]).split()[0]
        each = 1 / float(figure) if self.rate else float(figure) * self.seconds
        hours = each * self.job / 3600
        source = f"[measured](../results/{task}.md#{name})"
        return f"| {self.work} | {source} | {each:.3g} s per {self.unit} | {self.words} | {_hours(hours)} |"


def _hours(hours: float) -> str:
    return f"{hours:,.0f} h" if hours >= 10 else f"{hours:.2g} h"


COSTS = (
    Cost("`enhance`, 12 megapixels, fast detail, processor time", ("enhance", "fast-detail", "fast", "processor time"),
         "image", 1e6, "a million photos"),
    Cost("`enhance`, 12 megapixels, full detail, processor time", ("enhance", "fast-detail", "full", "processor time"),
         "image", 1e6, "a million photos"),
    Cost("`quantize`, fine-tuning, CIFAR-10's UNet (35.7 M parameters), batch 4, two threads",
         ("quantize", "training-step", "CIFAR-10 UNet, batch 4", "ours"), "step", 640, "the 640 steps of the default"),
    Cost("`quantize`, packing, Stable Diffusion 1.5, two cores", ("quantize", "packing", "sd15, all", "pack"),
         "million parameters", 12_000, "12 billion parameters", seconds=1e6 / 859_520_964),
    Cost("`distill`, RDD, built-in teacher, batch 64, two threads", ("distill", "speed", "RDD", "ours"),
         "step", 2_100, "the 2,100 steps of the default"),
    Cost("sampling the built-in model in 64 steps, two threads", ("distill", "speed", "milliseconds per image", "64"),
         "image", 1e6, "a million images", seconds=1e-3),
    Cost("sampling its student in 1 step, two threads", ("distill", "speed", "milliseconds per image", "1"),
         "image", 1e6, "a million images", seconds=1e-3),
    Cost("`rl-distill`, one policy, CartPole, two threads", ("rl-distill", "speed", "ours, one policy", "CartPole"),
         "step", 1e6, "a million steps", rate=True),
    Cost("`rl-distill`, one policy, Pong, two threads", ("rl-distill", "speed", "ours, one policy", "Pong"),
         "step", 1e7, "ten million steps", rate=True),
)  # fmt: skip


def page() -> str:
    """The page with the table written anew."""
    rows = [
        "| work | source | per unit | job | takes |",
        "|---|---|---|---|---|",
        *(cost.row() for cost in COSTS),
    ]
    return PART.sub(lambda _: "\n" + "\n".join(rows) + "\n\n", PAGE.read_text(encoding="utf-8"))


def main() -> int:
    """Write or check; returns the exit code."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--check", action="store_true", help="compare instead of writing")
    text = page()
    if parser.parse_args().check:
        return int(PAGE.read_text(encoding="utf-8") != text)
    PAGE.write_text(text, encoding="utf-8")
    print(PAGE)
    return 0


if __name__ == "__main__":
    sys.exit(main())
