"""Large immutable bytes (models, manifests), named by their SHA-256. Knows nothing of models or devices."""
