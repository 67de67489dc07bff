"""An address where connecting neither succeeds nor fails."""

from __future__ import annotations

import errno
import select
import socket
from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager
from typing import Any

from gevent.monkey import get_original

from gvcluster.core.address import Address
from gvcluster.testing.errors import LocalClusterError

# Linux takes backlog + 1 connections, others a few more.
_FILLERS = 16


@contextmanager
def black_hole(host: str = "127.0.0.1") -> Iterator[Address]:
    """Swallow attempts to connect, as a machine does that is gone without a word.

        with black_hole() as address:
            gvcluster.connect(str(address), connect_timeout=0.2)        # fails after 0.2 s, not at once

    It is a socket that listens with a backlog of 0, which is full: the kernel drops every further SYN. It needs neither
    root nor threads.

    Args:
        host: "127.0.0.1" or "::1".

    Returns:
        The address, as long as the `with` lasts.

    Raises:
        LocalClusterError: This kernel takes more connections than it was told to.

    Blocks:
        Some milliseconds, and the hub with it.
    """
    make: Any = get_original("socket", "socket")
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with ExitStack() as stack:
        listener = stack.enter_context(closing(make(family, socket.SOCK_STREAM)))
        listener.bind((host, 0))
        listener.listen(0)
        address = Address(*listener.getsockname()[:2])
        for _ in range(_FILLERS):
            filler = stack.enter_context(closing(make(family, socket.SOCK_STREAM)))
            filler.setblocking(False)
            if filler.connect_ex(address) == errno.EINPROGRESS and not _is_connected(filler):
                break
        else:
            raise LocalClusterError(f"{address} still accepts after {_FILLERS} connections")
        yield address


def _is_connected(filler: Any) -> bool:
    poll = get_original("select", "poll")()
    poll.register(filler.fileno(), select.POLLOUT)
    return bool(poll.poll(20))
