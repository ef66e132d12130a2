"""A `python` for tests that start many: each is forked from a process that has imported all that is slow once.

`WarmPython(folder)` starts that process; the program `folder/python` sends it arguments, folder, environment, input and
outputs, passes signals on to what it runs, and ends as that ends. It is a process of its own, and as it would be alone.
"""

import json
import os
import runpy
import signal
import socket
import struct
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
SECONDS = 120  # what takes longer has found a bug
SLOW = ("torch._dynamo", "torch.distributed.fsdp", "torch.utils.tensorboard", "nvidia.dali.fn", "matplotlib.figure")
SLOW += ("safetensors.torch", "sklearn.metrics", "scipy.stats", "numba", "jinja2", "report.build")
SMALL = {"train.py ": "TRAIN_OPTIONS", "-m sharding pack ": "PACK_OPTIONS"}  # variables with options for such a call
CLIENT = """#!{python} -IS
import json, os, signal, socket, struct, sys
server = socket.socket(socket.AF_UNIX)
server.connect({address!r})
message = json.dumps([sys.argv[1:], os.getcwd(), dict(os.environ)]).encode()
socket.send_fds(server, [struct.pack(">I", len(message))], [0, 1, 2])
server.sendall(message)
process, = struct.unpack(">i", server.recv(4, socket.MSG_WAITALL))
for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGUSR1):
    signal.signal(number, lambda number, frame: os.kill(process, number))
status, = struct.unpack(">i", server.recv(4, socket.MSG_WAITALL))
if status < 0:
    if status != -signal.SIGKILL:
        signal.signal(-status, signal.SIG_DFL)
    os.kill(os.getpid(), -status)
sys.exit(status)
"""


class WarmPython:
    """The process that `folder/python` asks; it ends with `close`."""

    def __init__(self, folder: Path) -> None:
        address = str(folder / "socket")
        self._server = subprocess.Popen(
            [sys.executable, "-m", "tests.warm_python", address], cwd=ROOT, stdout=subprocess.PIPE, text=True
        )
        assert self._server.stdout is not None and self._server.stdout.readline() == "ready\n"
        self.program = folder / "python"
        self.program.write_text(CLIENT.format(python=sys.executable, address=address))
        self.program.chmod(0o755)

    def close(self) -> None:
        self._server.terminate()
        self._server.communicate()


def serve(address: str) -> None:
    """Run what the programs ask for, for ever."""
    for module in SLOW:
        __import__(module)
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # nobody waits for those that answer
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(address)
        listener.listen()
        sys.stdout.write("ready\n")
        sys.stdout.flush()
        while True:
            connection, _ = listener.accept()
            with connection:
                header, streams, _, _ = socket.recv_fds(connection, 4, 3)
                size = struct.unpack(">I", header)[0]
                arguments, folder, environment = json.loads(connection.recv(size, socket.MSG_WAITALL))
                if not os.fork():
                    listener.close()
                    answer(connection, streams, arguments, folder, environment)
                for stream in streams:
                    os.close(stream)


def answer(
    connection: socket.socket, streams: list[int], arguments: list[str], folder: str, environment: dict[str, str]
) -> None:
    """Run one thing; its process number and how it ended go back. This process does not return."""
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    child = os.fork()
    if not child:
        connection.close()
        become(arguments, folder, environment, streams)
    for stream in streams:
        os.close(stream)
    connection.sendall(struct.pack(">i", child))
    _, status = os.waitpid(child, 0)
    connection.sendall(struct.pack(">i", os.waitstatus_to_exitcode(status)))
    os._exit(0)


def become(arguments: list[str], folder: str, environment: dict[str, str], streams: list[int]) -> None:
    """This process becomes `python ARGUMENTS…`, started in `folder`; it does not return."""
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    signal.alarm(SECONDS)
    for number, stream in enumerate(streams):
        os.dup2(stream, number)
    os.chdir(folder)
    os.environ.clear()
    os.environ.update(environment)
    status = 1
    try:
        run_python(arguments, folder)
        status = 0
    except SystemExit as end:
        status = end.code if isinstance(end.code, int) else int(end.code is not None)
    except BaseException:  # noqa: BLE001 - as Python itself: the trace is printed, the status is 1
        sys.excepthook(*sys.exc_info())
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)


def run_python(arguments: list[str], folder: str) -> None:
    """What `python [-u] ARGUMENTS…` does: `-m MODULE …`, `-c CODE`, `- …` (code from the input), or `FILE …`."""
    arguments = arguments[arguments[0] == "-u" :]  # torchrun's; what is run here flushes at its end
    for call, variable in SMALL.items():
        if " ".join(arguments).startswith(call):
            arguments = [*arguments, *os.environ.get(variable, "").split()]
    kind, *rest = arguments
    sys.argv, sys.path[0] = arguments, folder
    if kind == "-m":
        sys.argv = rest
        runpy.run_module(rest[0], run_name="__main__", alter_sys=True)
    elif kind == "-c":
        exec(compile(rest[0], "<string>", "exec"), {"__name__": "__main__"})
    elif kind == "-":
        exec(compile(sys.stdin.read(), "<stdin>", "exec"), {"__name__": "__main__"})
    else:
        sys.path[0] = str(Path(kind).resolve().parent)
        runpy.run_path(kind, run_name="__main__")


if __name__ == "__main__":
    serve(sys.argv[1])
