"""RTVI without I/O: msgspec and the standard library, no actors, no event loop, no clock.

Read in this order, which is also the order of imports: `versions`, `envelope`, `client`, `ui`, `server`, `codec`,
`handshake`, `pcm`, `files`, `sentences`, `segments`. Bytes go in at `codec.decode_envelope` and come out at
`codec.encode_server`; between them are Structs.
"""
