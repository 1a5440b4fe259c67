"""Bytes to pixels, within limits: the HTTP side's half before the queue."""
