"""How quickly, and how steadily, `follow podman` keeps answers in step with real containers.

    python -m tests.container.follow_soak [--seconds 300] [--containers 200] [--times 100] [--seed
    1]

First one container at a time: from `podman run` and `podman kill` until the answer shows it. Then a
storm: containers are started, killed, stopped and removed at random; two seconds after its end the
answers must be what runs, and when the hold is over the catalog, too. Prints one JSON object; exit
1 when the storm ends with anything else. Not part of `make test`: it takes minutes, root and
podman.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Callable
from random import Random
from statistics import quantiles
from typing import Any, Final

from internal_dns.live.loop import DOUBT_SECONDS
from tests.container.engine import Site, site
from tests.live.hosts import until

PATIENCE: Final = 60.0
SETTLED: Final = 2.0  # seconds after the storm until answers must be right


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("--seconds", type=float, default=300)
    options.add_argument("--containers", type=int, default=200)
    options.add_argument("--times", type=int, default=100)
    options.add_argument("--seed", type=int, default=1)
    given = options.parse_args()
    with site() as here:
        follower = here.follow()
        for number in range(3):
            here.engine.start(f"base-{number}", app="base")
        until(lambda: len(here.answers("base.internal")) == 3, PATIENCE)
        found = measure(here, given.times)
        found["storm"] = storm(here, Random(given.seed), given.seconds, given.containers)
        said = follower.stop()
    print(json.dumps(found, indent=1))
    wrong = [line for line in said.splitlines() if "Traceback" in line]
    sys.exit(
        0 if found["storm"]["answers_equal"] and found["storm"]["rows_equal"] and not wrong else 1
    )


def figures(seconds: list[float]) -> dict[str, float]:
    cuts = quantiles(seconds, n=100, method="inclusive")
    return {
        "p50": round(cuts[49], 3), "p99": round(cuts[98], 3), "max": round(max(seconds), 3),
        "count": len(seconds),
    }  # fmt: skip


def measure(here: Site, times: int) -> dict[str, Any]:
    """Start and kill one container again and again."""
    began, started, gone, run = [], [], [], []
    for number in range(times):
        app = f"one-{number}"
        begin = time.monotonic()
        here.engine.start(app, app=app)
        ran = time.monotonic()
        until(lambda name=app: here.answers(f"{name}.internal") != set(), PATIENCE)  # type: ignore[misc]
        now = time.monotonic()
        began.append(now - begin)
        started.append(now - ran)
        run.append(ran - begin)
        begin = time.monotonic()
        here.engine.run("kill", "--signal=KILL", app)
        until(lambda name=app: here.answers(f"{name}.internal") == set(), PATIENCE)  # type: ignore[misc]
        gone.append(time.monotonic() - begin)
        here.engine.run("rm", "--force", "--time=0", app)
    return {
        "from_podman_run_begun_to_answer": figures(began),
        "from_podman_run_ended_to_answer": figures(started),
        "podman_run_alone": figures(run),
        "from_podman_kill_begun_to_gone": figures(gone),
    }


def storm(here: Site, random: Random, seconds: float, most: int) -> dict[str, Any]:
    """Start and end containers at random; return what was true after it."""
    running: list[str] = []
    operations, number = 0, 0
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        operations += 1
        if not running or (len(running) < most and random.random() < 0.6):
            number += 1
            name = f"storm-{number}"
            here.engine.start(name, app=f"app-{number % 10}")
            running.append(name)
            continue
        name = running.pop(random.randrange(len(running)))
        end_of: Callable[[str], object] = random.choice((_kill, _remove, _stop))(here)
        end_of(name)
    finish = time.monotonic()
    while time.monotonic() < finish + SETTLED:
        time.sleep(0.05)
    reality = addresses_of_what_runs(here)
    answered = {app: here.answers(f"{app}.internal") for app in (f"app-{n}" for n in range(10))}
    equal = answered == {app: reality.get(app, set()) for app in answered}
    held = sum(ready == 0 for _, ready, _ in here.rows().values())
    begin = time.monotonic()

    def rows_equal() -> bool:
        rows = {name for name, (state, _, _) in here.rows().items() if state == "started"}
        return rows == {*running, "base-0", "base-1", "base-2"}

    try:
        until(rows_equal, DOUBT_SECONDS + PATIENCE)
        settled = True
    except AssertionError:
        settled = False
    return {
        "seconds": seconds, "operations": operations, "running": len(running),
        "answers_equal": equal, "held_after": held, "rows_equal": settled,
        "rows_equal_after_seconds": round(time.monotonic() - begin, 1),
        "other_rows": sum(source != "podman" for _, _, source in here.rows().values()),
    }  # fmt: skip


def addresses_of_what_runs(here: Site) -> dict[str, set[str]]:
    """Return the addresses of running containers by app, as podman itself lists them."""
    found: dict[str, set[str]] = {}
    names = here.engine.run("ps", "--format={{.Names}}").split()
    for one in json.loads(here.engine.run("inspect", *names)) if names else ():
        app = one["Config"]["Labels"]["internal-dns.app"]
        address = one["NetworkSettings"]["Networks"]["acme"]["GlobalIPv6Address"]
        found.setdefault(app, set()).add(address)
    return found


def _kill(here: Site) -> Callable[[str], object]:
    return lambda name: here.engine.run("kill", "--signal=KILL", name)


def _remove(here: Site) -> Callable[[str], object]:
    return lambda name: here.engine.run("rm", "--force", "--time=0", name)


def _stop(here: Site) -> Callable[[str], object]:
    return lambda name: here.engine.run("stop", "--time=1", name)


if __name__ == "__main__":
    main()
