"""Helpers for tests of code that uses the crew, registered as a pytest plugin."""
