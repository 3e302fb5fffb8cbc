"""Commands that end by themselves, forked from a process that has imported ``ingestq`` already.

Most of the processor time of a short command goes into imports, and the tests run thousands. A
forked one has its own process, arguments, folder, settings and standard streams, and ends as any
Python process. What comes before ``ingestq.cli.main``, such as options of Python and the locale, is
that of the tests, so a command with another environment has to be started as usual.

``python -m tests.forked_command serve COMMAND`` prints the path of its socket, and serves until its
stdin ends. ``python -S tests/forked_command.py run SOCKET ARGUMENT...`` runs a command in the
current folder, with its own settings and standard streams, and exits with its code.
"""

import json
import os
import select
import shutil
import signal
import socket
import struct
import sys
import tempfile
from pathlib import Path

SETTING = "INGESTQ_"
STREAMS = 3
LENGTH = struct.Struct("!I")
CODE = struct.Struct("!i")


def run(path: str, arguments: list[str]) -> int:
    """Run a command in the server at ``path`` and return its exit code."""
    settings = {name: value for name, value in os.environ.items() if name.startswith(SETTING)}
    request = json.dumps([str(Path.cwd()), settings, arguments]).encode()
    with socket.socket(socket.AF_UNIX) as connection:
        connection.connect(path)
        socket.send_fds(connection, [LENGTH.pack(len(request))], range(STREAMS))
        connection.sendall(request)
        code: int = CODE.unpack(_received(connection, CODE.size))[0]
    return code


def serve(command: str) -> None:
    """Run ``command`` for each client. Returns in the processes of the commands."""
    import ingestq.cli.application  # noqa: F401 - what makes commands slow to start

    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # nobody waits for those that fork commands
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the end of stdin ends it
    folder = tempfile.mkdtemp(prefix="ingestq-commands-")
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(f"{folder}/s")
        listening.listen()
        print(f"{folder}/s", flush=True)  # noqa: T201
        while True:
            ready, _, _ = select.select([sys.stdin, listening], [], [])
            if sys.stdin in ready:
                shutil.rmtree(folder)
                os._exit(0)
            connection, _ = listening.accept()
            if os.fork() == 0:
                break
            connection.close()
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    _become(connection, command)


def _become(connection: socket.socket, command: str) -> None:
    """Become the command that the client asks for. A child; this process waits for it."""
    length, streams, _, _ = socket.recv_fds(connection, LENGTH.size, STREAMS)
    folder, settings, arguments = json.loads(_received(connection, *LENGTH.unpack(length)))
    ended, running = os.pipe()
    child = os.fork()
    if child:
        for descriptor in (*streams, running):
            os.close(descriptor)
        # A client that was killed, because the command took too long, takes it along.
        ready, _, _ = select.select([ended, connection.fileno()], [], [])
        if ended not in ready:
            os.kill(child, signal.SIGKILL)
            os._exit(0)
        _, status = os.waitpid(child, 0)
        connection.sendall(CODE.pack(os.waitstatus_to_exitcode(status)))
        os._exit(0)
    os.close(ended)
    connection.close()
    for number, stream in enumerate(streams):
        os.dup2(stream, number)
        os.close(stream)
    os.chdir(folder)
    for name in [name for name in os.environ if name.startswith(SETTING)]:
        del os.environ[name]
    os.environ.update(settings)
    sys.argv = [command, *arguments]
    main_module = sys.modules["__main__"]  # which processes of a pool import, and usage names
    main_module.__file__, main_module.__spec__, main_module.__package__ = command, None, None


def _received(connection: socket.socket, size: int) -> bytes:
    received = b""
    while len(received) < size:
        part = connection.recv(size - len(received))
        if not part:
            raise ConnectionError("the server of forked commands has ended")
        received += part
    return received


if __name__ == "__main__":
    if sys.argv[1] == "run":
        code = run(sys.argv[2], sys.argv[3:])
        if code < 0:
            os.kill(os.getpid(), -code)
        sys.exit(code)
    serve(sys.argv[2])
    from ingestq.cli import main

    main()
