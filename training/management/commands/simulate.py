"""Simulated annotators: judge by a taste, train, and say whether the policy followed.

The demo, the load generator and the experiment in one. What they do is in
training/simulation.py; here it is asked for and printed.
"""

import time
from typing import Any

import httpx
from django.conf import settings
from django.core.management.base import BaseCommand, CommandError, CommandParser
from tqdm import tqdm

from annotation.models import Project
from inference.errors import InferenceError
from inference.models import Policy
from inference.queries import serving_policy
from inference.starter.tastes import TASTES
from training import measuring, simulation
from training.client import ProblemError, Round
from training.errors import SimulationError
from training.measuring import Measure
from training.recipes import PRESETS
from training.simulation import Crew, RoundReport

INTERRUPTED = 130
USUAL_GOAL = 0.8


class Command(BaseCommand):
    help = (
        "Judge as simulated annotators with a stated taste, start rounds, and print "
        "how the answers changed. Everything must be running (make run)."
    )

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("--project", required=True, metavar="SLUG")
        parser.add_argument(
            "--prefer", required=True, choices=sorted(TASTES), help="their taste"
        )
        parser.add_argument(
            "--judgments", type=int, default=60, help="verdicts in each round (60)"
        )
        parser.add_argument(
            "--rounds", type=int, default=2, help="so many, one after the other (2)"
        )
        parser.add_argument(
            "--annotators", type=int, default=4, help="who judge at once (4)"
        )
        parser.add_argument(
            "--noise", type=float, default=0.0, help="share of flipped verdicts, 0 to 1"
        )
        parser.add_argument(
            "--speed",
            type=float,
            default=0.0,
            help="judgments a second for each annotator; 0: as fast as they come",
        )
        parser.add_argument(
            "--url",
            default=f"http://127.0.0.1:{settings.PORT}",
            help="where Tiebreak runs (%(default)s)",
        )
        parser.add_argument(
            "--preset", choices=list(PRESETS), help="of the rounds; else the project's"
        )
        parser.add_argument(
            "--samples",
            type=int,
            default=60,
            help="fresh answers that measure a policy (60)",
        )
        parser.add_argument(
            "--goal",
            type=float,
            help="share of the wanted kind, 0 to 1; below it the command exits with 1",
        )
        parser.add_argument("--seed", type=int, default=0, help="of their noise")

    def handle(self, *args: Any, **options: Any) -> None:
        for name in ("judgments", "rounds", "annotators", "samples"):
            if options[name] < 1:
                raise CommandError(f"--{name} must be at least 1")
        if not 0 <= options["noise"] <= 1:
            raise CommandError("--noise must be from 0 to 1")
        if not options["speed"] >= 0:
            raise CommandError("--speed must be at least 0")
        project = Project.objects.filter(slug=options["project"]).first()
        if project is None:
            known = ", ".join(Project.objects.values_list("slug", flat=True)) or "none"
            raise CommandError(
                f"There is no project “{options['project']}”. There are: {known}."
            )
        try:
            with simulation.crew(
                project, options["annotators"], options["url"]
            ) as people:
                reports = self.run_rounds(project, people, options)
        except KeyboardInterrupt:
            self.stderr.write(
                "stopped: judgments given so far are kept, no lease is held, and a "
                "round that was started goes on"
            )
            raise SystemExit(INTERRUPTED) from None
        except (SimulationError, InferenceError, ProblemError) as error:
            raise CommandError(str(error)) from None
        except httpx.TransportError as error:
            raise CommandError(
                f"{options['url']} does not answer ({error}). Is it running (make run)?"
            ) from None
        self.conclude(reports, options)

    def run_rounds(
        self, project: Project, people: Crew, options: dict[str, Any]
    ) -> list[RoundReport]:
        # Whether the site answers, before minutes of measuring.
        people.manager.client.project(people.slug)
        policy = serving_policy(project.channel)
        before = self.measured(project, policy, options)
        self.stdout.write(
            f"{policy.name} before any round: {in_words(before, options)}"
        )
        reports: list[RoundReport] = []
        for number in range(1, options["rounds"] + 1):
            started = time.monotonic()
            verdicts = self.judged(people, number, options)
            simulation.wait_until_checked(people, self.say)
            row, margin = self.trained(people, number, options)
            simulation.serve(people, str(row.policy), self.say)
            after = self.measured(project, Policy.objects.get(name=row.policy), options)
            reports.append(
                RoundReport(
                    number=number,
                    judgments=sum(verdicts.values()),
                    pairs=row.pairs,
                    margin=margin,
                    before=before,
                    after=after,
                    seconds=time.monotonic() - started,
                )
            )
            before = after
            self.stdout.write(table(reports, options["prefer"]))
        return reports

    def judged(
        self, people: Crew, number: int, options: dict[str, Any]
    ) -> dict[str, int]:
        with bar(options["judgments"], f"round {number}: judging") as shown:
            return simulation.judge(
                people,
                options["prefer"],
                options["judgments"],
                noise=options["noise"],
                speed=options["speed"],
                seed=options["seed"] + number,
                progress=lambda verdict: shown.update() and None,
                say=self.say,
            )

    def trained(
        self, people: Crew, number: int, options: dict[str, Any]
    ) -> tuple[Round, float | None]:
        last: list[float | None] = [None]
        with bar(0, f"round {number}: training") as shown:

            def progress(row: Round, margin: float | None) -> None:
                last[0] = margin
                shown.total = row.progress["total_steps"] or None
                shown.n = row.progress["step"]
                shown.set_postfix_str(
                    row.state if margin is None else f"{row.state}, margin {margin:.2f}"
                )

            row = simulation.train(people, preset=options["preset"], progress=progress)
        return row, last[0]

    def measured(
        self, project: Project, policy: Policy, options: dict[str, Any]
    ) -> Measure:
        with bar(options["samples"], f"measuring {policy.name}") as shown:
            return measuring.measure(
                project,
                policy,
                options["prefer"],
                options["samples"],
                progress=lambda count: shown.update(count) and None,
            )

    def say(self, line: str) -> None:
        tqdm.write(line, file=self.stderr)

    def conclude(self, reports: list[RoundReport], options: dict[str, Any]) -> None:
        first, last = reports[0].before.wanted, reports[-1].after.wanted
        goal = USUAL_GOAL if options["goal"] is None else options["goal"]
        outcome = "reached" if last >= goal else "missed"
        self.stdout.write(
            f"{options['prefer']}: {first:.0%} → {last:.0%} of the answers; "
            f"the goal of {goal:.0%} is {outcome}"
        )
        if options["goal"] is not None and last < goal:
            raise SystemExit(1)


