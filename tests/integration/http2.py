"""HTTP/2 frame by frame (RFC 9113), for who means to break it: nothing here sends what a library would not refuse."""

import struct

PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
DATA, HEADERS, RST_STREAM, SETTINGS, PING, CONTINUATION = 0, 1, 3, 4, 6, 9
END_STREAM, END_HEADERS, ACK = 1, 4, 1
HEADER_BYTES = 9


def frame(kind: int, flags: int = 0, stream: int = 0, payload: bytes = b"") -> bytes:
    """One frame."""
    return struct.pack(">I", len(payload))[1:] + bytes([kind, flags]) + struct.pack(">I", stream) + payload


def greeting(window_bytes: int | None = None) -> bytes:
    """Preface and settings; `window_bytes`: what the peer may send on a stream before it is asked for more."""
    settings = b"" if window_bytes is None else struct.pack(">HI", 4, window_bytes)
    return PREFACE + frame(SETTINGS, payload=settings) + frame(SETTINGS, ACK)


def header(name: str, value: str) -> bytes:
    """A literal of HPACK, not indexed and not compressed (RFC 7541, 6.2.2)."""
    return b"\x00" + _string(name) + _string(value)


def call(path: str, content_type: str = "application/grpc") -> bytes:
    """The header block of a gRPC call."""
    fields = {":method": "POST", ":scheme": "http", ":path": path, ":authority": "x", "te": "trailers"}
    return b"".join(header(*field) for field in {**fields, "content-type": content_type}.items())


def _string(text: str) -> bytes:
    size = len(text)
    if size < 127:
        return bytes([size]) + text.encode()
    rest, size = b"\x7f", size - 127
    while size >= 128:
        rest, size = rest + bytes([size % 128 + 128]), size // 128
    return rest + bytes([size]) + text.encode()
