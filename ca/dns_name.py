"""DNS names in settings, by the rules that hold for those of entries."""

from __future__ import annotations

from typing import Annotated

from pydantic import AfterValidator

from ca.entries.rules import check_dns_name
from citadel.errors import InvalidArgument


def _checked(name: str) -> str:
    try:
        check_dns_name(name)
    except InvalidArgument as problem:
        raise ValueError(problem.message) from problem
    return name


DnsName = Annotated[str, AfterValidator(_checked)]
