"""The two floors and the listing: `core/` decides, `net/` does, and a module imports only from above.

What is imported under `if TYPE_CHECKING:` is exempt: it does not exist at run time.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator

from shape.source import Offence, Source
from shape.state import last_name

PACKAGE = "gvcluster"

# ARCHITECTURE.md's listing. An entry may be a whole package: its modules may import each other.
ORDER = (
    *("_version", "records", "errors", "events", "checks", "busy"),
    *("core.address", "core.slots", "core.formatting", "core.announced", "core.resp", "core.packing"),
    *("core.command_spec", "core.command_table", "core.commands", "core.descriptions", "core.script_text"),
    *("core.steps", "core.members", "core.topology", "core.views", "core.routing", "core.outcome", "core.multi"),
    *("core.doubt", "core.retry"),
    *("core.subscriptions", "core.inbox"),
    *("core.merging", "core.looks", "core.coverage", "core.runs", "core.scan_cursor"),
    *("options", "call_options", "seeds", "tables", "tls", "reports"),
    *("net.forks", "net.doorbell", "net.loop", "net.alarm", "net.turns", "net.large", "net.health"),
    *("net.state", "net.waiter", "net.hoard", "net.dial", "net.transport", "net.tls", "net.handshake", "net.watch"),
    *("net.multiplexed", "net.conversation", "net.opening", "net.exclusive", "net.lanes", "net.pool", "net.doubts"),
    "net.readers",
    *(
        "net.nodes",
        "net.warming",
        "net.refresher",
        "net.failover",
        "net.runtime",
        "net.scripting",
        "net.request",
        "net.inquiry",
        "net.attempt",
        "net.executor",
        "net.reading",
        "net.multi",
        "net.transactions",
        "net.watched",
    ),
    *("net.volley", "net.targets", "net.batch", "net.submission", "net.submitter"),
    *("net.everywhere", "net.survey", "net.elements", "net.scanning", "net.hubs"),
    *("net.listening", "net.question", "net.link", "net.subscription", "net.placement", "net.subscriber"),
    *("pending", "exclusive", "scripts", "pipeline", "transaction", "optimistic", "pubsub", "scan"),
    *("multikey", "caching"),
    "cluster",
    "__init__",
    *("testing", "cli", "compat", "contrib"),
)

# The outside world comes into core as arguments: no I/O, clock, randomness, logging, other threads.
_BANNED_IN_CORE = frozenset(
    "gevent greenlet socket ssl select selectors asyncio subprocess multiprocessing threading _thread signal"
    " time datetime sched random secrets uuid logging warnings".split()
)


def check_core_is_pure(source: Source) -> Iterator[Offence]:
    """`core/` imports nothing that does, waits, measures or draws."""
    if not source.module.startswith(f"{PACKAGE}.core"):
        return
    for node, imported in _imports(source):
        if imported.partition(".")[0] in _BANNED_IN_CORE:
            message = f"core/ decides and never does: take what {imported} gives as an argument"
            yield source.offence(node, "core-is-pure", imported, message)


def check_import_order(source: Source) -> Iterator[Offence]:
    """Every module is in the listing and imports only from modules above it."""
    own = _entry(source.module)
    if own is None:
        message = f"{source.module} is not in the listing: add it to ARCHITECTURE.md and to ORDER in {__name__}"
        yield source.offence(None, "import-order", source.module, message)
        return
    for node, imported in _imports(source):
        entry = _entry(imported)
        if entry is not None and entry > own:
            message = f"{source.module} is above {ORDER[entry]} in the listing, so it may not import it"
            yield source.offence(node, "import-order", ORDER[entry], message)


def _entry(module: str) -> int | None:
    """The place of a module in ORDER; a package is where its last module is; None if it is not ours or not listed."""
    if module == PACKAGE:
        return ORDER.index("__init__")
    if not module.startswith(f"{PACKAGE}."):
        return None
    name = module.removeprefix(f"{PACKAGE}.")
    places = [i for i, entry in enumerate(ORDER) if f"{name}.".startswith(f"{entry}.")]
    places = places or [i for i, entry in enumerate(ORDER) if entry.startswith(f"{name}.")]
    return max(places, default=None)


def _imports(source: Source) -> Iterator[tuple[ast.stmt, str]]:
    """Every module that is imported at run time, wherever in the file, by its absolute name."""
    for node in _run_time_nodes(source.tree):
        if isinstance(node, ast.Import):
            yield from ((node, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = _absolute(source, node)
            names = (f"{base}.{alias.name}" for alias in node.names)
            yield from ((node, name if _entry(name) is not None else base) for name in names)


def _run_time_nodes(node: ast.AST) -> Iterator[ast.AST]:
    yield node
    children = list(ast.iter_child_nodes(node))
    if isinstance(node, ast.If) and last_name(node.test) == "TYPE_CHECKING":
        children = list(node.orelse)
    for child in children:
        yield from _run_time_nodes(child)


def _absolute(source: Source, node: ast.ImportFrom) -> str:
    if not node.level:
        return node.module or ""
    package = source.module.split(".")
    above = node.level - (source.stem == "__init__")
    return ".".join([*package[: len(package) - above], *([node.module] if node.module else [])])
