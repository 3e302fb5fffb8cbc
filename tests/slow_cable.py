"""A long, bad network cable between two network namespaces: it delays frames and loses some.

    ip netns exec HOST python -m tests.slow_cable END OTHER_END HUB

makes the interface END in the namespace that it runs in, and OTHER_END in the namespace HUB; it
prints a line when both are there. Kernels that can do this by themselves (netem) are rare in CI.
"""

import fcntl
import os
import random
import select
import struct
import subprocess
import sys
import time
from collections import deque
from typing import Final

TUNSETIFF: Final = 0x400454CA
IFF_TAP: Final = 0x0002
IFF_NO_PI: Final = 0x1000
FRAME_BYTES: Final = 65_536
DELAY_SECONDS: Final = 0.05
"""Each way, as between continents."""
LOSS: Final = 0.02
FRAMES: Final = 1000
"""Frames under way in one direction; a further one is lost, as in a full router."""


def make_interface(name: str) -> int:
    """Make an interface; return the file from which to read, and to which to write, its frames."""
    tap = os.open("/dev/net/tun", os.O_RDWR | os.O_NONBLOCK)
    fcntl.ioctl(tap, TUNSETIFF, struct.pack("16sH22x", name.encode(), IFF_TAP | IFF_NO_PI))
    return tap


def carry(one: int, other: int) -> None:
    """Carry frames between the two interfaces, for ever."""
    opposite = {one: other, other: one}
    under_way: dict[int, deque[tuple[float, bytes]]] = {one: deque(), other: deque()}
    dice = random.Random(0)
    while True:
        due = [frames[0][0] for frames in under_way.values() if frames]
        patience = max(0.0, min(due) - time.monotonic()) if due else None
        readable, _, _ = select.select([one, other], [], [], patience)
        for tap in readable:
            frame = os.read(tap, FRAME_BYTES)
            frames = under_way[opposite[tap]]
            if dice.random() >= LOSS and len(frames) < FRAMES:
                frames.append((time.monotonic() + DELAY_SECONDS, frame))
        for tap, frames in under_way.items():
            while frames and frames[0][0] <= time.monotonic():
                deliver(tap, frames.popleft()[1])


def deliver(tap: int, frame: bytes) -> None:
    try:
        os.write(tap, frame)
    except OSError:  # that end is down, or has no room: the frame is lost
        return


if __name__ == "__main__":
    end, other_end, hub = sys.argv[1:]
    taps = make_interface(end), make_interface(other_end)
    subprocess.run(["ip", "link", "set", other_end, "netns", hub], check=True)
    print("ready", flush=True)  # noqa: T201
    carry(*taps)
