"""The pool: workers that answer inference requests from the broker."""
