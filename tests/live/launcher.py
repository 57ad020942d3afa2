"""Do to a program what systemd's socket activation does: launcher.py FD,FD,… PROGRAM WORD …

The descriptors become 3, 4, …, the environment says so with our own process id, and the program
takes our place.
"""

import fcntl
import os
import sys


def main() -> None:
    numbers = [int(number) for number in sys.argv[1].split(",")]
    # Out of the way first: the place of one may be that of another.
    aside = [fcntl.fcntl(number, fcntl.F_DUPFD_CLOEXEC, 100) for number in numbers]
    for number in numbers:
        os.close(number)
    for place, number in enumerate(aside, 3):
        os.dup2(number, place)
    names = ":".join(["dns"] * len(numbers))
    os.environ.update(
        LISTEN_FDS=str(len(numbers)), LISTEN_PID=str(os.getpid()), LISTEN_FDNAMES=names
    )
    os.execvp(sys.argv[2], sys.argv[2:])


if __name__ == "__main__":
    main()
