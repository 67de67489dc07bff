"""What a cluster and a call can be told: names, defaults and units of every option, checked once."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, ClassVar, TypedDict

from gvcluster.checks import SocketOption, callback, flag, one_of, seconds, socket_options, whole_number, word
from gvcluster.core.address import Address
from gvcluster.core.routing import read_policy
from gvcluster.errors import ConfigError
from gvcluster.events import Event
from gvcluster.records import Record

if TYPE_CHECKING:
    import random
    from ssl import SSLContext


_FROM_ZERO = ("db", "max_redirects", "max_waiting")
_FROM_ONE = ("max_reply_bytes", "lanes", "max_in_flight", "max_queued_bytes", "max_connections", "max_blocking")
_MAYBE_SECONDS = ("refresh_interval", "pool_timeout", "max_idle_time", "max_lifetime")
_CHOICES: Mapping[str, tuple[object, ...]] = MappingProxyType(
    {
        "protocol": (2, 3),
        "retry": ("safe", "never"),
        "cross_slot": ("split", "error"),
        "topology_source": ("slots", "nodes"),
        "address_family": ("any", "prefer_ipv4", "prefer_ipv6", "ipv4", "ipv6"),
    }
)


# Instead of a random.Random: a new one for each cluster.
_OF_ITS_OWN: Any = object()


class ClusterOptions(TypedDict, total=False):
    """The keyword arguments of `Cluster`, `connect` and `from_url`; `Options` explains each."""

    username: str | None
    password: str | None
    credentials: Callable[[Address], str | tuple[str | None, str]] | None
    client_name: str | None
    client_info: bool
    protocol: int
    db: int
    connect_timeout: float
    command_timeout: float
    timeout: float
    max_redirects: int
    retry: str
    cross_slot: str
    read_from: str
    rng: random.Random
    topology_source: str
    refresh_interval: float | None
    address_family: str
    socket_options: Sequence[SocketOption]
    mptcp: bool
    address_map: Callable[[Address], Any] | None
    max_reply_bytes: int
    lanes: int
    max_in_flight: int
    max_queued_bytes: int
    max_waiting: int
    max_connections: int
    max_blocking: int
    pool_timeout: float | None
    max_idle_time: float | None
    max_lifetime: float | None
    command_table: Any
    tls: bool | SSLContext
    tls_ca_file: str | None
    tls_cert_file: str | None
    tls_key_file: str | None
    tls_key_password: str | None
    tls_minimum_version: str | None
    tls_server_name: str | Callable[[Address], str | None] | None
    danger_accept_invalid_hostnames: bool
    danger_accept_invalid_certificates: bool
    on_connect: Callable[[Any, BaseException | None], object] | None
    on_disconnect: Callable[[Any, BaseException | None], object] | None
    on_event: Callable[[Event], object] | None
    on_push: Callable[[Any, Any], object] | None


class Options(Record):
    """The options of a cluster, checked. Times are in seconds.

    username, password: sent with HELLO or AUTH on every connection.
    credentials(address): the password, or (user name or None, password), for a new connection to this Address: a token
        that expires, a secret that is changed. It may wait, as long as `connect_timeout` lasts; if it raises, that
        attempt to connect has failed. Connections that are open stay as they are.
    client_name: CLIENT SETNAME of every connection.
    client_info: tell the server the library's name and version (CLIENT SETINFO; old servers may refuse it).
    protocol: 3 (HELLO 3, with a fall-back for servers that refuse it) or 2 (no HELLO is sent).
    db: the database of every connection; in cluster mode only Valkey 9 and newer have more than 0.
    connect_timeout: one attempt to open a connection, handshake included.
    command_timeout: one attempt's wait for its reply, and a node's longest silence while it owes replies.
    timeout: the whole call: waiting, connecting, redirects, retries and the reply.
    max_redirects: how often one call follows MOVED or ASK.
    retry: "safe" repeats only what is proved not executed or read-only; "never" repeats nothing (redirects are
        followed all the same: a redirected command was not executed; nor was a script that the node did not have).
    cross_slot: "split": mget, mset, delete, unlink, exists and touch take keys of any slots, and send a command for
        each slot; "error": they refuse.
    read_from: who serves commands that only read and name a key. "primary"; "prefer_replica": the shard's replicas in
        turn, else the primary; "replica": never the primary; "any": all nodes of the shard in turn; "az:NAME": the
        replicas in this availability zone, else the primary if it is there, else other replicas, else the primary
        (Valkey 9 tells the zones, in CLUSTER SLOTS; where none is told, it is "prefer_replica"). A replica answers with
        what it knows: an older value than you have written or read before, perhaps, or none. Which node that is
        changes from call to call. TOUCH and the commands with a cursor, as HSCAN, go to the primary all the same, and
        so does what may block. A replica that fails is left alone for a while, and the read goes elsewhere.
    rng: chooses nodes and jitter; seed it to reproduce a run.
    topology_source: "slots" (CLUSTER SLOTS) or "nodes" (CLUSTER NODES). Where all nodes refuse the one, or
        at the start none answers it in time, they are asked for the other, over new connections.
    refresh_interval: fetch the slot map every so many seconds (10 % more or less), also where nothing seems wrong.
        None: only when something hints at a change, which is enough for the commands to arrive; but every 30 s where
        `read_from` lets replicas serve, for nothing else tells of one that has come back.
    address_family: "any" tries the addresses of a name in the order of the resolver, "prefer_ipv4" and "prefer_ipv6"
        try those of one family first, "ipv4" and "ipv6" try no others.
    socket_options: (level, name, value) each, for every socket before it connects, after the client's own
        (TCP_NODELAY; keepalive after 15 s; TCP_USER_TIMEOUT 30 s): `[(SOL_SOCKET, SO_REUSEADDR, 1)]`.
    mptcp: connect by Multipath TCP where the kernel has it, else by TCP.
    address_map(address): the Address, or (host, port), to connect to instead of one that a slot map or a redirect names
        (a tunnel, a published port). It must not wait. Raising refuses the address: a node of a map is left out, a
        redirect fails. Seeds are connected to as you write them.
    max_reply_bytes: a longer reply ends the connection. Servers' strings have at most 512 MiB. So does a reply that
        announces more elements than an eighth of it (67 million): the parser makes room for them at once, 8 bytes each.
    lanes: connections per node and hub that ordinary calls share. Each greenlet keeps to one of them, so that its calls
        reach a node in order; submitted commands keep to the first. One is fastest; more help those who wait behind
        others' large replies. Calls with `bulk=True`, or more than 64 KiB to send, have one more lane for themselves,
        opened when it is first needed.
    max_in_flight: how many calls of a lane may be sent and not answered yet; those given up count until their reply is
        in, a pipeline's block counts as one. Others wait, first come, first served, within their own time.
    max_queued_bytes: a lane with so many bytes that the kernel has not taken yet is full, too; and a connection of your
        own ends if you do not receive so many of a stream (SUBSCRIBE, MONITOR).
    max_waiting: how many calls may wait for room on a lane that is full, and how many for an exclusive connection of a
        node while all are lent; others get PoolFull at once.
    max_connections: how many exclusive connections a node may have in each hub, besides its lanes: for `connection()`,
        transactions, and calls whose `command_timeout` is longer than the cluster's. Who finds all of them lent waits,
        first come, first served.
    max_blocking: the same for blocking commands and subscriptions, which keep theirs for long.
    pool_timeout: how long to wait for one of these; then it is PoolTimeout. None: as long as the call may take.
    max_idle_time: an exclusive connection that nobody has used for so long is closed. None: it is kept.
    max_lifetime: an exclusive connection that is older is closed when nobody has it: up to a fifth earlier, at random,
        so that not all are opened anew at once. None: there is no such age.
    command_table: commands of modules, as the path of a JSON file or what would be in it; see `gvcluster.tables`.
    tls: True, or an SSLContext of yours (stdlib's or gevent's), which is used as it is. It holds for all nodes, whoever
        names them. Certificates are checked, and so is whom they are for: what `tls_server_name` says; else the host of
        the address, if it is a name; else the hostname that the slot map tells beside the IP address; else the latter.
    tls_ca_file: the only CAs to trust, as PEM; without it, those of the system.
    tls_cert_file, tls_key_file, tls_key_password: the client certificate and its key, as PEM; one file may hold both.
    tls_minimum_version: "TLSv1.2", which tls=True means, or "TLSv1.3". A context of yours set to less is refused.
    tls_server_name: the name in the certificates, or a function that tells it for an Address; None from it: as without.
    danger_accept_invalid_hostnames: talk to whoever has a certificate of a trusted CA, for whatever name.
    danger_accept_invalid_certificates: talk to anybody. What is sent is encrypted, and anybody may read it.
    on_connect(connection, error): after TCP connect, before anything is sent; or with the error of a failed attempt.
        It may wait, as long as `connect_timeout` lasts.
    on_disconnect(connection, error): error is None when you asked for it.
    on_event(event): see gvcluster.events. It is called by a greenlet of its own, one event after another; it may wait.
    on_push(connection, push): a RESP3 push, a list, that answers nobody. Called in the hub: it must not wait.
    """

    username: str | None = None
    password: str | None = None
    credentials: Callable[[Address], str | tuple[str | None, str]] | None = None
    client_name: str | None = None
    client_info: bool = True
    protocol: int = 3
    db: int = 0
    connect_timeout: float = 2.0
    command_timeout: float = 5.0
    timeout: float = 10.0
    max_redirects: int = 16
    retry: str = "safe"
    cross_slot: str = "split"
    read_from: str = "primary"
    rng: random.Random = _OF_ITS_OWN
    topology_source: str = "slots"
    refresh_interval: float | None = None
    address_family: str = "any"
    socket_options: Sequence[SocketOption] = ()
    mptcp: bool = False
    address_map: Callable[[Address], Any] | None = None
    max_reply_bytes: int = 513 * 2**20
    lanes: int = 1
    max_in_flight: int = 10_000
    max_queued_bytes: int = 64 * 2**20
    max_waiting: int = 100_000
    max_connections: int = 32
    max_blocking: int = 256
    pool_timeout: float | None = None
    max_idle_time: float | None = 300.0
    max_lifetime: float | None = 3600.0
    command_table: Any = None
    tls: bool | SSLContext = False
    tls_ca_file: str | None = None
    tls_cert_file: str | None = None
    tls_key_file: str | None = None
    tls_key_password: str | None = None
    tls_minimum_version: str | None = None
    tls_server_name: str | Callable[[Address], str | None] | None = None
    danger_accept_invalid_hostnames: bool = False
    danger_accept_invalid_certificates: bool = False
    on_connect: Callable[[Any, BaseException | None], object] | None = None
    on_disconnect: Callable[[Any, BaseException | None], object] | None = None
    on_event: Callable[[Event], object] | None = None
    on_push: Callable[[Any, Any], object] | None = None

    _unsaid: ClassVar[tuple[str, ...]] = (
        "password",
        "credentials",
        "address_map",
        "command_table",
        "tls",
        "tls_key_password",
        "on_connect",
        "on_disconnect",
        "on_event",
        "on_push",
        "rng",
    )

    def __post_init__(self) -> None:
        """Check all of them. Raises ConfigError."""
        for check, names in (
            (seconds, ("connect_timeout", "command_timeout", "timeout")),
            (flag, ("client_info", "mptcp")),
            (word, ("username", "password", "client_name")),
            (callback, ("credentials", "address_map", "on_connect", "on_disconnect", "on_event", "on_push")),
        ):
            for name in names:
                check(name, getattr(self, name))
        for name in _MAYBE_SECONDS:
            if getattr(self, name) is not None:
                seconds(name, getattr(self, name))
        for name, allowed in _CHOICES.items():
            one_of(name, getattr(self, name), allowed)
        for name in (*_FROM_ZERO, *_FROM_ONE):
            whole_number(name, getattr(self, name), int(name in _FROM_ONE))
        read_policy(self.read_from)
        self._derive({"socket_options": socket_options(self.socket_options), "rng": _random(self.rng)})
        self._refuse_contradictions()

    def _refuse_contradictions(self) -> None:
        if self.username is not None and self.password is None:
            raise ConfigError("username needs a password")
        if self.credentials is not None and self.password is not None:
            raise ConfigError("give either username and password, or credentials")


def _random(given: object) -> random.Random:
    import random

    if given is not _OF_ITS_OWN and not isinstance(given, random.Random):
        raise ConfigError("rng must be a random.Random")
    return random.Random() if given is _OF_ITS_OWN else given


def options_from(given: ClusterOptions) -> Options:
    """Check the names, then the values. Raises ConfigError with the nearest known name."""
    refuse_unknown(given, Options.__match_args__)
    return Options(**given)


def refuse_unknown(given: Iterable[str], known: Iterable[str]) -> None:
    """Raise ConfigError for the first name that is not known."""
    known = tuple(known)
    for name in given:
        if name not in known:
            import difflib

            near = difflib.get_close_matches(name, known, n=1)
            hint = f"; did you mean {near[0]}?" if near else f"; known are {', '.join(known)}"
            raise ConfigError(f"unknown option {name!r}{hint}")
