"""Identity: the certificate authority, its revocation list and when to renew.

The only door to X.509 in the cloud. Knows nothing of stores, HTTP or the broker.
"""
