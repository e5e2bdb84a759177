"""Malformed files made of valid ones: by bytes, by the structure of JSON, and by payloads that would do harm."""

import copy
import hashlib
import json
import pickle
import random
from collections.abc import Callable
from typing import Any

#: Values that stand where something else should; texts that a page, a terminal or a formula would take for its own.
ODD: list[Any] = [
    None, True, -1, 0, 1, 3.5, 1e999, -1e308, 10**30, 2**31, "", "x", "../../etc/passwd", "/dev/zero", "a\0b",
    "\x1b[31m", "<script>alert(1)</script>", "$\\frac{$", "=cmd()", "os:system", "torch.hub:load", "\ud800", "x" * 5000,
    [], [[]], {}, {"name": {}}, [None], [1, 2, 3], {"": 1},
]  # fmt: skip


class Canary:
    """An object whose unpickling writes a file."""

    def __init__(self, file: str) -> None:
        self.file = file

    def __reduce__(self) -> tuple[Any, ...]:
        return open, (self.file, "w")


def flipped(rng: random.Random, data: bytes) -> bytes:
    """Some bits are others."""
    found = bytearray(data or b"\0")
    for _ in range(rng.choice([1, 1, 2, 8, 64])):
        found[rng.randrange(len(found))] ^= 1 << rng.randrange(8)
    return bytes(found)


def overwritten(rng: random.Random, data: bytes) -> bytes:
    """Some bytes, most of them near the beginning, where the headers are, hold an extreme."""
    found = bytearray(data or b"\0")
    place = rng.randrange(min(len(found), rng.choice([16, 256, len(found)])))
    value = rng.choice([b"\xff" * 4, b"\0" * 4, b"\x7f\xff\xff\xff", b"\xff" * 8, b"\x80", b"\n", b'"', b"{"])
    found[place : place + len(value)] = value
    return bytes(found)


def truncated(rng: random.Random, data: bytes) -> bytes:
    """The end is missing, or all of it."""
    return data[: rng.choice([0, rng.randrange(len(data) + 1), max(0, len(data) - rng.randrange(1, 9))])]


def spliced(rng: random.Random, data: bytes) -> bytes:
    """A piece of the file stands a second time, elsewhere, or is cut out."""
    a, b = sorted(rng.randrange(len(data) + 1) for _ in range(2))
    place = rng.randrange(len(data) + 1)
    return data[:a] + data[b:] if rng.random() < 0.5 else data[:place] + data[a:b] + data[place:]


def at_random(rng: random.Random, data: bytes) -> bytes:
    """Nothing of the file is left."""
    return rng.randbytes(rng.choice([1, 10, 1000]))


def prefixed(rng: random.Random, data: bytes) -> bytes:
    """Text in another encoding, or nested without end."""
    deep = rng.choice([65, 1000, 200_000])
    ways = [
        b"\xef\xbb\xbf" + data,
        b"\xff" + data,
        data.decode("latin1").encode("utf-16"),
        b"[" * deep,
        b'{"a":' * deep,
    ]
    return rng.choice([*ways, b"a = " + b"[" * deep, data.replace(b"\n", b"\r")])


def hostile(canary: str) -> Callable[[random.Random, bytes], bytes]:
    """A pickle that runs code, alone or within the file."""

    def harm(rng: random.Random, data: bytes) -> bytes:
        payload = pickle.dumps(Canary(canary), rng.choice([0, 2, 4]))
        place = rng.randrange(len(data) + 1)
        return rng.choice([payload, payload[:-1] + data, data[:place] + payload, data[:-1] + payload])

    return harm


def restructured(rng: random.Random, data: bytes) -> bytes:
    """JSON, or lines of JSON, in which one value or name is another."""
    lines = data.split(b"\n")
    try:
        json.loads(data)
        lines, chosen = [data], 0
    except ValueError:
        chosen = rng.randrange(len(lines))
    try:
        content = json.loads(lines[chosen])
    except ValueError:
        return flipped(rng, data)
    lines[chosen] = json.dumps(changed(rng, content)).encode()
    if rng.random() < 0.1:
        lines[chosen] = lines[chosen].replace(b"{", b'{"schema": 1, "schema": 1, ', 1)
    return b"\n".join(lines)


def resealed(rng: random.Random, data: bytes) -> bytes:
    """The manifest of a checkpoint, changed, with the hash that belongs to it: an attacker can compute one, too."""
    content = json.loads(data)
    del content["seal"]
    content = changed(rng, content)
    if not isinstance(content, dict):
        return json.dumps(content).encode()
    seal = hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()
    return (json.dumps({**content, "seal": seal}, sort_keys=True, indent=1) + "\n").encode()


def changed(rng: random.Random, content: Any) -> Any:
    """JSON with one value, name or member changed, at a place drawn from all."""
    content = copy.deepcopy(content)
    places = [
        (held, key) for held in _containers(content) for key in (held if isinstance(held, dict) else range(len(held)))
    ]
    if not places or rng.random() < 0.05:
        return rng.choice(ODD)
    held, key = rng.choice(places)
    what = rng.random()
    if what < 0.7:
        held[key] = copy.deepcopy(rng.choice(ODD))
    elif what < 0.85:
        del held[key]
    elif isinstance(held, dict):
        held[str(rng.choice(["", "x", "__class__", "<b>", "\x1b[2J"]))] = held.pop(key)
    else:
        held.extend(copy.deepcopy(held[key:]))
    return content


def _containers(content: Any) -> list[Any]:
    found, waiting = [], [content]
    while waiting:
        one = waiting.pop()
        if isinstance(one, dict | list):
            found.append(one)
            waiting += one.values() if isinstance(one, dict) else one
    return found
