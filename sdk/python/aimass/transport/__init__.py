"""Links to the broker: the protocol (`base`), MQTT (`mqtt`) and in memory (`memory`)."""

from aimass.transport.base import Message, Receipt, TlsFiles, Transport, Will

__all__ = ["Message", "Receipt", "TlsFiles", "Transport", "Will"]
