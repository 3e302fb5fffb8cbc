"""Several machines on one: hosts with a network, a hostname and a process table of their own.

    host = network.host("a", ingestq)
    host.start()
    host.cut(Service.REDIS)

Redis and Qdrant are each behind a switch of their own, and each host has a cable to either, so that
it can be cut off from one and reach the other. A cable that is cut says nothing: packets vanish, as
they do in a network that is partitioned, and no connection is closed.
"""

import ctypes
import os
import signal
import socket
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from enum import Enum
from pathlib import Path
from typing import Final, Self

from ingestq.core import events
from tests.command import CommandResult, Ingestq

CLONE_NEWNET: Final = 0x40000000
NAMESPACES: Final = Path("/run/netns")
SECONDS: Final = 150.0
"""Longer than a command takes on a busy machine."""
IN_A_HOST: Final = 'echo "$0" > /proc/sys/kernel/hostname && exec "$@"'


class Service(Enum):
    """What a host has a cable to; the value is the third byte of the addresses behind it."""

    REDIS = 1
    QDRANT = 2

    @property
    def switch(self) -> str:
        return self.name.lower()

    @property
    def address(self) -> str:
        """The address of the service itself."""
        return f"10.77.{self.value}.1"


BOTH: Final = (Service.REDIS, Service.QDRANT)


@dataclass
class Host:
    """A machine on which one ``ingestq worker`` runs. ``log`` has what all of them have said."""

    name: str
    namespace: str
    hub: str
    ingestq: Ingestq
    log: Path
    number: int
    """The last byte of its addresses."""
    cables: list[subprocess.Popen[str]] = field(default_factory=list)
    _worker: subprocess.Popen[bytes] | None = None
    _log_at_start: int = 0

    def address(self, service: Service) -> str:
        """Return the address from which it reaches ``service``."""
        return f"10.77.{service.value}.{self.number}"

    def start(self) -> None:
        """Start the worker; it takes some seconds until `works`."""
        isolated = ["unshare", "--uts", "--pid", "--fork", "--kill-child", "--mount-proc"]
        with self.log.open("ab") as log:
            self._log_at_start = log.tell()
            self._worker = subprocess.Popen(
                [
                    *("ip", "netns", "exec", self.namespace, *isolated),
                    *("sh", "-c", IN_A_HOST, self.name, *self.ingestq.command("worker")),
                ],
                cwd=self.ingestq.folder,
                env=self.ingestq.environment(),
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=log,
            )

    def works(self) -> bool:
        """Return whether the worker that was started last has reached all services."""
        assert self._worker is not None
        assert self._worker.poll() is None, self.said()
        return events.WORKER_STARTED.encode() in self.log.read_bytes()[self._log_at_start :]

    def run(self, *arguments: str | Path) -> CommandResult:
        """Run a command on the host."""
        inside = ["ip", "netns", "exec", self.namespace]
        ran = subprocess.run(
            [*inside, *self.ingestq.command(*arguments)],
            cwd=self.ingestq.folder,
            env=self.ingestq.environment(),
            capture_output=True,
            text=True,
            timeout=SECONDS,
            check=False,
        )
        return CommandResult(ran.returncode, ran.stdout, ran.stderr)

    def cut(self, *services: Service) -> None:
        """Let nothing pass between the host and ``services`` any more."""
        for service in services:
            ip("-n", self.hub, "link", "set", port_of(service, self.name), "nomaster")

    def heal(self, *services: Service) -> None:
        """Let everything pass again."""
        for service in services:
            port = port_of(service, self.name)
            ip("-n", self.hub, "link", "set", port, "master", service.switch)

    def lose(self) -> None:
        """Take the power: all its processes die, and its cables are dead."""
        self.cut(*BOTH)
        self._kill()

    def end(self) -> None:
        """Stop the worker, and assert that it ends well."""
        assert self._worker is not None
        # The process below is the first one of the host, on which all others depend.
        children = Path(f"/proc/{self._worker.pid}/task/{self._worker.pid}/children")
        os.kill(int(children.read_text(encoding="utf-8")), signal.SIGTERM)
        assert self._worker.wait(SECONDS) == 0, self.said()
        assert "Traceback" not in self.said(), self.said()

    def said(self) -> str:
        return self.log.read_text(encoding="utf-8", errors="replace")

    def close(self) -> None:
        """Kill everything on the host."""
        self._kill()
        for cable in self.cables:
            cable.kill()
            cable.communicate()

    def _kill(self) -> None:
        if self._worker is not None:
            self._worker.kill()
            self._worker.wait(SECONDS)


