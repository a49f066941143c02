"""Django's PyMemcacheCache against the server: get_many, add, incr, touch, delete_many, versions, timeouts, sessions.

Usage: memcached_django.py PORT, with the database of `tests/src/client_scripts.rs` behind `user:*`. Ends with 0 if all holds.
"""

import sys

import django
from django.conf import settings

settings.configure(
    CACHES={
        "default": {"BACKEND": "django.core.cache.backends.memcached.PyMemcacheCache", "LOCATION": f"127.0.0.1:{sys.argv[1]}"},
    },
    SESSION_ENGINE="django.contrib.sessions.backends.cache",
    INSTALLED_APPS=["django.contrib.sessions"],
)
django.setup()

from django.contrib.sessions.backends.cache import SessionStore  # noqa: E402
from django.core.cache import cache  # noqa: E402
from django.core.cache.backends.base import InvalidCacheKey  # noqa: E402
from django.core.cache.utils import make_template_fragment_key  # noqa: E402

NAME = f"Django {django.__version__}"


def main():
    cache.clear()
    for test in [basics, many, numbers, versions, timeouts, sessions, keys]:
        test()
        print(f"{NAME}: {test.__name__}")
    print(f"{NAME}: all")


def basics():
    for value in ["text", b"bytes", 7, None, True, [1, {"a": 2.5}], "\u20ac" * 1000, "x" * 500_000]:
        cache.set("k", value)
        assert cache.get("k", "default") == value
    assert cache.get("none") is None and cache.get("none", "d") == "d" and "k" in cache and "none" not in cache
    assert cache.add("k", 1) is False and cache.add("new", 1) is True
    assert cache.get_or_set("lazy", lambda: 42, 100) == 42 and cache.get("lazy") == 42
    assert cache.delete("k") is True and cache.delete("k") is False
    cache.clear()
    assert cache.get("new") is None


def many():
    assert cache.set_many({f"m{i}": i for i in range(300)}) == []
    assert cache.get_many([f"m{i}" for i in range(310)]) == {f"m{i}": i for i in range(300)}
    cache.delete_many([f"m{i}" for i in range(300)])
    assert cache.get_many([f"m{i}" for i in range(300)]) == {}


def numbers():
    cache.set("n", 1)
    assert cache.incr("n") == 2 and cache.incr("n", 10) == 12 and cache.decr("n", 2) == 10
    try:
        cache.incr("none")
    except ValueError:
        pass
    else:
        raise AssertionError("nothing counts")


def versions():
    cache.set("v", "one")
    cache.set("v", "two", version=2)
    assert cache.get("v") == "one" and cache.get("v", version=2) == "two"
    assert cache.incr_version("n") == 2 and cache.get("n") is None and cache.get("n", version=2) == 10
    assert cache.decr_version("n", version=2) == 1 and cache.get("n") == 10


def timeouts():
    cache.set("t", 1, timeout=None)
    assert cache.touch("t", 100) is True and cache.touch("none", 100) is False
    cache.set("t", 1, timeout=0)
    assert cache.get("t") is None
    cache.set("t", 1, timeout=40 * 24 * 3600)
    assert cache.get("t") == 1, "more than thirty days"
    cache.set("t", 1, timeout=-1)
    assert cache.get("t") is None


def sessions():
    session = SessionStore()
    session["user"] = 7
    session.save()
    assert SessionStore(session.session_key)["user"] == 7
    session.cycle_key()
    session.flush()
    assert SessionStore(session.session_key).get("user") is None
    key = make_template_fragment_key("sidebar", ["ann"])
    cache.set(key, "<b>ann</b>")
    assert cache.get(key) == "<b>ann</b>"


def keys():
    for key in ["a b", "k" * 251]:
        try:
            cache.get(key)
        except InvalidCacheKey:
            pass
        else:
            raise AssertionError(key)


main()
