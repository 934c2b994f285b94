"""Names of environment variables in settings."""

from __future__ import annotations

import re
from typing import Annotated, Final

from pydantic import AfterValidator

# In capitals, as variables of the environment are by custom: a key that was pasted here is never taken for a name.
_VARIABLE: Final = re.compile(r"[A-Z_][A-Z0-9_]*")


def _variable(name: str) -> str:
    if _VARIABLE.fullmatch(name) is None:
        raise ValueError("must be the name of an environment variable in capitals, such as CITADEL_KEK")
    return name


VariableName = Annotated[str, AfterValidator(_variable)]
