"""Bytes on the wire: identities, topics, tensors, messages, and the one codec for HTTP and MQTT.

Pure: no I/O, no clock, no threads. Bytes come in, values go out, and garbage raises ``WireError`` and nothing else.
The normative text with its rule ids is ``sdk/spec/WIRE.md`` and ``sdk/spec/TOPICS.md``; byte vectors lie beside them.

    ids       who may be named, and how              topics    which topic says what
    tensor    one array <-> little-endian bytes      values    one array <-> JSON numbers and strings
    messages  request, response, error reply         header    JSON text <-> checked plain values
    codec     one array <-> fewer bytes, by name        affine    floats <-> 8-bit and 4-bit codes
    oip       messages <-> JSON header + raw tensors (HTTP)
    frame     the same with an 8-byte preamble (MQTT)     zstd      the door to zstandard
"""