def bar(total: int, label: str) -> tqdm:
    return tqdm(total=total, desc=label, leave=True, dynamic_ncols=True)


def in_words(measure: Measure, options: dict[str, Any]) -> str:
    return (
        f"{measure.wanted:.0%} {options['prefer']}, {percent(measure.on_topic)} on topic, "
        f"{measure.distinct:.0%} distinct, {measure.mean_length:.0f} columns long, "
        f"{measure.cut_off:.0%} cut off"
    )


def percent(share: float | None) -> str:
    return "–" if share is None else f"{share:.0%}"


def table(reports: list[RoundReport], prefer: str) -> str:
    """The rounds so far, a line each."""
    heads = [
        "round",
        "judgments",
        "pairs",
        "margin",
        f"{prefer} before → after",
        "on topic",
        "distinct",
        "length",
        "cut off",
        "win rate",
        "time",
    ]
    rows = [
        [
            str(report.number),
            str(report.judgments),
            str(report.pairs),
            "–" if report.margin is None else f"{report.margin:.2f}",
            f"{report.before.wanted:.0%} → {report.after.wanted:.0%}",
            percent(report.after.on_topic),
            f"{report.after.distinct:.0%}",
            f"{report.after.mean_length:.0f}",
            f"{report.after.cut_off:.0%}",
            "–",
            f"{report.seconds:.0f} s",
        ]
        for report in reports
    ]
    widths = [max(map(len, column)) for column in zip(heads, *rows, strict=True)]
    lines = [
        "  ".join(cell.rjust(width) for cell, width in zip(line, widths, strict=True))
        for line in [heads, *rows]
    ]
    return "\n".join(lines)
