"""What the server puts around a session: the page (three files, no build step) and the HTTP rules.

`http` has the rules that hold for every route (JSON errors, origins, body bounds), `tickets` one-use tokens, `uploads`
what clients send as files, `pages` the static files. Imported by `rtvi_actors.server` only; needs the `server` extra.
"""

from __future__ import annotations
