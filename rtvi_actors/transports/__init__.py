"""Connections to one client each: framing and sizes, no actors, no RTVI semantics (the contract is `streams.py`).

`memory` joins two ends in one process, `asgi` is a WebSocket under any ASGI server, `serializers` are the two dialects.
Files here import no sibling but `serializers`, and nothing beyond the core dependencies until a connection needs it.
"""

from __future__ import annotations

from rtvi_actors.transports import asgi, memory, serializers

__all__ = ["asgi", "memory", "serializers"]
