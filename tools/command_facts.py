"""What gencommands.py adds to the servers' own words: reviewed by hand, and looked through again with every version."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

from gvcluster.core.command_spec import Command, KeySpec

# What to use instead of a command that would change a connection for all who share it, and which commands these are.
# All are refused on every path but connection(node), which discards its connection afterwards.
_INSTEAD = (
    ("Use the option db=", ["SELECT"]),
    ("Use the options username= and password=, or credentials=", ["AUTH"]),
    ("Use the options protocol=, username=, password= and client_name=", ["HELLO"]),
    ("Use the option client_name=", ["CLIENT SETNAME"]),
    ("Use the option client_info=", ["CLIENT SETINFO"]),
    ("Use the option read_from=", ["READONLY", "READWRITE"]),
    ("Use disconnect() or close()", ["QUIT"]),
    ("Use transaction()", ["MULTI", "EXEC", "DISCARD", "WATCH", "UNWATCH"]),
    # Of Garnet: WATCH, for keys of one of its two stores.
    ("Use transaction()", ["WATCHMS", "WATCHOS"]),
    ("Use cluster.pubsub()", ["SUBSCRIBE", "PSUBSCRIBE", "SSUBSCRIBE", "UNSUBSCRIBE", "PUNSUBSCRIBE", "SUNSUBSCRIBE"]),
    ("Redirects are followed for you", ["ASKING"]),
    # After these the replies no longer match the commands, or never end.
    ("Use connection(node)", ["MONITOR", "CLIENT REPLY", "SYNC", "PSYNC", "REPLCONF", "CLUSTER SYNCSLOTS"]),
    # Other greenlets would get invalidations, or replies, that they do not expect.
    ("Use connection(node)", ["CLIENT TRACKING", "CLIENT CACHING", "CLIENT CAPA", "RESET", "SCRIPT DEBUG"]),
    # Eviction, last access and expiry of what everybody does there.
    ("Use connection(node)", ["CLIENT NO-EVICT", "CLIENT NO-TOUCH", "CLIENT IMPORT-SOURCE"]),
    # They end, crash or stall the node, and every call that is in flight there. DEBUG also makes up error replies.
    ("Use connection(node)", ["SHUTDOWN", "DEBUG"]),
    # They change nothing, but speak only of what was written on the same connection: on another one they answer at
    # once, and with a number that means nothing.
    ("Write and wait in one connection(node)", ["WAIT", "WAITAOF"]),
    # Redis 6.2 lists these traps for HTTP requests as commands. It closes the connection.
    ("No server runs it: each takes it for an attack and hangs up", ["POST", "HOST:"]),
)
# Not stateful, after some thought: FAILOVER, REPLICAOF and SLAVEOF, which cluster nodes refuse; CLIENT KILL, PAUSE and
# UNBLOCK, ACL, CONFIG and CLUSTER RESET, which change the server, not a connection; CLIENT ID, INFO, GETNAME, GETREDIR
# and TRACKINGINFO, which only tell; RESTORE-ASKING, whose ASKING ends with itself.
STATEFUL = MappingProxyType({name: advice for advice, names in _INSTEAD for name in names})

# Where blocking commands have their timeout, and how many of its units are a second. A position, negative from the end;
# or the option without which the command does not block.
TIMEOUTS: Mapping[str, tuple[int | str, int]] = MappingProxyType(
    {
        "BLMOVE": (-1, 1),
        "BLMPOP": (1, 1),
        "BLPOP": (-1, 1),
        "BRPOP": (-1, 1),
        "BRPOPLPUSH": (-1, 1),
        "BZMPOP": (1, 1),
        "BZPOPMAX": (-1, 1),
        "BZPOPMIN": (-1, 1),
        "WAIT": (-1, 1000),
        "WAITAOF": (-1, 1000),
        "XREAD": ("BLOCK", 1000),
        "XREADGROUP": ("BLOCK", 1000),
    }
)

# Users' code decides what these answer, errors included. So it is with the commands of modules.
SCRIPTS = frozenset({"EVAL", "EVAL_RO", "EVALSHA", "EVALSHA_RO", "FCALL", "FCALL_RO"})

# What other servers know.
_EVERY = (KeySpec(1, last=-1),)
_FIRST = (KeySpec(1),)
_EXTRA = (
    # Redis 6.2 only. A string to compare that is called KEYS is taken for the option: any node answers the same.
    Command("STRALGO", -2, (KeySpec(2, "KEYS", last=1),), read_only=True, movable_keys=True),
    Command("POST", -1),
    Command("HOST:", -1),
    # Garnet, read in its source (2.1.4); not what its users register, nor what needs a preview flag.
    Command("WATCHMS", -2, _EVERY),
    Command("WATCHOS", -2, _EVERY),
    Command("GETWITHETAG", -2, _FIRST, read_only=True),
    Command("GETIFNOTMATCH", -3, _FIRST, read_only=True),
    Command("SETWITHETAG", -3, _FIRST, write=True),
    Command("SETIFMATCH", -4, _FIRST, write=True),
    Command("SETIFGREATER", -4, _FIRST, write=True),
    Command("DELIFGREATER", -3, _FIRST, write=True),
)
EXTRA = MappingProxyType({command.name: command for command in _EXTRA})

# The licence of the descriptions from which servers make their COMMAND reply (src/commands/*.json of Valkey).
NOTICE = """\
The facts about commands come from the command descriptions of Valkey, which are under the BSD 3-Clause License:

Copyright (c) 2024-present, Valkey contributors
Copyright (c) 2006-2020, Redis Ltd.
All rights reserved.

Redistribution and use in source and binary forms, with or without modification, are permitted provided that the
following conditions are met:

    * Redistributions of source code must retain the above copyright notice, this list of conditions and the following
      disclaimer.
    * Redistributions in binary form must reproduce the above copyright notice, this list of conditions and the
      following disclaimer in the documentation and/or other materials provided with the distribution.
    * Neither the name of the copyright holder (of Redis) nor the names of its contributors may be used to endorse or
      promote products derived from this software without specific prior written permission.

THIS SOFTWARE IS PROVIDED BY THE COPYRIGHT HOLDERS AND CONTRIBUTORS "AS IS" AND ANY EXPRESS OR IMPLIED WARRANTIES,
INCLUDING, BUT NOT LIMITED TO, THE IMPLIED WARRANTIES OF MERCHANTABILITY AND FITNESS FOR A PARTICULAR PURPOSE ARE
DISCLAIMED. IN NO EVENT SHALL THE COPYRIGHT OWNER OR CONTRIBUTORS BE LIABLE FOR ANY DIRECT, INDIRECT, INCIDENTAL,
SPECIAL, EXEMPLARY, OR CONSEQUENTIAL DAMAGES (INCLUDING, BUT NOT LIMITED TO, PROCUREMENT OF SUBSTITUTE GOODS OR
SERVICES; LOSS OF USE, DATA, OR PROFITS; OR BUSINESS INTERRUPTION) HOWEVER CAUSED AND ON ANY THEORY OF LIABILITY,
WHETHER IN CONTRACT, STRICT LIABILITY, OR TORT (INCLUDING NEGLIGENCE OR OTHERWISE) ARISING IN ANY WAY OUT OF THE USE
OF THIS SOFTWARE, EVEN IF ADVISED OF THE POSSIBILITY OF SUCH DAMAGE.
"""
