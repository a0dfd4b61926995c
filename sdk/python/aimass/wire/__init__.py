"""Bytes on the wire: identities, topics, tensors, messages, and the one codec for HTTP and MQTT.

Pure: no I/O, no clock, no threads. Bytes come in, values go out, and garbage raises ``WireError`` and nothing else.
The normative text with its rule ids is ``sdk/spec/WIRE.md`` and ``sdk/spec/TOPICS.md``; byte vectors lie beside them.

    ids       who may be named, and how              topics    which topic says what
    tensor    one array <-> little-endian bytes      values    one array <-> JSON numbers and strings
    messages  request, response, error reply         header    JSON text <-> checked plain values
    oip       messages <-> JSON header + raw tensors (HTTP)
    frame     the same with an 8-byte preamble (MQTT)
"""
