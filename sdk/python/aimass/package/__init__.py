"""A model's package and what may be trusted: manifest, desired document, signatures.

Pure: bytes and values in, accepted values or one named refusal out. Files and the clock are somebody else's.
The normative text with its rule ids is ``sdk/spec/MANIFEST.md``.

    keys      P-256 keys                     envelope  signed bytes (DSSE)
    manifest  what a version consists of     desired   what one device shall hold
    golden    inputs with the answers they must give
    trust     the rules: accepted, or refused with a name
"""
