"""Predictions to bytes: maps, pictures and archives for other tools, on the HTTP side."""
