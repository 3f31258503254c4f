"""What the sessions in Python share: the members, whom to ask to kill one, and the report.

ENDPOINTS names the members, CONTROL whom to ask. Each scenario that holds prints `ok NAME SECONDS`.
"""

import os
import socket
import time

ENDPOINTS = os.environ["ENDPOINTS"].split(",")
# Seconds for one call, across an election.
PATIENCE = 20


def host_port(endpoint):
    host, port = endpoint.rsplit(":", 1)
    return host, int(port)


def control(ask):
    with socket.create_connection(host_port(os.environ["CONTROL"]), timeout=120) as connection:
        connection.sendall((ask + "\n").encode())
        return connection.makefile().readline().strip()


def until(what, holds, failures=Exception):
    """Looks until it holds; what fails is tried again."""
    deadline = time.monotonic() + PATIENCE
    while True:
        failed = None
        try:
            found = holds()
            if found:
                return found
        except failures as error:
            failed = error
        assert time.monotonic() < deadline, f"not in time: {what}: {failed!r}"
        # Nobody tells when.
        time.sleep(0.02)


def refused(text, call):
    """Checks that a call is refused with this text."""
    try:
        answer = call()
    except Exception as error:  # noqa: BLE001: each client has exceptions of its own.
        said = " ".join(str(part) for part in (error, *error.args, getattr(error, "detail_text", ""), error.__cause__))
        assert text in said, f"the refusal is {error!r}: {said}"
        return
    raise AssertionError(f"it was not refused: {text}: {answer!r}")


def watched(seen, begin, last):
    """Checks that pairs of number and revision are each number in order; the same again is one whose first outcome was unknown."""
    expected, revision = 0, begin
    for number, at in seen:
        assert at > revision, f"revision {at} after {revision}"
        assert number in (expected, expected - 1), f"{number} where {expected} should follow"
        expected, revision = number + 1, at
    assert expected == last + 1, f"{expected} follows, of {last}"


def run(scenarios):
    for name, scenario in scenarios:
        begin = time.monotonic()
        scenario()
        print(f"ok {name} {time.monotonic() - begin:.1f}")
    print(f"done {len(scenarios)}")
