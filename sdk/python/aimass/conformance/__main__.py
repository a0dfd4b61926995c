"""`python -m aimass.conformance URL [--uds PATH] [--json]`."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence

from aimass.conformance.cases import ALL_CASES
from aimass.conformance.connection import Endpoint, Failed
from aimass.conformance.lab import Lab
from aimass.conformance.suite import as_dict, is_conformant, run_cases, scorecard
from aimass.errors import AimassError


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the suite; 0 when no required case failed, 1 when one did, 2 when there was nothing to talk to."""
    given = _parser().parse_args(arguments)
    headers = dict(one.split(":", 1) for one in given.header)
    endpoint = Endpoint(given.url, given.uds, {name: value.strip() for name, value in headers.items()}, given.timeout)
    cases = [one for one in ALL_CASES if one.id.startswith(tuple(given.only) or ("",))]
    try:
        endpoint.get("/v2")
        outcomes = run_cases(Lab(endpoint, given.model), cases)
    except (AimassError, Failed) as exc:
        sys.stderr.write(f"{exc}\n")
        return 2
    finally:
        endpoint.close()
    sys.stdout.write(json.dumps(as_dict(outcomes), indent=2) if given.json else scorecard(outcomes))
    sys.stdout.write("\n")
    return 0 if is_conformant(outcomes) else 1


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        "python -m aimass.conformance", description="Does an endpoint keep the Open Inference Protocol?"
    )
    parser.add_argument("url", help="http://host:port, with a path before /v2 if there is one")
    parser.add_argument("--uds", default="", metavar="PATH", help="go through this Unix socket")
    parser.add_argument("--json", action="store_true", help="print the outcomes as JSON")
    parser.add_argument("--model", action="append", default=[], metavar="NAME", help="a model to look at; repeatable")
    parser.add_argument("--header", action="append", default=[], metavar="NAME:VALUE", help="sent with every request")
    parser.add_argument(
        "--only", action="append", default=[], metavar="ID", help="cases whose id begins so; repeatable"
    )
    parser.add_argument("--timeout", type=float, default=20.0, metavar="S", help="for each read and write (20)")
    return parser


if __name__ == "__main__":
    sys.exit(main())
