"""Load a server from another core, and measure its cost. There are two generators:

dnsperf     well known, but limited to about 120,000 queries per second, and unable to keep a rate
            on one core (its sender and receiver wait for each other): used for saturation only
sendmmsg.c  keeps a rate to the microsecond, measures latency, and is limited only by the kernel
"""

from __future__ import annotations

import json
import re
import resource
import subprocess
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

from bench.machine import CORES, LOAD_CORE
from bench.programs import built
from bench.servers import TICK, Server, in_front
from bench.tools import Missing, Skipped, program
from bench.zones import Questions

# Outstanding at saturation: always work waiting, and less than the kernel's default receive buffer
# of 212,992 octets holds (832 each), with which Knot, gdnsd and PowerDNS serve: more would measure
# how each loses.
WINDOW: Final = 240
MAX_LOSS: Final = 0.5  # percent, at a fixed rate
BUSY: Final = 0.95  # of a core: saturated
_PINNED: Final = ("taskset", "--cpu-list", str(LOAD_CORE))
RCODES: Final = ("NOERROR", "FORMERR", "SERVFAIL", "NXDOMAIN", "NOTIMP", "REFUSED")

Load = Callable[[Server], dict[str, Any]]
"""Puts one load on a server; returns seconds, sent, answered, lost, rcodes, and what else the
generator tells."""


class Loads:
    """The generators and their directory. Each method raises Missing without its program."""

    def __init__(self, directory: Path, seconds: float) -> None:
        self.directory, self.seconds = directory, seconds

    def dnsperf(
        self, questions: Questions, *, tcp: bool = False, connections: int = 4, window: int = WINDOW
    ) -> Load:
        """Saturate with dnsperf."""
        words = [
            program("dnsperf", "dnsperf"), "-s", "::1",
            "-d", str(questions.as_text(self.directory)),
            "-m", "tcp" if tcp else "udp", "-T", "1", "-c", str(connections),
            "-q", str(window), "-t", "1",
            "-l", f"{self.seconds:.0f}",
        ]  # fmt: skip
        return lambda server: _dnsperf(words, server, self.seconds)

    def warm_up(self, questions: Questions, server: Server, *, tcp: bool = False) -> None:
        """Send every query once, to fill the answer tables."""
        words = [
            program("dnsperf", "dnsperf"), "-s", "::1",
            "-d", str(questions.as_text(self.directory)),
            "-m", "tcp" if tcp else "udp", "-T", "1", "-c", "4", "-q", "200", "-t", "1", "-n", "1",
        ]  # fmt: skip
        _dnsperf(words, server, 60)

    def sendmmsg(
        self,
        questions: Questions,
        rate: int = 0,
        *,
        window: int = WINDOW,
        sources: Sequence[str] = (),
        asleep: bool = False,
        unique: bool = False,
        count: int = 0,
    ) -> Load:
        """Keep *rate*, or saturate with *window* outstanding; see the generator for the rest.

        With *count* the load ends after so many queries.
        """
        seconds = self.seconds if not count else 300.0
        words = [
            *(in_front(2) if asleep else ()),
            *self.generator(asleep=asleep, unique=unique, sources=sources),
            *(("-c", str(count)) if count else ()),
            "HOST", "PORT", str(questions.as_octets(self.directory)),
            str(seconds), str(rate), str(window),
        ]  # fmt: skip
        return lambda server: _sendmmsg(words, server, seconds)

    def generator(
        self,
        *,
        asleep: bool = False,
        deaf: bool = False,
        unique: bool = False,
        sources: Sequence[str] = (),
    ) -> list[str]:
        """Return the command of the generator, up to the address."""
        flags = [flag for flag, given in (("-s", asleep), ("-n", deaf), ("-u", unique)) if given]
        return [
            built("sendmmsg", self.directory),
            *flags,
            *(("-f", ",".join(sources)) if sources else ()),
        ]

    @contextmanager
    def beside(
        self, words: Sequence[str], questions: Questions, server: Server, rate: int, seconds: float
    ) -> Iterator[dict[str, Any]]:
        """Run a second generator during the body, on its own core if there is one.

        The dictionary then has its result.
        """
        core, told = str(CORES[1 % len(CORES)]), dict[str, Any]()
        queries = str(questions.as_octets(self.directory))
        command = [
            "taskset", "--cpu-list", core, *words,
            server.host, str(server.port), queries, str(seconds), str(rate), str(1 << 20),
        ]  # fmt: skip
        with subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        ) as process:
            try:
                yield told
                out, errors = process.communicate(timeout=seconds + 30)
            finally:
                if process.poll() is None:
                    process.kill()
        if process.returncode:
            raise RuntimeError(f"{words[0]} failed: {errors.strip()}")
        told.update(json.loads(out))


Step = tuple[
    str, Load, Questions, int
]  # what it is called, the load, what it asks, and at which rate if fixed


Wanted = tuple[
    str, Callable[[], Load], Questions, int
]  # the same, before the generator is known to be here


def plan(wanted: Iterable[Wanted], skipped: Skipped) -> list[Step]:
    """Return the loads whose generators are available; record the others as skipped."""
    steps = []
    for words, make, questions, rate in wanted:
        try:
            steps.append((words, make(), questions, rate))
        except Missing as reason:
            skipped.add(words, reason)
    return steps