@dataclass
class Network:
    """Two switches, and the hosts on them. ``hub`` is the namespace of the switches."""

    prefix: str
    hub: str
    hosts: dict[str, Host] = field(default_factory=dict)

    @classmethod
    def make(cls) -> Self:
        """Make a network without hosts. Raises OSError if the system forbids namespaces."""
        prefix = f"ingestq-{os.getpid()}"
        made = cls(prefix, f"{prefix}-hub")
        command = ["ip", "netns", "add", made.hub]
        allowed = subprocess.run(command, capture_output=True, text=True, check=False)
        if allowed.returncode:
            raise OSError(allowed.stderr.strip())
        for service in BOTH:
            # Its own address, not that of a port: a port without a switch must not answer for it.
            own = f"02:00:00:00:00:0{service.value}"
            ip("-n", made.hub, "link", "add", service.switch, "address", own, "type", "bridge")
            address = f"{service.address}/24"
            ip("-n", made.hub, "address", "add", address, "dev", service.switch)
            ip("-n", made.hub, "link", "set", service.switch, "up")
        return made

    def host(self, name: str, ingestq: Ingestq, *, slow: bool = False) -> Host:
        """Connect a host; ``slow`` if its cables are long and bad."""
        namespace = self.namespace(name)
        log = ingestq.folder / "log"
        log.touch()
        number = len(self.hosts) + 2  # the first one is the service
        host = self.hosts[name] = Host(name, namespace, self.hub, ingestq, log, number)
        ip("-n", namespace, "link", "set", "lo", "up")
        for service in BOTH:
            end, port = service.switch, port_of(service, name)
            if slow:
                host.cables.append(slow_cable(namespace, end, port, self.hub))
            else:
                peer = ("peer", "name", port, "netns", self.hub)
                ip("-n", namespace, "link", "add", end, "type", "veth", *peer)
            ip("-n", namespace, "address", "add", f"{host.address(service)}/24", "dev", end)
            ip("-n", namespace, "link", "set", end, "up")
            ip("-n", self.hub, "link", "set", port, "master", service.switch, "up")
        return host

    def namespace(self, name: str) -> str:
        """Make a network namespace; return its name."""
        full = f"{self.prefix}-{name}"
        ip("netns", "add", full)
        return full

    def listener(self, service: Service) -> socket.socket:
        """Return a socket that listens on a free port at the address of ``service``."""

        def listen() -> socket.socket:
            # Only this thread enters the namespace, and it ends.
            with (NAMESPACES / self.hub).open("rb") as namespace:
                if ctypes.CDLL(None, use_errno=True).setns(namespace.fileno(), CLONE_NEWNET):
                    raise OSError(ctypes.get_errno(), "setns")
            return socket.create_server((service.address, 0))

        with ThreadPoolExecutor(1) as thread:
            return thread.submit(listen).result()

    def inside(self, *command: str | Path) -> list[str | Path]:
        """Return the command that runs ``command`` where the switches are."""
        return ["ip", "netns", "exec", self.hub, *command]

    def close(self) -> None:
        """Kill everything on all hosts, and remove them."""
        for host in self.hosts.values():
            host.close()
        for namespace in NAMESPACES.glob(f"{self.prefix}-*"):
            subprocess.run(["ip", "netns", "delete", namespace.name], check=True)


def port_of(service: Service, host: str) -> str:
    """Return the name of the port of the switch at which the host is."""
    return f"{service.switch}-{host}"


def slow_cable(namespace: str, end: str, port: str, hub: str) -> subprocess.Popen[str]:
    """Lay a cable, and return the process that is it."""
    command = [sys.executable, "-m", "tests.slow_cable", end, port, hub]
    cable = subprocess.Popen(
        ["ip", "netns", "exec", namespace, *command],
        cwd=Path(__file__).parents[1],
        stdout=subprocess.PIPE,
        text=True,
    )
    assert cable.stdout is not None
    assert cable.stdout.readline() == "ready\n", "there is no cable"
    return cable


def ip(*arguments: str) -> None:
    """Run ``ip``. Raises AssertionError with what it says if it fails."""
    ran = subprocess.run(["ip", *arguments], capture_output=True, text=True, check=False)
    assert ran.returncode == 0, f"ip {' '.join(arguments)}: {ran.stderr}"
