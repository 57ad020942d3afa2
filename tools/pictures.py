"""Make the pictures of README.md from a real run: `python -m tools.pictures [FOLDER]`.

    terminal.svg   20 seconds at a terminal: commands that were run, and what they printed
    ask.png        the console's Ask page in headless Chromium
    *.png          with --all: every page, light and dark, 390, 1280 and 1440 px wide

A demo server is started for it on free ports of loopback. Needs the extra [console], chromium and
chromedriver.
"""

from __future__ import annotations

import argparse
import base64
import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from html import escape
from pathlib import Path
from typing import Final

from tests.live.browser import Browser, browsing

REPOSITORY: Final = Path(__file__).parents[1]
FOLDER: Final = REPOSITORY / "docs" / "images"
MACHINE: Final = "3d8d9930b03989"
BATCH: Final = "17811953f92389"
COMMANDS: Final = (
    "internal-dns dig --as acme/nrt top2.nearest.of.web.internal",
    "internal-dns dig --as globex db.internal",
    "internal-dns explain --as acme batch.internal",
    f"internal-dns machine start {BATCH} --wait",
    "internal-dns dig --as acme batch.internal",
)
ASK: Final = "/ask?name=top2.nearest.of.web.internal&as=acme%2Fnrt"
PAGES: Final = {
    "networks": "/",
    "network": "/networks/24",
    "app": "/networks/24/apps/web",
    "machine": f"/networks/24/apps/web/machines/{MACHINE}",
    "peers": "/networks/24/peers",
    "flycasts": "/networks/24/flycasts",
    "search": "/search?q=wbe",
    "ask": ASK,
    "live": "/live",
    "status": "/status",
}
WIDTHS: Final = (390, 1280, 1440)
HIGHEST: Final = 2_000  # pixels of a page that are shown

# The terminal: sizes in pixels, times in seconds.
CHARACTER, LINE, MARGIN, COLUMNS = 7.8, 19, 18, 96
TYPING, PAUSE, OUTPUT = 0.022, 1.2, 0.04  # a character, after a command's output, a line of it
COLORS: Final = {"32": "#7ee787", "33": "#e3b341", "36": "#79c0ff", "31": "#ff7b72"}
_ESCAPE: Final = re.compile(r"\x1b\[(\d*)m")


