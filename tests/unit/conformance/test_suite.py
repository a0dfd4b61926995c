"""The conformance tool finds the faults of a server that has them, and names them by the right case."""

from __future__ import annotations

import json

import pytest

from aimass.conformance.__main__ import main
from aimass.conformance.cases import ALL_CASES
from aimass.conformance.connection import Endpoint, Failed, Reply
from aimass.conformance.lab import Lab
from aimass.conformance.suite import Outcome, is_conformant, run_cases, scorecard
from aimass.conformance.tensors import EDGES, pack, unpack
from tests.fakes.toy_oip import toy

CORE = [one for one in ALL_CASES if one.id[0] in "SMITBE"]
#: Rules that the toy breaks even without a fault, because it is a toy.
TOY = {"S-02", "S-12", "M-17", "I-20", "B-15", "B-16", "E-08", "E-25", "E-31"}
REFUSALS = {
    *("S-08", "S-09", "S-10", "S-11", "M-10", "M-11", "M-12", "M-13", "M-14", "M-15", "M-16", "T-35", "T-40", "T-41"),
    *("B-20", "B-21", "B-24", "B-25", "B-26", "E-09"),
    *(f"E-{number}" for number in range(14, 24)),
}


def failures(*faults: str) -> set[str]:
    with toy(*faults) as server:
        endpoint = Endpoint(server.url, timeout_s=10)
        outcomes = run_cases(Lab(endpoint), CORE)
        endpoint.close()
    return {one.id for one in outcomes if one.result == "fail"}


def test_a_sound_toy_fails_only_what_it_lacks() -> None:
    assert failures() == TOY


@pytest.mark.parametrize(
    ("fault", "cases"),
    [
        ("empty health", {"S-06", "S-07"}),
        ("detail", REFUSALS),
        ("charset", REFUSALS),
        ("looks at the type", {"T-24", "T-29", "B-01", "B-02", "B-03", "B-04", "B-05", "B-14"}),
        ("keeps no count", {"B-24"}),
        ("number", {"I-05"}),
        ("nulls", {"I-07", "I-08"}),
        ("one wish", {"B-07", "B-08"}),
        ("rounds", {"T-10", "T-27"}),
        ("no NaN", {"T-28"}),
    ],
)
def test_a_fault_fails_the_cases_that_are_about_it(fault: str, cases: set[str]) -> None:
    assert failures(fault) - TOY == cases


def test_a_server_that_asks_for_a_content_type_or_crashes_on_nonsense_fails() -> None:
    assert {"I-01", "B-01"} <= failures("wants a type")
    assert {"E-01", "E-02", "E-03", "B-22"} <= failures("crashes")


def test_ids_are_unique_and_every_case_has_a_sentence() -> None:
    assert len({one.id for one in ALL_CASES}) == len(ALL_CASES) >= 100
    assert all(one.sentence and not one.sentence.endswith(".") for one in ALL_CASES)


def test_a_required_failure_decides_the_exit_code(capsys: pytest.CaptureFixture[str]) -> None:
    with toy() as server:
        assert main([server.url, "--only", "S-01", "--only", "S-02"]) == 0
        assert "S-02  fail" in capsys.readouterr().out
        assert main([server.url, "--only", "E-08", "--json"]) == 1
        told = json.loads(capsys.readouterr().out)
    assert told["counts"] == {"pass": 0, "fail": 1, "skip": 0}
    assert told["cases"][0]["id"] == "E-08"


def test_without_a_server_there_is_no_score(capsys: pytest.CaptureFixture[str]) -> None:
    with toy() as server:
        url = server.url
    assert main([url]) == 2
    assert "nobody answers" in capsys.readouterr().err


def test_a_case_without_its_probe_is_skipped_and_says_so() -> None:
    with toy() as server:
        endpoint = Endpoint(server.url)
        (outcome,) = run_cases(Lab(endpoint), [one for one in CORE if one.id == "I-13"])
        endpoint.close()
    assert (outcome.result, outcome.reason) == ("skip", "there is no probe model add_sub")


def test_the_scorecard_counts_by_section_and_gives_reasons() -> None:
    outcomes = [Outcome("A-01", "First", "one", True, "pass"), Outcome("A-02", "First", "two", True, "fail", "because")]
    text = scorecard(outcomes)
    assert "1 of 2" in text
    assert "A-02  FAIL  two" in text
    assert "because" in text
    assert not is_conformant(outcomes)


@pytest.mark.parametrize("datatype", EDGES)
def test_the_oracle_reads_what_it_writes(datatype: str) -> None:
    raw = pack(datatype, EDGES[datatype])
    assert pack(datatype, unpack(datatype, raw)) == raw


def test_an_answer_that_is_not_json_is_a_failure_and_no_crash() -> None:
    with pytest.raises(Failed, match="not JSON"):
        Reply(200, {}, b"<html>", 0.0).fields()
