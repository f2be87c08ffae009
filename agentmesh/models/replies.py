"""JSON in what models write. Reads; whether the value is what was asked for is for those who asked."""

import json
import re
from typing import Any

__all__ = ["json_in"]

_FENCE = re.compile(r"^```[a-z]*\s*\n(.*?)\n```\s*$", re.DOTALL | re.IGNORECASE)


def json_in(text: str) -> Any:
    """The JSON value that a reply consists of, or that stands in it between other words.

    Raises:
        ValueError: If there is none; the message says where reading failed.
    """
    stripped = text.strip()
    if fenced := _FENCE.match(stripped):
        stripped = fenced.group(1).strip()
    try:
        return json.loads(stripped)
    except (ValueError, RecursionError) as error:
        start = min((i for i in (stripped.find("{"), stripped.find("[")) if i >= 0), default=-1)
        if start < 0:
            raise ValueError("the reply holds no JSON") from error
        try:
            value, _ = json.JSONDecoder().raw_decode(stripped[start:])
        except (ValueError, RecursionError) as inner:
            raise ValueError(f"the reply is no valid JSON: {inner}") from inner
        return value
