"""Cases, how they are run, and what came of them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from aimass.conformance.connection import Failed, Skipped
from aimass.conformance.lab import Lab

Run = Callable[[Lab], None]

PASS, FAIL, SKIP = "pass", "fail", "skip"


@dataclass(frozen=True, slots=True)
class Case:
    """One rule.

    Attributes:
        id: stable, letter of the section and number.
        section: what it belongs to.
        sentence: the rule.
        run: tries it; returns when it is kept.
        required: whether clients break without it; otherwise it is good to have.
    """

    id: str
    section: str
    sentence: str
    run: Run
    required: bool = True


@dataclass(frozen=True, slots=True)
class Outcome:
    """What came of a case; the reason of a failure or a skip."""

    id: str
    section: str
    sentence: str
    required: bool
    result: str
    reason: str = ""


class Section:
    """Collects the cases of one topic, numbered in the order they are written.

    Args:
        letter: begins their ids.
        title: of the section.
    """

    def __init__(self, letter: str, title: str) -> None:
        self._letter, self._title = letter, title
        self.cases: list[Case] = []

    def case(self, sentence: str, *, required: bool = True) -> Callable[[Run], Run]:
        """Makes a case of a function."""

        def keep(run: Run) -> Run:
            self.add(sentence, run, required=required)
            return run

        return keep

    def add(self, sentence: str, run: Run, *, required: bool = True) -> None:
        """Adds a case, for those made from a table."""
        number = len(self.cases) + 1
        self.cases.append(Case(f"{self._letter}-{number:02}", self._title, sentence, run, required))


def run_cases(lab: Lab, cases: Iterable[Case]) -> list[Outcome]:
    """Runs every case; none keeps another from running.

    Raises:
        ConnectError: nobody listens at the endpoint (any more).
    """
    return [_outcome(lab, case) for case in cases]


def _outcome(lab: Lab, case: Case) -> Outcome:
    result, reason = PASS, ""
    try:
        case.run(lab)
    except Skipped as exc:
        result, reason = SKIP, str(exc)
    except Failed as exc:
        result, reason = FAIL, str(exc)
    except (KeyError, TypeError, ValueError, IndexError, AttributeError) as exc:
        # Cases read what the server sent as if it were right; where it is not, that is the failure.
        result, reason = FAIL, f"the answer has another form than expected ({type(exc).__name__}: {exc})"
    return Outcome(case.id, case.section, case.sentence, case.required, result, reason)


def is_conformant(outcomes: Iterable[Outcome]) -> bool:
    """Whether no required case failed."""
    return not any(one.required and one.result == FAIL for one in outcomes)


def as_dict(outcomes: Sequence[Outcome]) -> dict[str, Any]:
    """The outcomes as plain values."""
    return {
        "conformant": is_conformant(outcomes),
        "counts": {one: sum(outcome.result == one for outcome in outcomes) for one in (PASS, FAIL, SKIP)},
        "cases": [asdict(one) for one in outcomes],
    }


def scorecard(outcomes: Sequence[Outcome]) -> str:
    """The outcomes for people: a line for each section, then what failed or was skipped, and why."""
    lines = []
    for section in dict.fromkeys(one.section for one in outcomes):
        own = [one for one in outcomes if one.section == section]
        passed = sum(one.result == PASS for one in own)
        lines.append(f"{section:<36} {passed:>3} of {len(own)}")
        for one in own:
            if one.result != PASS:
                mark = "FAIL" if one.result == FAIL and one.required else one.result
                lines += [f"    {one.id}  {mark}  {one.sentence}", f"          {one.reason}"]
    counts = as_dict(outcomes)["counts"]
    verdict = "conformant" if is_conformant(outcomes) else "NOT conformant"
    lines.append(f"\n{verdict}: {counts[PASS]} passed, {counts[FAIL]} failed, {counts[SKIP]} skipped")
    return "\n".join(lines)