@contextmanager
def demo() -> Iterator[tuple[Path, str]]:
    """A demo server in a folder of its own; the folder and the console's URL."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        words = ("dev", "--listen", "127.0.0.1:0", "--admin", "none", "--upstream", "none")
        command = (*program(), *words, "--console", "127.0.0.1:0")
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=folder) as server:
            assert server.stdout is not None
            try:
                for line in server.stdout:
                    if line.startswith("console "):
                        yield folder, line.split()[1]
                        return
                raise SystemExit("the demo server did not start")
            finally:
                server.terminate()


def program() -> tuple[str, ...]:
    return (sys.executable, "-m", "internal_dns")


# ── the terminal ──────────────────────────────────────────────────────────────────────────────────


def output_of(command: str, folder: Path) -> list[str]:
    """Run *command* at a terminal of COLUMNS, so that it prints as to a person."""
    words = command.removeprefix("internal-dns ").split()
    leader, follower = os.openpty()
    environment = {**os.environ, "PYTHONPATH": str(REPOSITORY), "TERM": "xterm"}
    environment.pop("NO_COLOR", None)
    with subprocess.Popen(
        (*program(), *words), cwd=folder, stdin=subprocess.DEVNULL, stdout=follower,
        stderr=follower, env=environment,
    ) as running:  # fmt: skip
        os.close(follower)
        octets = b""
        try:
            while piece := os.read(leader, 65_536):
                octets += piece
        except OSError:  # the other end is closed
            pass
        running.wait()
    os.close(leader)
    return octets.decode().replace("\r\n", "\n").rstrip("\n").split("\n")


def spans(line: str) -> str:
    """A line with its colors as tspans, cut to the width of the terminal."""
    left, color, made = COLUMNS, "", ""
    for at, piece in enumerate(_ESCAPE.split(line)):
        if at % 2:
            color = COLORS.get(piece, "")
            continue
        shown = piece if len(piece) <= left else piece[: left - 1] + "…"
        left -= len(shown)
        fill = f' fill="{color}"' if color else ""
        made += f"<tspan{fill}>{escape(shown)}</tspan>" if shown else ""
        if left <= 0:
            break
    return made


def terminal(run: Sequence[tuple[str, Sequence[str]]]) -> str:
    """An SVG that types each command and shows its output; still where motion is not wanted."""
    body, now, row = [], 0.5, 0

    def add(css: str, text: str, style: str) -> None:
        y = 46 + row * LINE
        body.append(f'<text class="{css}" x="{MARGIN}" y="{y}" style="{style}">{text}</text>')

    for command, lines in run:
        takes = len(command) * TYPING
        prompt = f'<tspan fill="#8b949e">$</tspan> {escape(command)}'
        steps = f"steps({len(command)})"
        add("type", prompt, f"animation-duration:{takes:.2f}s;animation-delay:{now:.2f}s;"
            f"animation-timing-function:{steps}")  # fmt: skip
        now, row = now + takes + 0.3, row + 1
        for line in lines:
            add("line", spans(line), f"animation-delay:{now:.2f}s")
            now, row = now + OUTPUT, row + 1
        now, row = now + PAUSE, row + 1
    width, height = round(2 * MARGIN + COLUMNS * CHARACTER), 46 + row * LINE
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" width="{width}" '
        f'height="{height}" role="img" aria-label="internal-dns at a terminal: dig, explain, '
        f"machine "
        'start, dig again">\n<style>\n'
        "text{font:13px ui-monospace,SFMono-Regular,Menlo,Consolas,'DejaVu Sans Mono',monospace;"
        "fill:#e6edf3;white-space:pre}\n"
        "@media (prefers-reduced-motion:no-preference){\n"
        ".line{animation:show 1ms both}\n.type{animation:type 1s both}\n"
        "@keyframes show{from{opacity:0}to{opacity:1}}\n"
        "@keyframes type{from{clip-path:inset(0 100% 0 0)}to{clip-path:inset(0 0 0 0)}}\n}\n"
        f'</style>\n<rect width="{width}" height="{height}" rx="10" fill="#0d1117"/>\n'
        '<g fill="#30363d"><circle cx="20" cy="16" r="5"/><circle cx="37" cy="16" r="5"/>'
        '<circle cx="54" cy="16" r="5"/></g>\n' + "\n".join(body) + "\n</svg>\n"
    )


# ── the console ───────────────────────────────────────────────────────────────────────────────────


def screenshot(
    browser: Browser, url: str, width: int, scheme: str, file: Path, *, scale: float = 1
) -> None:
    """Write a page as PNG, all of its HIGHEST pixels."""
    browser.cdp(
        "Emulation.setEmulatedMedia",
        features=[{"name": "prefers-color-scheme", "value": scheme}],
    )
    browser.cdp(
        "Emulation.setDeviceMetricsOverride",
        width=width, height=800, deviceScaleFactor=1, mobile=False,
    )  # fmt: skip
    browser.open(url)
    wide, high = browser.run(
        "const d = document.documentElement; return [d.scrollWidth, d.scrollHeight]"
    )
    if wide > width:
        print(f"{url} is {wide} px wide at {width}", file=sys.stderr)
    browser.cdp(
        "Emulation.setDeviceMetricsOverride",
        width=width, height=min(high, HIGHEST), deviceScaleFactor=1, mobile=False,
    )  # fmt: skip
    clip = {"x": 0, "y": 0, "width": width, "height": min(high, HIGHEST), "scale": scale}
    found = browser.cdp("Page.captureScreenshot", clip=clip)
    file.write_bytes(base64.b64decode(found["data"]))


def main() -> None:
    """Write the pictures."""
    arguments = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    arguments.add_argument("folder", nargs="?", type=Path, default=FOLDER)
    arguments.add_argument("--all", action="store_true", help="every page, width and scheme")
    given = arguments.parse_args()
    given.folder.mkdir(parents=True, exist_ok=True)
    with demo() as (folder, login), browsing() as browser:
        base = login.partition("/login")[0]
        browser.open(login)
        if given.all:
            for name, path in PAGES.items():
                for width in WIDTHS:
                    for scheme in ("light", "dark"):
                        file = given.folder / f"{name}-{width}-{scheme}.png"
                        screenshot(browser, base + path, width, scheme, file)
            return
        screenshot(browser, base + ASK, 1_120, "light", given.folder / "ask.png", scale=0.6)
        run = [(command, output_of(command, folder)) for command in COMMANDS]
    (given.folder / "terminal.svg").write_text(terminal(run), encoding="utf-8")


if __name__ == "__main__":
    main()
