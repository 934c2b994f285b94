"""Ways to spell what a request asks for, each with its plain form: what rules must not be evaded by.

One table for the rules alone and for a real Envoy before them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final


@dataclass(frozen=True, slots=True)
class Spelling:
    """`plain` is None where programs would read `sent` in different ways, so that it is refused whatever the rules.

    `envoy` is what an Envoy with the listener settings that ship makes of it before the rules see it: another path, or
    an answer of its own with this status (307 leads to the plain form). None: it passes it on as `plain`, or as it is
    where there is none. `names` is the form for programs to which parameters are part of the names.
    """

    sent: str
    plain: str | None
    envoy: str | int | None = None
    names: str | None = None


PATHS: Final[Sequence[Spelling]] = [
    Spelling("/", "/"),
    Spelling("/admin/keys", "/admin/keys"),
    # slashes
    Spelling("//admin/keys", "/admin/keys"),
    Spelling("/admin//keys", "/admin/keys"),
    Spelling("/admin///keys", "/admin/keys"),
    Spelling("/admin/keys//", "/admin/keys/"),
    Spelling("/admin%2Fkeys", "/admin/keys", 307),
    Spelling("/admin%2fkeys", "/admin/keys", 307),
    Spelling("/%2Fadmin/keys", "/admin/keys", 307),
    Spelling("/admin%5Ckeys", "/admin/keys", 307),
    Spelling("/admin%5ckeys", "/admin/keys", 307),
    Spelling("/admin\\keys", "/admin/keys"),
    # dots
    Spelling("/./admin/keys", "/admin/keys"),
    Spelling("/admin/./keys", "/admin/keys"),
    Spelling("/public/../admin/keys", "/admin/keys"),
    Spelling("/public/x/../../admin/keys", "/admin/keys"),
    Spelling("/../admin/keys", "/admin/keys"),
    Spelling("//public/../admin/keys", "/admin/keys"),
    Spelling("/public/%2e%2e/admin/keys", "/admin/keys"),
    Spelling("/public/.%2E/admin/keys", "/admin/keys"),
    Spelling("/admin/%2e/keys", "/admin/keys"),
    Spelling("/admin/keys/.", "/admin/keys/"),
    Spelling("/admin/keys/..", "/admin/"),
    # letters
    Spelling("/%61dmin/keys", "/admin/keys"),
    Spelling("/admin/key%73", "/admin/keys"),
    Spelling("/caf%c3%a9", "/caf%C3%A9", "/caf%c3%a9"),
    # what follows
    Spelling("/admin/keys?", "/admin/keys", "/admin/keys?"),
    Spelling("/admin/keys?next=/public", "/admin/keys", "/admin/keys?next=/public"),
    Spelling("/admin/keys?/../../public", "/admin/keys", "/admin/keys?/../../public"),
    Spelling("/admin/keys#", "/admin/keys", 400),
    Spelling("/admin/keys#/../../public", "/admin/keys", 400),
    Spelling("/admin;x=1/keys", "/admin/keys", "/admin;x=1/keys", "/admin%3Bx=1/keys"),
    Spelling("/admin/keys;.css", "/admin/keys", "/admin/keys;.css", "/admin/keys%3B.css"),
    Spelling("/admin/keys%3B.css", "/admin/keys", "/admin/keys%3B.css", "/admin/keys%3B.css"),
    # no plain form
    Spelling("/public/..;/admin/keys", None, "/admin/keys"),
    Spelling("/public/..%2Fadmin/keys", None, 307),
    Spelling("/public%2F../admin/keys", None, 307),
    Spelling("/public\\..\\admin/keys", None, "/admin/keys"),
    Spelling("/public/%2e%2e%5Cadmin/keys", None, 307),
    Spelling("/public//../admin/keys", None, "/public/admin/keys"),
    Spelling("/public//x/../../admin/keys", None, "/public/admin/keys"),
    Spelling("/admin%252Fkeys", None),
    Spelling("/public/%252e%252e/admin/keys", None),
    Spelling("/%2561dmin/keys", None),
    Spelling("/admin/keys%00", None, 400),
    Spelling("/admin/keys%00.css", None, 400),
    Spelling("/admin/keys%0A", None),
    Spelling("/admin/keys%7F", None),
    Spelling("/%ff/keys", None),
    Spelling("/public/%c0%ae%c0%ae/admin/keys", None),
    Spelling("/admin/keys%", None),
    Spelling("/admin/keys%2", None),
    Spelling("/admin/keys%zz", None),
    Spelling("/public/%u002e/keys", None),
]

# What no client sends as a path that begins with a slash: `OPTIONS *`, `CONNECT host:port`, nothing.
NO_PATHS: Final[Sequence[Spelling]] = [
    Spelling("*", None),
    Spelling("", None),
    Spelling("admin/keys", None),
    Spelling("reviews.test:443", None),
    Spelling("http://reviews.test/admin/keys", None),
]

# An Envoy passes hosts on as they are.
HOSTS: Final[Sequence[Spelling]] = [
    Spelling("reviews.test", "reviews.test"),
    Spelling("Reviews.TEST", "reviews.test"),
    Spelling("reviews.test:80", "reviews.test"),
    Spelling("reviews.test:9080", "reviews.test"),
    Spelling("reviews.test:", "reviews.test"),
    Spelling("reviews.test.", "reviews.test"),
    Spelling("REVIEWS.test.:443", "reviews.test"),
    Spelling("10.0.0.1:80", "10.0.0.1"),
    Spelling("[::1]:80", "[::1]"),
    Spelling("[0:0::1]", "[::1]"),
    Spelling("reviews.test..", None),
    Spelling("[1]", None),
    Spelling("user@reviews.test", None),
    Spelling("reviews.test:http", None),
    Spelling("reviews.test/admin", None, 400),
    Spelling("reviews.test, other.test", None, 400),
    Spelling("revi%65ws.test", None),
    Spelling("reviews.tést", None, 400),
    Spelling("\N{KELVIN SIGN}eys.test", None, 400),
]
