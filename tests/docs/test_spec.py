"""``sdk/spec`` and the code say the same: rules, errors, topics, datatypes, limits."""

from __future__ import annotations

import inspect
import re
from pathlib import Path

import pytest

from aimass import errors
from aimass.errors import AimassError
from aimass.package import envelope
from aimass.package import fields as package_fields
from aimass.wire import topics
from aimass.wire.oip import Limits
from aimass.wire.tensor import Datatype

ROOT = Path(__file__).parents[2]
SPEC = ROOT / "sdk" / "spec"
RULE = re.compile(r"\b((?:WIRE|TOPIC|MAN)-\d+\.\d+)\b")
DEFINED = re.compile(r"^\| ((?:WIRE|TOPIC|MAN)-\d+\.\d+) \|", re.MULTILINE)


def spec(name: str) -> str:
    return (SPEC / name).read_text("utf-8")


def rules() -> list[str]:
    return [rule for name in ("WIRE.md", "TOPICS.md", "MANIFEST.md") for rule in DEFINED.findall(spec(name))]


def cited(*folders: str) -> set[str]:
    found: set[str] = set()
    for folder in folders:
        for path in (ROOT / folder).rglob("*.py"):
            found.update(RULE.findall(path.read_text("utf-8")))
    return found


def rows(name: str, heading: str) -> list[list[str]]:
    lines = iter(spec(name).splitlines())
    for line in lines:
        if line.startswith(f"| {heading} |"):
            break
    next(lines)
    table = []
    for line in lines:
        if not line.startswith("|"):
            break
        table.append([cell.strip().replace("\\|", "|") for cell in re.split(r"(?<!\\)\|", line)[1:-1]])
    return table


def tree(cls: type[AimassError] = AimassError) -> list[type[AimassError]]:
    return [cls, *(found for sub in cls.__subclasses__() for found in tree(sub))]


ERRORS = [cls for cls in tree() if cls.__module__ == errors.__name__]


def test_no_rule_id_is_given_twice() -> None:
    assert len(rules()) == len(set(rules()))
    assert len(rules()) > 40


def test_every_rule_is_found_in_the_code_that_follows_it() -> None:
    assert set(rules()) - cited("sdk/python/aimass", "aimass_edge", "aimass_cloud") == set()


def test_every_rule_is_found_in_a_test() -> None:
    assert set(rules()) - cited("tests") == set()


def test_no_code_follows_a_rule_that_does_not_exist() -> None:
    assert cited("sdk/python/aimass", "aimass_edge", "aimass_cloud", "tests") - set(rules()) == set()


@pytest.mark.parametrize("cls", ERRORS, ids=lambda cls: cls.__name__)
def test_every_error_is_in_the_table_with_retry_and_meaning(cls: type[AimassError]) -> None:
    found = [row for row in rows("ERRORS.md", "Code") if row[0] == f"`{cls.code}`"]
    assert len(found) == 1, f"{cls.code} must have one row in sdk/spec/ERRORS.md"
    _, name, retry, meaning, action = found[0]
    assert name == f"`{cls.__name__}`"
    assert retry == ("yes" if cls.default_retryable else "no")
    assert len(meaning) > 10
    assert len(action) > 5


def test_no_code_is_used_twice_or_only_in_the_table() -> None:
    codes = [cls.code for cls in ERRORS]
    assert len(codes) == len(set(codes))
    assert [row[0] for row in rows("ERRORS.md", "Code")] == [f"`{code}`" for code in codes]


def test_a_code_begins_with_the_code_of_its_family() -> None:
    for cls in ERRORS:
        family, _, _ = cls.code.rpartition(".")
        assert family == "" or any(other.code == family for other in ERRORS) or family == "engine"


def test_the_tree_on_top_of_the_errors_module_is_the_real_one() -> None:
    drawn = re.findall(r"[├└]─ (\w+)", errors.__doc__ or "")
    assert drawn == [cls.__name__ for cls in ERRORS[1:]]


def test_every_row_has_its_function_and_every_function_its_row() -> None:
    # TOPIC-2.2
    functions = {
        name
        for name, function in inspect.getmembers(topics, inspect.isfunction)
        if function.__module__ == topics.__name__ and not name.startswith("_")
    }
    in_table = {row[1].strip("`") for row in rows("TOPICS.md", "Topic")}
    assert in_table | {"infer_share", "device_filter", "parse", "answer_topic"} == functions
    for name in functions:
        assert f"`{name}`" in spec("TOPICS.md") or name in {"parse", "answer_topic"}


@pytest.mark.parametrize("row", rows("TOPICS.md", "Topic"), ids=lambda row: row[1])
def test_every_topic_of_the_table_is_what_its_function_builds(row: list[str]) -> None:
    written = topics.ROOT + "/" + row[0].strip("`")
    build = getattr(topics, row[1].strip("`"))
    values = {"cn": "gw-1", "name": "n", "stream": "s", "pool": "p"}
    expected = written.format(**values)
    given = {
        key: values[key] if key != "node" else values["cn"]
        for key in inspect.signature(build).parameters
        if key in values
    } | ({"node": "gw-1"} if "node" in inspect.signature(build).parameters else {})
    assert build(**given) == expected
    assert row[2].count("->") == 1
    assert row[3] in {"0", "1"}
    assert row[4] in {"yes", "no"}
    assert topics.parse(expected).kind == topics.Kind(
        {"infer_request": "infer"}.get(row[1].strip("`"), row[1].strip("`"))
    )


def test_every_datatype_is_in_the_table_with_its_size() -> None:
    sizes: dict[str, str] = {}
    for row in rows("WIRE.md", "Datatype"):
        for names, size in zip(row[::2], row[1::2], strict=True):
            sizes |= dict.fromkeys(names.split(", "), size)
    assert sizes == {str(d): str(d.item_bytes or "varies") for d in Datatype}


def test_the_bounds_in_the_text_are_the_ones_in_the_code() -> None:
    limits = Limits()
    wire = spec("WIRE.md")
    assert (
        f"JSON header {limits.max_header_bytes >> 20} MiB, whole message {limits.max_message_bytes >> 20} MiB" in wire
    )
    assert f"{limits.max_tensors} tensors" in wire
    assert f"at most {limits.max_dims} whole numbers" in wire
    assert f"at most {limits.max_nesting} within" in wire
    assert f"at most {limits.max_strings:,}" in wire
    manifest = spec("MANIFEST.md")
    assert f"at most {envelope.MAX_ENVELOPE_BYTES >> 20} MiB and 1 to {envelope.MAX_SIGNATURES} signatures" in manifest
    assert f"At most {package_fields.MAX_DOCUMENT_BYTES >> 20} MiB" in manifest
    assert envelope.MANIFEST_TYPE in manifest
    assert envelope.DESIRED_TYPE in manifest