def _dnsperf(words: list[str], server: Server, seconds: float) -> dict[str, Any]:
    said = _run([*words, "-p", str(server.port)], seconds)
    return {
        "generator": "dnsperf",
        "seconds": float(_find(r"Run time \(s\): +([\d.]+)", said)),
        "sent": int(_find(r"Queries sent: +(\d+)", said)),
        "answered": int(_find(r"Queries completed: +(\d+)", said)),
        "lost": int(_find(r"Queries lost: +(\d+)", said)),
        "rcodes": {
            name: int(count) for name, count in re.findall(r"([A-Z]+) (\d+) \([\d.]+%\)", said)
        },
    }


def _sendmmsg(words: list[str], server: Server, seconds: float) -> dict[str, Any]:
    places = {"HOST": server.host, "PORT": str(server.port)}
    told: dict[str, Any] = json.loads(_run([places.get(word, word) for word in words], seconds))
    counts = {
        RCODES[i] if i < len(RCODES) else str(i): n for i, n in enumerate(told["rcodes"]) if n
    }
    return {"generator": "sendmmsg", **told, "rcodes": counts}


def _run(words: list[str], seconds: float) -> str:
    done = subprocess.run(
        [*_PINNED, *words], capture_output=True, text=True, check=False, timeout=seconds + 30
    )
    if done.returncode:
        raise RuntimeError(f"{words[0]} failed: {done.stderr.strip() or done.stdout.strip()}")
    return done.stdout


def _find(pattern: str, said: str) -> str:
    found = re.search(pattern, said)
    if not found:
        raise RuntimeError(f"dnsperf did not say {pattern!r}: {said}")
    return found[1]


def measure(
    server: Server, load: Load, questions: Questions, rate: int = 0, max_loss: float = MAX_LOSS
) -> dict[str, Any]:
    """Run *load* once; return its result, its cost, and why it is void, if it is."""
    server_before, load_before, cores_before = server.cpu_seconds(), children_cpu(), busy_cores()
    started = time.monotonic()
    told = load(server)
    wall = (
        time.monotonic() - started
    )  # longer than the load: includes start and end of the generator
    server_cpu, load_cpu = server.cpu_seconds() - server_before, children_cpu() - load_before
    cores = {kind: after - cores_before[kind] for kind, after in busy_cores().items()}
    seconds, answered = told["seconds"], told["answered"]
    result = {
        **told,
        "rate": rate,
        "qps": answered / seconds,
        "wrong": _wrong(told),
        "cpu_us": server_cpu / answered * 1e6 if answered else None,
        # At saturation the latency is just the window divided by the rate.
        **({f"{quantile}_us": told[quantile] for quantile in ("p50", "p99")} if rate else {}),
        "loss": 100 * told["lost"] / max(told["sent"], 1),
        "server_busy": server_cpu / seconds,
        "load_busy": load_cpu / wall,
        "others": max(0.0, cores["busy"] - server_cpu - load_cpu) / wall,
        "softirq": cores["softirq"] / wall,
        "steal": cores["steal"] / wall,
    }
    result["void"] = _void(result, 0.0 if server.fixed else questions.nxdomain, rate, max_loss)
    result["saturated"] = "" if rate else _saturated(result)
    return result


def _wrong(told: Mapping[str, Any]) -> int:
    """Count the replies with an unexpected RCODE, or NOERROR without a record."""
    right = told["rcodes"].get("NOERROR", 0) + told["rcodes"].get("NXDOMAIN", 0)
    return int(told["answered"] - right + told.get("empty", 0))


def _void(result: Mapping[str, Any], nxdomain: float, rate: int, max_loss: float) -> str:
    """Return why this run is void; empty if it is not."""
    answered, rcodes = result["answered"], result["rcodes"]
    if not answered:
        return "nothing was answered"
    wrong = result["wrong"]
    if wrong / answered > 0.001:
        return f"{wrong} wrong replies: {rcodes}, {result.get('empty', 0)} empty"
    if abs(rcodes.get("NXDOMAIN", 0) / answered - nxdomain) > 0.01:
        return f"{rcodes.get('NXDOMAIN', 0) / answered:.1%} NXDOMAIN instead of {nxdomain:.1%}"
    if rate and result["sent"] < 0.98 * rate * result["seconds"]:
        return f"the generator sent {result['sent'] / result['seconds']:,.0f} per second only"
    if rate and result["loss"] > max_loss:
        return f"{result['loss']:.1f} % lost"
    return ""


def _saturated(result: Mapping[str, Any]) -> str:
    """Return the saturated side. sendmmsg never sleeps, so it always looks busy."""
    if result["server_busy"] >= BUSY:
        return "server"
    return (
        "generator"
        if result["load_busy"] >= BUSY and result["generator"] == "dnsperf"
        else "nobody"
    )


def children_cpu() -> float:
    """Return the CPU seconds of all ended child processes."""
    used = resource.getrusage(
        resource.RUSAGE_CHILDREN
    )  # ended children are generators, never servers
    return used.ru_utime + used.ru_stime


def busy_cores() -> dict[str, float]:
    """Return the seconds that our cores have spent on processes, soft interrupts, and steal."""
    found = {"busy": 0.0, "softirq": 0.0, "steal": 0.0}
    for line in Path("/proc/stat").read_text().splitlines():
        name, *ticks = line.split()
        if name in {f"cpu{core}" for core in (CORES[0], CORES[-1])}:
            user, nice, system, _, _, _, softirq, steal, *_ = map(int, ticks)
            found["busy"] += (user + nice + system) / TICK
            found["softirq"] += softirq / TICK
            found["steal"] += steal / TICK
    return found
