"""The viewer's process as others see it: started, told things, ended. Nobody who flies ever waits for it.

What it is told travels in datagrams on 127.0.0.1: what does not get through, because the viewer is slow, stopped or gone, is
lost, and the next one says the same anew.
"""

from __future__ import annotations

import json
import signal
import socket
import subprocess
import sys
from contextlib import suppress
from dataclasses import dataclass
from typing import IO, Any, cast

from trudi.runtime.child import environment, read_line
from trudi.runtime.robots.base import RobotError
from trudi.runtime.robots.messages import MAX_DATAGRAM, encode_json

PROCESS = "trudi.runtime.viewer.process"
START_S = 60.0
"""How long the viewer's process may take to serve its page; s."""
END_S = 1.0


@dataclass(frozen=True)
class ViewerAddress:
    """Where a viewer is."""

    url: str
    """Of the page."""
    port: int
    """UDP, on 127.0.0.1: where it is told things."""
    pid: int
    """Of its process."""


class ViewerLink:
    """Tells a viewer things, from one thread. It never waits and never raises."""

    def __init__(self, port: int) -> None:
        """`port` is the viewer's UDP port on 127.0.0.1."""
        self._socket = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self._socket.setblocking(False)
        self._socket.connect(("127.0.0.1", port))

    def tell(self, subject: str, body: dict[str, Any]) -> bool:
        """Sends what is to be known of `subject`, numbers and words; False where it did not leave."""
        packet = encode_json({subject: body})
        if len(packet) > MAX_DATAGRAM:
            return False
        for _ in range(2):  # the kernel tells of the last message's fate before it takes the next
            try:
                self._socket.send(packet)
            except ConnectionError:
                continue
            except OSError:  # a queue that is full, or a socket that was closed
                return False
            return True
        return False

    def close(self) -> None:
        """Closes the socket."""
        self._socket.close()


class ViewerProcess:
    """A viewer in a process of its own, which ends with this object or with this process, however that ends."""

    def __init__(self, cfg: dict[str, Any]) -> None:
        """Starts the process; `address` waits until it is ready. `cfg` holds the fields of its `--config`."""
        command = [sys.executable, "-m", PROCESS, "--config", json.dumps(cfg)]
        try:
            # The process watches its standard input, which closes when this process ends.
            self._process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=environment())
        except OSError as error:
            raise RobotError(f"the viewer's process cannot be started: {error}") from error

    def address(self, timeout_s: float = START_S) -> ViewerAddress:
        """Where it is, once it serves its page. RobotError says why it does not; the process has ended then."""
        line = read_line(cast("IO[bytes]", self._process.stdout), timeout_s)
        try:
            said: dict[str, Any] = json.loads(line) if line else {}
            if "error" in said:
                raise RobotError(f"the viewer did not start: {said['error']}")
            return ViewerAddress(said["url"], said["port"], self._process.pid)
        except (ValueError, KeyError, TypeError):
            why = f"was not ready within {timeout_s:g} s" if line is None else "ended before it was ready"
            raise RobotError(f"the viewer's process {why}; leave --view out, or try again") from None
        finally:
            if sys.exc_info()[0] is not None:
                self.close()

    def close(self) -> None:
        """Ends the process: asked first, then killed."""
        process = self._process
        with suppress(ProcessLookupError):
            process.send_signal(signal.SIGTERM)
        try:
            process.wait(timeout=END_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        for stream in (process.stdin, process.stdout):
            if stream is not None:
                stream.close()
