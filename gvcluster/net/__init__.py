"""What does: gevent and sockets, no policy (ARCHITECTURE.md)."""
