"""Pure: bytes, strings, numbers; no await."""
